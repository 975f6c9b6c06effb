"""Steps over a mesh of devices: the numbers of one, and what each of them has."""

import dataclasses
import re
import signal
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perceiver_eqx.adapters.byte_context as byte_context
import train.sharding as sharding
from perceiver_eqx.mesh import make_mesh
from tests.helpers import assert_gradients_close
from tests.train.runs import SAME, assert_near, smoke
from train.checkpoint import restore, save
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.loop import train
from train.loss import batch_bits
from train.program import compile_step, layout_of, mesh_for, new_state
from train.sharding import Layout, refusal_in_time


PER_STEP, WINDOW, CONTEXT = 4, 96, 36


def config_of(latent_window, *, context: bool = False, **changes) -> TrainConfig:
    model = ModelConfig(
        bytes_per_step=PER_STEP,
        num_latents=2,
        latent_dim=16,
        num_layers=1 if isinstance(latent_window, int) else 2,
        num_heads=2,
        latent_window=latent_window,
        local_window=6,
        local_conv=3,
        output_layers=1,
        ngrams=(3,),
        ngram_rows=64,
        use_context=context,
        context_layers=int(context),
        context_block=4,
    )
    kind = "pairs" if context else "bytes"
    data = DataConfig(kind=kind, window_bytes=WINDOW, context_bytes=CONTEXT)
    values = {"batch_size": 4, "chunk_steps": 4, "steps": 20, **changes}
    optim = OptimConfig(warmup_steps=2)
    return TrainConfig(model=model, data=data, optim=optim, **values)


