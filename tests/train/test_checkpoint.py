import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

from train.checkpoint import NotSaved, latest_step, restore, save


class Layer(eqx.Module):
    weight: Float[Array, "rows columns"]
    bias: Float[Array, " rows"] | None
    activation: Callable
    name: str = eqx.field(static=True)


def make_state(seed: int = 0, bias: bool = False, dtype: Any = jnp.float32) -> dict:
    rng = np.random.default_rng(seed)
    layers = [
        Layer(
            jnp.asarray(rng.normal(size=(2, 3)), dtype),
            jnp.zeros(2) if bias else None,
            jax.nn.relu,
            "dense",
        )
        for _ in range(2)
    ]
    return {
        "layers": layers,
        "optimizer": optax.adam(1e-3).init(eqx.filter(layers, eqx.is_array)),
        "a/b.c ['d']": jnp.asarray([np.nan, -0.0, 1e-45], jnp.float32),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "key": jax.random.key_data(jax.random.key(seed)),
        "step": jnp.asarray(seed),
        "host": rng.integers(0, 2**60, size=4),
        "scalar": np.float32(seed + 0.5),
        "flag": jnp.asarray(bool(seed % 2)),
        "nothing": None,
        "number": 3,
    }


def bits(state: Any) -> list[tuple]:
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return [(a.dtype, a.shape, np.asarray(a).tobytes()) for a in arrays]


def test_what_is_restored_is_what_was_saved_to_the_bit(tmp_path):
    state = make_state(seed=1)
    record = {"config": {"dim": 3, "rate": 1e-3}, "data": "0123", "none": None}
    save(tmp_path, 7, state, record)
    found, found_record = restore(tmp_path, make_state(seed=2))
    assert bits(found) == bits(state) != bits(make_state(seed=2))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found["layers"][0].activation is jax.nn.relu
    assert isinstance(found["host"], np.ndarray)
    assert isinstance(found["step"], jax.Array)
    assert found_record == record


def test_arrays_come_back_to_the_devices_of_the_state(tmp_path):
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec("data")
    )
    save(tmp_path, 0, jnp.arange(4), {})
    found, _ = restore(tmp_path, jax.device_put(jnp.zeros(4, jnp.int32), sharding))
    assert found.sharding == sharding


def test_the_newest_checkpoints_are_kept(tmp_path):
    for step in (0, 5, 10, 15):
        save(tmp_path, step, {"x": jnp.asarray(step)}, {"step": step}, keep=3)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [5, 10, 15]
    assert latest_step(tmp_path) == 15
    for step, expected in ((None, 15), (10, 10)):
        state, record = restore(tmp_path, {"x": jnp.asarray(0)}, step)
        assert state["x"] == record["step"] == expected


def test_a_relative_folder_with_other_files_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "tensorboard").mkdir()
    assert latest_step(folder) is None
    save(folder, 1, jnp.ones(2), {})
    assert latest_step(folder) == 1
    assert (folder / "metrics.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("moment", range(3))
def test_a_save_that_is_cut_off_leaves_the_one_before(tmp_path, monkeypatch, moment):
    save(tmp_path, 1, {"x": jnp.ones(3)}, {"step": 1})
    renames, real = [], os.replace

    def cut(*args, **options):
        renames.append(args)
        if len(renames) > moment:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, cut)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, {"x": jnp.zeros(3)}, {"step": 2}, keep=1)
    assert len(list(tmp_path.iterdir())) == 2
    state, record = restore(tmp_path, {"x": jnp.zeros(3)})
    assert record == {"step": 1}
    assert state["x"].all()
    save(tmp_path, 3, {"x": jnp.zeros(3)}, {"step": 3}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_the_terminal_stays_clean_and_no_thread_stays(tmp_path, capfd, caplog):
    before = threading.active_count()
    with caplog.at_level(logging.WARNING):
        save(tmp_path, 1, make_state(), {})
        restore(tmp_path, make_state())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dtype": jnp.bfloat16}, r"expected bfloat16\[2, 3\], found float32\[2, 3\]"),
        (
            {"bias": True},
            r"\[1\]\.bias`: expected float32\[2\], found nothing",
        ),
    ],
)
def test_a_state_of_another_kind_is_an_error(tmp_path, options, complaint):
    save(tmp_path, 1, make_state(), {})
    with pytest.raises(ValueError, match=complaint):
        restore(tmp_path, make_state(**options))


@pytest.mark.parametrize(
    ("state_like", "complaint"),
    [
        (
            {"x": np.zeros((3, 2))},
            r"`\['x'\]`: expected float64\[3, 2\], found f",
        ),
        ({}, r"`\['x'\]`: expected nothing, found float64\[2, 3\]"),
    ],
)
def test_another_shape_and_an_extra_leaf_are_errors(tmp_path, state_like, complaint):
    save(tmp_path, 1, {"x": np.zeros((2, 3))}, {})
    with pytest.raises(ValueError, match=complaint):
        restore(tmp_path, state_like)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_a_checkpoint_is_an_error(tmp_path, name):
    folder = tmp_path / name
    assert latest_step(folder) is None
    with pytest.raises(FileNotFoundError, match="holds no complete checkpoint"):
        restore(folder, make_state())


def test_a_step_that_was_not_kept_is_an_error(tmp_path):
    save(tmp_path, 4, jnp.ones(2), {})
    with pytest.raises(FileNotFoundError, match=r"`step` 3 is not among .*: \[4\]"):
        restore(tmp_path, jnp.ones(2), 3)


@pytest.mark.parametrize("step", [-1, 3, 4])
def test_a_step_not_after_the_newest_is_an_error(tmp_path, step):
    save(tmp_path, 4, jnp.ones(2), {})
    with pytest.raises(ValueError, match=f"after the newest checkpoint; got {step}"):
        save(tmp_path, step, jnp.ones(2), {})


def test_keeping_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1; got 0"):
        save(tmp_path, 1, jnp.ones(2), {}, keep=0)


def test_without_room_the_checkpoints_before_are_as_they_were(tmp_path, capfd):
    state = {"x": jnp.asarray(np.random.default_rng(0).normal(size=20_000))}
    save(tmp_path, 1, state, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(NotSaved, match="step 2 could not be written .*too large"):
            save(tmp_path, 2, state, {"step": 2}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr() == ("", "")
    assert restore(tmp_path, state)[1] == {"step": 1}
    save(tmp_path, 2, state, {"step": 2}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotSaved, match="step 2 could not be written to .*file"):
        save(tmp_path / "file", 2, {"x": jnp.ones(2)}, {})
