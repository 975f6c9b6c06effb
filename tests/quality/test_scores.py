"""The comparison of models: that it scores what it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.benchmarks.quality.data import Windows, cut, load
from tests.benchmarks.quality.evaluate import bits_of_text, bits_restarted, stride_of
from tests.benchmarks.quality.optimizer import learning_rate, optimizer
from tests.benchmarks.quality.positions import in_bins, stream_bits
from tests.benchmarks.quality.programs import Programs
from tests.benchmarks.quality.results import Budget, Run
from tests.benchmarks.quality.rows import ROWS, find_row
from tests.benchmarks.quality.run import train_row
from tests.helpers import assert_close, normals

from .models import compiled, data_of, small


def test_windows_hold_nothing_of_what_is_held_out():
    # Each number is told by four bytes, so that a window tells its place.
    splits = cut(np.arange(25_200, dtype=np.uint32).view(np.uint8))
    held_out = np.concatenate([splits.validation, splits.test]).view(np.uint32)
    pieces = tuple(piece.view(np.uint32) for piece in splits.train)
    assert sum(map(len, pieces)) + len(held_out) == 25_200
    windows = Windows(pieces, window=512)
    for number in range(3):
        seen = np.concatenate(windows.epoch(number))
        assert np.unique(seen).size == seen.size
        assert not np.isin(seen, held_out).any()
    assert splits.validation.size == splits.test.size == 100_800 // 6


def test_models_of_two_contexts_see_the_same_bytes_in_the_same_order():
    windows = Windows(cut(data_of(40_000)).train, window=512, seed=1)
    short, long = windows.batches(16, 128), windows.batches(4, 512)
    for _ in range(30):  # more than an epoch
        one, other = next(short), next(long)
        assert one.shape == (16, 128)
        np.testing.assert_array_equal(one.ravel(), other.ravel())


def test_the_sources_of_a_package_are_its_python_files_in_order(tmp_path):
    for name, text in {
        "b.py": "bb",
        "a/z.py": "az",
        "c.txt": "no",
        "a/.h.py": "n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    splits = load("sources", tmp_path)
    assert b"".join(piece.tobytes() for piece in splits.train) == b"azbb"
    with pytest.raises(ValueError, match="`name` must be .* sources=FOLDER"):
        load("sources")
    with pytest.raises(ValueError, match="got 'enwik8'"):
        load("enwik8", tmp_path)


def test_a_context_that_does_not_divide_the_window_is_refused():
    windows = Windows(cut(data_of(40_000)).train, window=512)
    with pytest.raises(ValueError, match="`context` must divide the window"):
        next(windows.batches(4, 96))


def programs_of(name: str) -> Programs:
    """As much of the compiled functions as scoring takes."""
    model = small(name, ",num_layers=1")
    score = jax.jit(jax.vmap(lambda row: model.bits(row)))
    return Programs(
        find_row(name),
        init=lambda key: model,
        step=lambda *_: (None, jnp.zeros(())),
        score=lambda _, rows: score(rows),
        model_of=lambda _: model,
        context=model.context,
        targets=model.targets,
        num_parameters=0,
        step_flops=1,
        compile_seconds=0.0,
        temp_bytes=None,
        score_rows=4,
    )


@pytest.mark.parametrize("stride", [8, 5])
def test_every_byte_is_scored_once_with_as_much_before_it_as_said(stride):
    programs = programs_of("tiny-perceiver-ar")
    text, before = data_of(61), data_of(100, seed=1)
    bits = bits_of_text(programs, None, text, before, stride)
    assert bits.shape == text.shape
    bits_of = compiled(programs.model_of(None))
    whole = np.concatenate([before, text])
    for place in (0, 4, 7, 33, 60):
        end = min(100 + (place // stride + 1) * stride, 161)
        if end < 161 or 61 % stride == 0:
            expected = bits_of(whole[end - 32 : end])[100 + place - end]
            assert bits[place] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_every_byte_has_seven_eighths_of_the_context_before_it(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    stride = stride_of(model)
    assert 1 <= stride <= model.targets
    assert model.context - stride >= 7 / 8 * model.context


def test_too_little_text_before_a_split_is_refused_before_anything_is_trained():
    programs = programs_of("tiny-transformer")
    splits, window = cut(data_of(300)), programs.context
    run = Run("tiny-transformer", 1e-3, 0, Budget(flops=1.0), "stdlib", window=window)
    message = "`before` must hold at least 28 bytes, got 25; of a larger --limit"
    with pytest.raises(ValueError, match=message):
        train_row(programs, run, splits, test=True)


def test_a_reader_begins_anew():
    programs = programs_of("tiny-transformer")
    text = data_of(64)
    bits = bits_restarted(programs, None, text, 16)
    alone = bits_restarted(programs, None, text[16:32], 16)
    np.testing.assert_allclose(bits[16:32], alone, rtol=1e-5)


def test_a_stream_costs_as_much_as_a_row():
    model, text = small("tiny-combined", ",num_layers=1"), data_of(2_000)
    ways = stream_bits(model.byte_lm, text)
    controls = {f"restarted_{every}" for every in (1_000, 10_000, 100_000)}
    assert set(ways) == {"whole", *controls}
    bits_of, anew = compiled(model), np.roll(text, -1_000)
    assert_close(ways["whole"], np.asarray(bits_of(text)))
    assert_close(ways["restarted_1000"][1_000:], np.asarray(bits_of(anew))[:1_000])
    found = in_bins(ways)
    assert found["bins"] == [(0, 1000), (1000, 2000)]
    assert found["whole"][0] == found["restarted_1000"][0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_update_moves_every_parameter(name):
    model = small("tiny-patch", ",num_layers=1")
    params = eqx.filter(model, eqx.is_inexact_array)
    optim = optimizer(name, 100, 1e-3)
    gradient = jax.tree.map(lambda x: normals(1, *x.shape), params)
    updates = jax.jit(lambda g, p: optim.update(g, optim.init(p), p)[0])(
        gradient, params
    )
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    for update in jax.tree.leaves(updates):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(update))))
        assert 0 < rms < 1.2e-3 / 5 + 1e-3  # the first of five steps of warm-up


def test_the_learning_rate_goes_up_and_then_down_to_its_share():
    steps = np.arange(1000)
    rates = np.asarray(learning_rate(steps, 1000, 2.0, 0.1))
    assert rates.argmax() == pytest.approx(50, abs=1)
    assert rates.max() == pytest.approx(2.0, rel=1e-3)
    assert rates[-1] == pytest.approx(0.2, rel=1e-3)