def batches_of(config: TrainConfig, count: int) -> list[dict[str, np.ndarray]]:
    """Batches to learn from: each sequence is a few bytes over and over."""
    rng, rows, found = np.random.default_rng(0), config.batch_size, []
    for _ in range(count):
        words = rng.integers(97, 105, (rows, 5), dtype=np.uint8)
        data = np.tile(words, (1, -(-WINDOW // 5)))[:, :WINDOW]
        length = rng.integers(1, WINDOW + 1, rows)
        length[0] = WINDOW  # so that each device has some of them
        batch = {"bytes": data, "length": length}
        if config.model.use_context:
            batch["context"] = np.tile(words, (1, -(-CONTEXT // 5)))[:, :CONTEXT]
            length = rng.integers(0, CONTEXT + 1, rows)
            length[0] = CONTEXT
            batch["context_length"] = length
        found.append(batch)
    return found


def layout(sizes: str, config: TrainConfig) -> Layout:
    return Layout.of(make_mesh(sizes), config)


@pytest.fixture(autouse=True)
def _what_is_small_is_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_SHARDED", 32)
    # So that a device reads some pieces of a context, one after the other.
    monkeypatch.setattr(byte_context, "CONTEXT_PIECE", 8)


def curve(config: TrainConfig, over: Layout | None = None) -> list[dict[str, float]]:
    """The metrics of twenty steps."""
    state = new_state(config, jr.key(0))
    step = compile_step(config, state, over)
    put = partial(jax.tree.map, jnp.asarray) if over is None else over.put_batch
    state = state if over is None else over.put_state(state)
    arrays, found = eqx.filter(state, eqx.is_array), []
    for number, batch in enumerate(batches_of(config, config.steps)):
        arrays, metrics = step(arrays, put(batch), jr.key(number))
        found.append({name: float(x) for name, x in metrics.items()})
    return found


def assert_same_curve(config: TrainConfig, sizes: str) -> None:
    expected, found = curve(config), curve(config, layout(sizes, config))
    assert expected[-1]["bits_per_byte"] < 0.8 * expected[0]["bits_per_byte"]
    for name in expected[0]:
        values = [[metrics[name] for metrics in run] for run in (found, expected)]
        np.testing.assert_allclose(*values, rtol=SAME, err_msg=name)


# Every latent window, and every mesh, with a context and without, ...
RUNS = [
    (1, "data=2", {}),
    (1, "model=2,time=4", {"context": True, "micro_batches": 2}),
    (3, "model=4", {"context": True}),
    (3, "time=4", {"context": True}),
    (None, "time=4", {"micro_batches": 2}),
    (None, "model=2,time=4", {}),
    ((3, None), "data=2,time=2", {"context": True}),
    ((3, None), "model=4", {"micro_batches": 4}),
]


def test_a_run_over_a_mesh_is_that_of_one_device():
    config = config_of(3, micro_batches=2)
    optim = dataclasses.replace(config.optim, name="adamw")
    config = dataclasses.replace(config, optim=optim)
    assert_same_curve(config, "data=2,model=2,time=2")


@pytest.mark.reliability
def test_so_is_one_with_all_there_is():
    config = config_of((3, None), context=True, micro_batches=2)
    assert_same_curve(config, "data=2,model=2,time=2")


@pytest.mark.reliability
@pytest.mark.parametrize(("window", "sizes", "options"), RUNS)
def test_any_run_over_any_mesh_is_that_of_one_device(window, sizes, options):
    assert_same_curve(config_of(window, **options), sizes)


def gradient(config: TrainConfig, over: Layout | None, key=None):
    model = new_state(config, jr.key(0)).model
    (batch,) = batches_of(config, 1)
    loss = partial(batch_bits, chunk_steps=config.chunk_steps)
    put = partial(jax.tree.map, jnp.asarray)
    if over is not None:
        loss, put, model = over.loss, over.put_batch, over.put_state(model)

    @eqx.filter_jit
    @partial(eqx.filter_value_and_grad, has_aux=True)
    def bits(model, batch):
        return loss(model, batch, key)

    return bits(model, put(batch))


def test_gradients_over_devices_are_those_of_one():
    assert_same_gradients(config_of(3, context=True), "model=2,time=2")


@pytest.mark.reliability
@pytest.mark.parametrize("window", [5, (3, None)])
def test_gradients_over_devices_in_time_are_those_of_one(window):
    """Of layers that see a window, and of some that see all."""
    assert_same_gradients(config_of(window), "time=4")


def assert_same_gradients(config: TrainConfig, sizes: str) -> None:
    (expected, count), gradients = gradient(config, None)
    (found, same), others = gradient(config, layout(sizes, config))
    np.testing.assert_allclose(found, expected, rtol=SAME)
    assert count == same
    assert_gradients_close(others, gradients)


@pytest.mark.reliability
def test_rows_over_devices_are_dropped_out_as_on_one():
    config = config_of(2)
    model = dataclasses.replace(config.model, dropout=0.5, num_layers=1)
    config = dataclasses.replace(config, model=model)
    (expected, _), gradients = gradient(config, None, jr.key(1))
    over = layout("data=2", config)
    (found, _), others = gradient(config, over, jr.key(1))
    np.testing.assert_allclose(found, expected, rtol=SAME)
    assert_gradients_close(others, gradients)


@pytest.mark.parametrize(
    ("window", "dtype", "chunk_steps", "mesh"),
    [
        (3, "float32", 4, "data=2,time=3"),
        (None, "bfloat16", 4, "data=2,time=3"),
        (None, "float32", 4, "data=2,time=1"),  # a ring without a fused kernel
        (9, "bfloat16", 4, "data=2,time=1"),  # a window longer than a chunk
    ],
)
def test_without_a_word_devices_lie_where_that_is_fast(
    window, dtype, chunk_steps, mesh
):
    config = config_of(window, chunk_steps=chunk_steps)
    model = dataclasses.replace(config.model, dtype=dtype)
    assert mesh_for(dataclasses.replace(config, model=model), 6) == mesh


@given(
    rows=st.integers(1, 3),
    size=st.integers(1, 90),
    devices=st.sampled_from([1, 2, 4]),
    chunk_steps=st.integers(1, 9),
    reach=st.integers(0, 9),
)
def test_every_byte_is_dealt_to_one_device_in_its_place(
    rows, size, devices, chunk_steps, reach
):
    mesh = make_mesh({"time": devices}, jax.devices()[:devices])
    reach = min(reach, chunk_steps)
    over = Layout(mesh, ("data", "model"), ("time",), chunk_steps, PER_STEP, reach)
    data = np.arange(rows * size).reshape(rows, size) % 251 + 1
    dealt = over.deal({"bytes": data})["bytes"]
    own = dealt.shape[2]
    run = min(chunk_steps * PER_STEP, own)
    assert dealt.shape[:2] == (rows, devices)
    assert run % PER_STEP == own % run == 0
    assert run >= reach * PER_STEP
    in_order = dealt.reshape(rows, devices, -1, run).swapaxes(1, 2).reshape(rows, -1)
    np.testing.assert_array_equal(in_order[:, :size], data)
    assert not in_order[:, size:].any()
    # No more is filled up than a round of the devices takes.
    assert in_order.shape[1] - size < devices * run


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("width=2", "`mesh` must name the axes data, model, time at most once each"),
        ("data=2,data=4", "at most once each, got 'data=2,data=4'"),
        ("data=0", "`mesh` must have at least 1 device along data, got 0"),
        ("time=x", "`mesh` must have at least 1 device along time, got 'x'"),
        ("time", "`mesh` must have at least 1 device along time, got ''"),
        ("data=3,time=4", "got data=3 .* time=4 = 12 of 8 devices of 1 processes"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(sizes)


def test_what_does_not_fit_a_mesh_is_refused_by_name():
    config = config_of(9)
    with pytest.raises(ValueError, match="along data, 8, got 4. Change one of them"):
        layout("data=8", config)
    with pytest.raises(ValueError, match="`chunk_steps` must be at least 8 .* got 3"):
        layout("time=8", dataclasses.replace(config, chunk_steps=3))
    dropped = dataclasses.replace(
        config.model, latent_window=None, attention_dropout=0.1
    )
    with pytest.raises(ValueError, match="`attention_dropout` must be 0 where a"):
        layout("time=2", dataclasses.replace(config, model=dropped))
    # What every layer sees back is there, however short a sequence: two steps.
    assert layout("time=8", config_of(3)).runs_of(4 * PER_STEP)[0] == 2 * PER_STEP
    # Devices along model that have no sequence of their own share those there are.
    assert layout("model=8", config_of(3)).time == ("model", "time")
    assert layout("model=4", config).rows == ("data", "model")


def test_a_run_lies_as_it_is_told_and_else_on_one_processor():
    config = config_of(3)
    assert layout_of(config) is None
    told = layout_of(dataclasses.replace(config, mesh="data=2,time=4"))
    assert told is not None
    assert told.described == "a mesh of 8 devices, data=2, time=4"
    assert layout_of(dataclasses.replace(config, mesh="model=1")) is None


@pytest.mark.reliability
def test_a_run_goes_on_over_any_other_mesh(tmp_path):
    """It ends as one that was on one device all the time, up to rounding."""
    config = smoke(tmp_path, log_every=1, sample_every=1000)
    train(config, report=str)
    parts, lines = dataclasses.replace(config, out=tmp_path / "parts"), []
    for mesh, steps in {"data=2,model=2,time=2": 7, "time=2": 13, "": 20}.items():
        stop = partial(stop_after, steps, lines)
        train(dataclasses.replace(parts, mesh=mesh), report=stop)
    assert_near(config.out, parts.out)
    told = [re.findall("a mesh of [^;]*?, [0-9,]* bytes", line) for line in lines]
    meshes = [found[0].rpartition(", ")[0] for found in told if found]
    assert meshes == [
        "a mesh of 8 devices, data=2, model=2, time=2",
        "a mesh of 2 devices, time=2",
    ]


def stop_after(step: int, lines: list[str], line: str) -> None:
    """Asks a run to stop, when it reports a step before its end."""
    lines.append(line)
    if step < 20 and line.startswith(f"step {step:>7}/"):
        signal.raise_signal(signal.SIGTERM)


def test_what_is_saved_on_eight_devices_is_read_on_any(tmp_path):
    config = config_of(3)
    state = new_state(config, jr.key(0))
    over = layout("model=8", dataclasses.replace(config, batch_size=8))
    save(tmp_path, 1, over.put_state(state), {})
    for sizes in ("", "data=2", "model=4", "model=2,time=2"):
        like = state if not sizes else layout(sizes, config).put_state(state)
        read, _ = restore(tmp_path, like)
        for one, other, expected in zip(
            *map(_arrays, (read, like, state)), strict=True
        ):
            assert one.sharding == other.sharding
            assert np.asarray(one).tobytes() == np.asarray(expected).tobytes()


def _arrays(state) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(state, eqx.is_array))


def test_local_windows_bound_a_chunk_only_where_there_are_local_layers():
    sizes = {"bytes_per_step": 4, "latent_window": 3, "local_window": 32, "ngrams": ()}
    with_layers = TrainConfig(model=ModelConfig(**sizes), chunk_steps=4)
    model = ModelConfig(**sizes, input_layers=0, output_layers=0)
    assert "at least 8" in (refusal_in_time(with_layers) or "")
    assert refusal_in_time(TrainConfig(model=model, chunk_steps=4)) is None
