"""The adapters of streams: tokens, distributions and what is drawn of them, each beside
a transcription in float64 NumPy."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import (
    FrameInput,
    StreamInput,
    StreamOutput,
    SwitchOutput,
    SymbolInput,
    SymbolOutput,
    ValueInput,
    ValueOutput,
    to_levels,
    to_values,
)
from perceiver_eqx.adapters.grid import FourierPositions, GridInput, LearnedGrid
from perceiver_eqx.layers import Linear
from tests.helpers import assert_close, normals
from tests.models import drawn


SYMBOLS = SymbolOutput(5, symbols_per_step=2)
SWITCHES = SwitchOutput(6)
VALUES = ValueOutput((2, 3), outputs_per_step=2, bits=3, num_components=3)
FINE = ValueOutput(2, bits=16, num_components=2)
OUTPUTS = {"symbols": SYMBOLS, "switches": SWITCHES, "values": VALUES, "fine": FINE}


def readouts(adapter, steps: int, size: float = 1.0):
    shape = steps, adapter.outputs_per_step, adapter.dim
    return jnp.asarray(size * normals(3, *shape))


def one_readout(adapter, steps: int, size: float = 1.0):
    """That of one step, so many times."""
    return jnp.repeat(readouts(adapter, 1, size), steps, 0)


@eqx.filter_jit
def log_prob(adapter, readout, targets):
    return adapter.log_prob(adapter(readout), targets)


@eqx.filter_jit
def sample(adapter, readout, key):
    return adapter.sample(adapter(readout), key)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_a_symbol_is_the_vector_of_its_own_place():
    adapter = drawn(SymbolInput, num_symbols=4, dim=3, symbols_per_step=2)
    assert isinstance(adapter, StreamInput)
    assert (adapter.tokens_per_step, adapter.dim) == (2, 3)
    table = np.asarray(adapter.embedding.table)
    found = adapter(jnp.asarray([[0, 0], [3, 1]], jnp.uint8))
    assert np.array_equal(found, table[[[0, 4], [3, 5]]])
    assert len(np.unique(table, axis=0)) == 8


def test_values_in_a_row_make_tokens_and_levels_run_from_minus_one_to_one():
    adapter = ValueInput((2, 3), tokens_per_step=2, bits=2)
    assert isinstance(adapter, StreamInput)
    assert (adapter.tokens_per_step, adapter.dim) == (2, 3)
    levels = np.arange(12).reshape(2, 2, 3) % 4
    expected = levels / 1.5 - 1
    assert_close(adapter(jnp.asarray(levels)), expected)
    floats = jnp.asarray(normals(0, 4, 2, 3))
    assert np.array_equal(adapter(floats), floats)
    switches = ValueInput(3, bits=1)(jnp.asarray([[True, False, True]]))
    assert switches.tolist() == [[[1, -1, 1]]]


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_levels_are_values_and_back(bits):
    levels = jnp.arange(2**bits)
    values = to_values(levels, bits)
    assert (values.min(), values.max()) == (-1, 1)
    assert np.array_equal(to_levels(values, bits), levels)
    assert to_levels(jnp.asarray([-9.0, 9.0]), bits).tolist() == [0, 2**bits - 1]


@pytest.mark.parametrize("positions", ["fourier", "learned"])
def test_a_frame_is_read_as_the_grid_that_it_is(positions):
    made = {
        "fourier": FourierPositions(2, (2, 1)),
        "learned": drawn(LearnedGrid, shape=(2, 1), table_dim=3, dim=5),
    }
    features = drawn(Linear, in_dim=8, out_dim=6)
    grid = GridInput(2, made[positions], block=(2, 2), features=features)
    adapter = FrameInput(grid, (4, 2), bits=3)
    assert isinstance(adapter, StreamInput)
    assert (adapter.tokens_per_step, adapter.dim) == (2, 6 + made[positions].dim)
    frames = np.arange(2 * 4 * 2 * 2).reshape(2, 4, 2, 2) % 8
    found = adapter(jnp.asarray(frames))
    blocks = frames.reshape(2, 2, 8) / 3.5 - 1
    weight, bias = (np.asarray(x, np.float64) for x in (features.weight, features.bias))
    assert_close(found[..., :6], blocks @ weight + bias)
    places = np.broadcast_to(made[positions]((2, 1)), (2, 2, made[positions].dim))
    assert np.array_equal(found[..., 6:], places)
    assert len(np.unique(places[0], axis=0)) == 2


def test_the_likelihood_of_symbols_is_that_of_a_softmax():
    readout = readouts(SYMBOLS, 7)
    targets = np.random.default_rng(0).integers(5, size=(7, 2))
    expected = log_softmax(np.asarray(readout, np.float64))
    expected = np.take_along_axis(expected, targets[..., None], -1).sum((1, 2))
    assert_close(log_prob(SYMBOLS, readout, jnp.asarray(targets)), expected)


def test_the_likelihood_of_switches_is_that_of_a_logistic_function():
    readout = readouts(SWITCHES, 7, 3.0)
    targets = np.random.default_rng(0).random((7, 6)) < 0.5
    on = sigmoid(np.asarray(readout, np.float64))[:, 0]
    expected = np.log(np.where(targets, on, 1 - on)).sum(-1)
    assert_close(log_prob(SWITCHES, readout, jnp.asarray(targets)), expected)


def mixture_oracle(adapter, readout, targets):
    """The differences of the distribution function, as the papers have them."""
    count, top = adapter.num_components, 2**adapter.bits - 1
    steps, size = targets.shape[0], targets[0].size
    raw = np.asarray(readout, np.float64).reshape(steps, size, 3, count)
    centres = (np.arange(count) + 0.5) / count
    means = top * centres + raw[:, :, 1] * top / 2
    scales = np.log1p(np.exp(raw[:, :, 2] + np.log(4 * top / count))) + np.log(1 / 16)
    x = targets.reshape(steps, size, 1)

    def below(edge):
        return sigmoid((edge - means) / np.exp(scales))

    upper = np.where(x == top, 1, below(x + 0.5))
    lower = np.where(x == 0, 0, below(x - 0.5))
    weights = np.exp(log_softmax(raw[:, :, 0]))
    return np.log((weights * (upper - lower)).sum(-1)).sum(-1)


@pytest.mark.parametrize("adapter", [VALUES, FINE])
def test_the_likelihood_of_values_is_a_difference_of_logistic_functions(adapter):
    readout = readouts(adapter, 9)
    shape, top = (9, *adapter.shape), 2**adapter.bits - 1
    targets = np.random.default_rng(0).integers(top + 1, size=shape)
    targets[0], targets[1] = 0, top
    expected = mixture_oracle(adapter, readout, targets)
    assert_close(log_prob(adapter, readout, jnp.asarray(targets)), expected)


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
@pytest.mark.parametrize("size", [0.3, 4.0])
def test_the_probabilities_of_all_levels_sum_to_one(bits, size):
    adapter = ValueOutput(1, bits=bits, num_components=4)
    levels = jnp.arange(2**bits)[:, None]
    nats = log_prob(adapter, one_readout(adapter, 2**bits, size), levels)
    total = np.exp(np.asarray(nats, np.float64)).sum()
    assert total == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("size", [30.0, 3e4])
@pytest.mark.parametrize("adapter", OUTPUTS.values(), ids=OUTPUTS)
def test_likelihoods_and_their_gradients_are_finite_however_wrong(adapter, size):
    readout = readouts(adapter, 5, size)
    targets = sample(adapter, readouts(adapter, 5), jr.key(0))
    nats, slopes = jax.jit(
        jax.value_and_grad(lambda x: log_prob(adapter, x, targets).sum())
    )(readout)
    assert -np.inf < nats < -size / 10
    assert np.all(np.isfinite(slopes))
    assert np.any(slopes != 0)


def test_a_mixture_of_no_readout_covers_all_levels_evenly():
    adapter = ValueOutput(1, num_components=5)
    readout = jnp.zeros((256, 1, 15))
    above = log_prob(adapter, readout, jnp.arange(256)[:, None]) + np.log(256)
    assert np.all(np.abs(above[1:-1]) < 0.8)
    assert np.all(above[jnp.asarray([0, -1])] < 2)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_level_can_have_nearly_all_of_the_probability(bits):
    adapter = ValueOutput(1, bits=bits, num_components=1)
    level = 2**bits // 2
    mean = 2 * level / (2**bits - 1) - 1
    readout = jnp.asarray([[[0.0, mean, -40.0]]])
    assert log_prob(adapter, readout, jnp.full((1, 1), level))[0] > -0.01


@pytest.mark.parametrize(
    ("adapter", "kinds"),
    [
        (SymbolOutput(7), 7),
        (SwitchOutput(1), 2),
        (ValueOutput(1, bits=3, num_components=2), 8),
        # Much of it lies past the outermost levels.
        (ValueOutput(1, bits=2, num_components=1), 4),
    ],
)
def test_what_is_drawn_is_as_frequent_as_it_is_likely(adapter, kinds):
    count = 4096
    draws = sample(adapter, one_readout(adapter, count), jr.key(5))
    assert draws.shape == (count, 1)
    every = jnp.arange(kinds).astype(draws.dtype)[:, None]
    expected = np.exp(log_prob(adapter, one_readout(adapter, kinds), every)) * count
    found = np.bincount(np.asarray(draws, int)[:, 0], minlength=kinds)
    assert expected.min() > 5
    surprise = np.sum((found - expected) ** 2 / expected)
    # Its mean is one less than there are kinds, its variance twice that.
    assert surprise < kinds - 1 + 4 * np.sqrt(2 * (kinds - 1))


@pytest.mark.parametrize("adapter", OUTPUTS.values(), ids=OUTPUTS)
def test_what_is_drawn_is_a_target_and_places_are_drawn_apart(adapter):
    assert isinstance(adapter, StreamOutput)
    readout = 0.3 * one_readout(adapter, 64)
    draws = sample(adapter, readout, jr.key(0))
    assert np.all(np.isfinite(log_prob(adapter, readout, draws)))
    flat = np.asarray(draws, int).reshape(64, -1)
    assert len(np.unique(flat, axis=0)) > 8
    assert len(np.unique(flat, axis=1).T) == flat.shape[1]


def untyped(adapter, method: str):
    """A method as a user meets it, whom types do not stop."""
    return functools.partial(inspect.unwrap(getattr(type(adapter), method)), adapter)


def inputs_of(kind):
    return {
        "symbols": functools.partial(
            drawn, SymbolInput, num_symbols=4, dim=2, symbols_per_step=3
        ),
        "values": lambda: ValueInput((2, 3)),
        "frames": lambda: FrameInput(GridInput(1, FourierPositions(1, (2, 3))), (2, 3)),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "inputs", "error", "message"),
    [
        ("symbols", jnp.zeros((2, 4), int), ValueError, "symbols_per_step=3"),
        ("symbols", jnp.zeros((5, 2, 3), int), ValueError, "jax.vmap goes over"),
        ("symbols", jnp.zeros((2, 3)), TypeError, "must be integers, got float32"),
        ("values", jnp.zeros((4, 3, 2)), ValueError, r"axis_0=2, axis_1=3\), got"),
        ("values", jnp.zeros((4, 2, 3), bool), ValueError, "booleans are levels of 1"),
        ("frames", jnp.zeros((4, 2, 3, 2)), ValueError, "channels=1"),
        ("frames", jnp.zeros((2, 3, 1)), ValueError, r"\(steps, axis_0=2"),
    ],
)
def test_inputs_of_another_kind_are_refused(kind, inputs, error, message):
    adapter = inputs_of(kind)
    with pytest.raises(error, match=message):
        untyped(adapter, "__call__")(inputs)


@pytest.mark.parametrize(
    ("adapter", "targets", "error", "message"),
    [
        (SYMBOLS, jnp.zeros((3, 2)), TypeError, "`targets` must be integers"),
        (SYMBOLS, jnp.zeros((3, 1), int), ValueError, "symbols_per_step=2"),
        (SWITCHES, jnp.zeros((3, 6), int), TypeError, "must be booleans, got int32"),
        (SWITCHES, jnp.zeros((3, 5), bool), ValueError, "switches=6"),
        (VALUES, jnp.zeros((3, 2, 3)), TypeError, "`targets` must be integers"),
        (VALUES, jnp.zeros((3, 3, 2), int), ValueError, "axis_0=2, axis_1=3"),
    ],
)
def test_targets_of_another_kind_are_refused(adapter, targets, error, message):
    prediction = adapter(readouts(adapter, 3))
    with pytest.raises(error, match=message):
        untyped(adapter, "log_prob")(prediction, targets)


GRID = GridInput(1, FourierPositions(1, (2, 2)), block=(1, 2))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SymbolInput, {"symbols_per_step": 0}, "`symbols_per_step` must be at least 1"),
        (SymbolOutput, {"num_symbols": 0}, "`num_symbols` must be at least 1"),
        (SwitchOutput, {"num_switches": 0}, "`num_switches` must be at least 1"),
        (ValueInput, {"shape": (2, 0)}, r"`shape\[1\]` must be at least 1, got 0"),
        (ValueInput, {"bits": 17}, "`bits` must be at most 16, got 17"),
        (ValueInput, {"tokens_per_step": 2}, r"of 2 \(`tokens_per_step`\), got 5"),
        (ValueOutput, {"bits": 0}, "`bits` must be at least 1"),
        (ValueOutput, {"outputs_per_step": 2}, r"of 2 \(`outputs_per_step`\), got 5"),
        (ValueOutput, {"num_components": 0}, "`num_components` must be at least 1"),
        (FrameInput, {"shape": (0, 2)}, r"`shape\[0\]` must be at least 1, got 0"),
        (FrameInput, {"shape": (2, 3)}, "`axis_1` must be a multiple of 2"),
    ],
)
def test_bad_sizes_are_refused_by_name(kind, arguments, message):
    good = {
        SymbolInput: {"num_symbols": 3, "dim": 4, "key": jr.key(0)},
        ValueInput: {"shape": 5},
        ValueOutput: {"shape": 5},
        FrameInput: {"grid": GRID},
    }
    with pytest.raises(ValueError, match=message):
        kind(**good.get(kind, {}) | arguments)
