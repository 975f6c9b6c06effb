"""Bytes as they come: `advance_bytes`, pieces of context, and scoring."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from perceiver_eqx import log_prob
from tests.helpers import assert_close, relative_error
from tests.models import SOURCE, TOKENS, byte_lm
from tests.strategies import seeds


STEPS = 32  # more than ten times the longest finite window, and any ring
LENGTH = STEPS * TOKENS
WINDOWS = st.sampled_from([None, 1, 2, 3, (2, None)])


@eqx.filter_jit
def run(model, tokens, context):
    return model(tokens, context)


@eqx.filter_jit
def advance(model, state, tokens):
    return model.advance(state, tokens)


@eqx.filter_jit
def advance_bytes(model, state, data):
    return model.advance_bytes(state, data)


def data_of(seed: int):
    data, source = jr.split(jr.key(seed))
    return jr.randint(data, (LENGTH,), 0, 256), jr.randint(source, (SOURCE,), 0, 256)


@st.composite
def byte_cuts(draw) -> list[int]:
    """Pieces of bytes up to some place, inside a step or not. Few sizes: each compiles
    anew."""
    length, pieces = draw(st.integers(LENGTH - 8, LENGTH)), []
    while (left := length - sum(pieces)) > 0:
        pieces.append(draw(st.sampled_from([n for n in (1, 2, 4, 31) if n <= left])))
    return pieces


@settings(max_examples=12)
@given(seeds, WINDOWS, byte_cuts())
def test_wherever_the_bytes_are_cut_the_logits_are_equal(seed, window, pieces):
    model = byte_lm(window, True)
    data, source = data_of(seed)
    expected = run(model, data.reshape(STEPS, TOKENS), source).reshape(LENGTH, 256)
    state = model.init_state(source, max_steps=STEPS)
    size, found, at = state.num_bytes(), [], 0
    for piece in pieces:
        state, logits = advance_bytes(model, state, data[at : at + piece])
        found.append(logits)
        at += piece
        assert int(state.inside) == at % TOKENS
        assert int(state.perceiver.steps) == at // TOKENS
    logits = jnp.concatenate(found)
    # Looked for, and printed with --hypothesis-show-statistics.
    target(relative_error(logits, expected[:at]), label="largest difference")
    assert_close(logits, expected[:at])
    assert state.num_bytes() == size


def test_steps_and_bytes_can_take_turns():
    model = byte_lm(3)
    data, _ = data_of(0)
    tokens = data.reshape(STEPS, TOKENS)
    state, first = advance(model, model.init_state(), tokens[:4])
    state, second = advance_bytes(model, state, data[12:20])
    state, third = advance_bytes(model, state, data[20:21])
    state, fourth = advance(model, state, tokens[7:])
    flat = [x.reshape(-1, 256) for x in (first, second, third, fourth)]
    assert_close(jnp.concatenate(flat), run(model, tokens, None).reshape(LENGTH, 256))


def test_whole_steps_after_an_unfinished_one_are_refused():
    model = byte_lm(3)
    data, _ = data_of(0)
    state, _ = advance_bytes(model, model.init_state(), data[:4])
    with pytest.raises(RuntimeError, match="go on with `advance_bytes`"):
        advance(model, state, data[6:].reshape(-1, TOKENS))


@pytest.mark.parametrize("window", [None, 2])
def test_max_steps_may_be_filled_to_the_last_byte_and_no_further(window):
    model = byte_lm(window)
    data, _ = data_of(0)
    state, _ = advance_bytes(model, model.init_state(max_steps=2), data[:5])
    state, _ = advance_bytes(model, state, data[5:6])
    if window is None:
        with pytest.raises(RuntimeError, match="goes past `max_steps` = 2"):
            jax.block_until_ready(advance_bytes(model, state, data[6:7]))
    else:
        advance_bytes(model, state, data[6:7])


def test_no_byte_is_refused():
    model = byte_lm(3)
    with pytest.raises(ValueError, match="`data` must hold at least 1 byte"):
        model.advance_bytes(model.init_state(), jnp.zeros(0, int))


@eqx.filter_jit
def add_context(model, state, piece):
    return model.add_context(state, piece)


@settings(max_examples=5)
@given(seeds, st.lists(st.integers(1, SOURCE - 1), unique=True, max_size=3))
def test_a_context_in_pieces_is_seen_as_one(seed, cuts):
    model = byte_lm(3, True)
    _, source = data_of(seed)
    start = model.init_state(max_context=SOURCE)
    state = start
    for piece in np.split(source, sorted(cuts)):
        state = add_context(model, state, piece)
    found = state.perceiver.context
    expected = add_context(model, start, source).perceiver.context
    assert int(state.context_bytes) == SOURCE
    assert_close(found.seen.value, expected.seen.value)
    assert_close(found.seen.lse, expected.seen.lse)
    assert_close(found.memory, expected.memory)


def test_a_context_reaches_the_steps_after_it_alone():
    model = byte_lm(3, True)
    data, source = data_of(0)
    tokens = data.reshape(STEPS, TOKENS)
    state, first = advance(model, model.init_state(), tokens[:3])
    _, without = advance(model, state, tokens[3:6])
    _, later = advance(model, model.add_context(state, source), tokens[3:6])
    assert_close(first, run(model, tokens, None)[:3])
    assert relative_error(later, without) > 1e-3


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("length", [1, 2, 50, LENGTH])
def test_log_prob_is_that_of_the_whole_sequence(window, length, tmp_path):
    model = byte_lm(window, True)
    data, source = data_of(1)
    logits = run(model, data.reshape(STEPS, TOKENS), source).reshape(LENGTH, 256)
    chosen = np.asarray(data)[:, None]
    each = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), chosen, 1)
    path = tmp_path / "data"
    path.write_bytes(np.asarray(data[:length], np.uint8).tobytes())
    for of_what in (data[:length], path):
        found = log_prob(model, of_what, context=source, chunk_steps=7)
        assert math.isclose(found, each[:length].sum(), rel_tol=1e-5)


def test_log_prob_of_nothing_is_0(tmp_path):
    (tmp_path / "empty").touch()
    assert log_prob(byte_lm(3), b"") == log_prob(byte_lm(3), tmp_path / "empty") == 0
