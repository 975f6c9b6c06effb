"""The context as it is asked: padding, pieces, room, places, and what finds what."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceiver_eqx.adapters import byte_context
from perceiver_eqx.context import Remember, questions
from tests.helpers import (
    assert_close,
    assert_gradients_close,
    normals,
    relative_error,
)
from tests.models import TOKENS, byte_lm, perceiver, perceiver_inputs
from tests.strategies import seeds


LENGTH, PATCH = 12, 2
BOTH_WAYS = {"context_patch": PATCH, "context_layers": 1, "context_block": 2}


@eqx.filter_jit
def run(model, tokens, context, length=None):
    return model(tokens, context, context_length=length)


@eqx.filter_jit
def run_from(model, state, tokens):
    return model.advance(state, tokens)[1]


@eqx.filter_jit
def read(model, pieces, room):
    state = model.init_state(max_context=room)
    for piece in pieces:
        state = model.add_context(state, piece)
    return state


def data_of(seed: int):
    tokens, source = jr.split(jr.key(seed))
    tokens = jr.randint(tokens, (3, TOKENS), 0, 256)
    return tokens, jr.randint(source, (LENGTH,), 0, 256)


@settings(max_examples=10)
@example(0, 0, 1)
@example(0, 5, 0)
@given(seeds, st.sampled_from([0, 1, 5, 8, LENGTH]), st.sampled_from([1, PATCH, 0]))
def test_what_fills_up_a_context_changes_nothing(seed, length, patch):
    model = byte_lm(3, True, **({"context_patch": patch} if patch else BOTH_WAYS))
    tokens, source = data_of(seed)
    expected = run(model, tokens, source[:length])
    assert_close(run(model, tokens, source, jnp.asarray(length)), expected)
    other = source.at[length:].add(1)
    assert np.array_equal(
        run(model, tokens, source, jnp.asarray(length)),
        run(model, tokens, other, jnp.asarray(length)),
    )


@settings(max_examples=6)
@given(
    seeds,
    st.lists(st.sampled_from([2, 4, 8, 10]), unique=True, max_size=3),
    st.sampled_from([None, LENGTH, LENGTH + 3]),
)
def test_pieces_are_asked_as_the_whole_is(seed, cuts, room):
    model = byte_lm(3, True, context_patch=PATCH)
    tokens, source = data_of(seed)
    state = read(model, np.split(source, sorted(cuts)), room)
    assert_close(run_from(model, state, tokens), run(model, tokens, source))


def test_pieces_of_whole_blocks_are_asked_as_the_whole_is():
    model = byte_lm(3, True, **BOTH_WAYS)
    tokens, source = data_of(0)
    expected = run(model, tokens, source)
    state = read(model, np.split(source, [4]), LENGTH)
    assert_close(run_from(model, state, tokens), expected)
    apart = eqx.tree_at(lambda m: m.contexts.both_ways, model, None)
    assert relative_error(run(apart, tokens, source), expected) > 1e-3


def test_a_token_sees_those_of_its_block_before_and_behind():
    """And no others."""
    layers = byte_lm(3, True, **BOTH_WAYS).contexts.both_ways
    x = jr.normal(jr.key(0), (5, 8))
    in_blocks = np.kron(np.eye(3), np.ones((2, 2)))[:5, :5] > 0
    for count in (5, 4, 3, 0):
        changes = jax.jacobian(lambda x, count=count: layers(x, count))(x)
        seen = np.any(np.asarray(changes) != 0, (1, 3))
        there = np.arange(5) < count
        assert np.array_equal(seen, (in_blocks & there) | np.eye(5, dtype=bool))


@pytest.mark.parametrize(
    ("options", "piece"), [({"context_patch": PATCH}, 5), (BOTH_WAYS, 7)]
)
def test_a_long_context_is_read_in_pieces_and_again_backwards(
    monkeypatch, options, piece
):
    """Of the pieces, one is filled up and one is all filling."""
    model = byte_lm(3, True, **options, num_layers=1)
    tokens, source = data_of(0)
    # Squares would make much of rounding that differs between processors.
    weights = normals(7, *tokens.shape, 256)

    def value_and_gradients():
        @eqx.filter_jit
        @eqx.filter_value_and_grad
        def loss(model):
            return jnp.sum(model(tokens, source, context_length=7) * weights)

        return loss(model)

    expected = value_and_gradients()
    monkeypatch.setattr(byte_context, "CONTEXT_PIECE", piece)
    found = value_and_gradients()
    assert_close(found[0], expected[0])
    assert_gradients_close(found[1], expected[1])


def test_a_context_without_room_is_an_error_and_not_an_overwrite():
    model = byte_lm(3, True)
    _, source = data_of(0)
    with pytest.raises(RuntimeError, match="larger `max_context`"):
        jax.block_until_ready(read(model, [source[:8], source[8:]], LENGTH - 1))
    state = read(model, [], LENGTH - 1)
    with pytest.raises(ValueError, match="room among 11 tokens, got 12"):
        model.add_context(state, source)


@pytest.mark.parametrize(
    ("options", "length", "message"),
    [
        ({"context_patch": PATCH}, 3, "multiples of `context_patch` = 2"),
        (BOTH_WAYS, 6, r"multiples of `context_patch` \* `context_block` = 4"),
    ],
)
def test_a_piece_after_a_broken_one_is_refused(options, length, message):
    model = byte_lm(3, True, **options)
    _, source = data_of(0)
    with pytest.raises(RuntimeError, match=message):
        # Patches that are not whole take more room.
        jax.block_until_ready(read(model, jnp.split(source, [length]), 2 * LENGTH))


def test_a_memory_with_room_keeps_its_shape():
    model = byte_lm(3, True)
    _, source = data_of(0)
    states = [read(model, [source[:n]], LENGTH) for n in (0, 4, LENGTH)]
    assert len({state.num_bytes() for state in states}) == 1


@pytest.mark.parametrize("asks", [False, True])
def test_whether_a_context_is_asked(asks):
    model = perceiver(3, True, ask_context=asks)
    assert (model.remember is not None) == asks
    assert (model.processor.blocks.ask is not None) == asks
    inputs, source = perceiver_inputs(0)
    state = model.init_state(source)
    kept = state.context.memory
    assert (kept is not None and kept.capacity == len(source)) == asks
    found = eqx.filter_jit(model)(inputs, source)
    assert relative_error(found, eqx.filter_jit(model)(inputs, None)) > 1e-3


@pytest.mark.parametrize("length", [9, 70, 1000])
def test_a_step_can_read_on_from_either_end_at_any_length(length):
    """By places alone: those of keys beside those of steps, of either count."""
    remember = Remember(4, 128, 1, key=jr.key(0))
    remember = eqx.tree_at(
        lambda r: (r.key.weight, r.place.weight),
        remember,
        (jnp.zeros((4, 128)), jnp.eye(128)),
    )
    before = remember.nothing_before(jnp.float32)
    (keys, values), _ = remember(jnp.zeros((length, 4)), 0, before)
    memory = remember.empty(0, jnp.float32, grows=True).extend(keys, values, length)
    options = {"step_places": 1, "token_places": 1, "dtype": jnp.float32}
    by_both = questions(memory, jnp.arange(5), **options).places.reshape(5, 2, 128)
    nearest = jnp.einsum("tbp,np->btn", by_both, keys[:, 0]).argmax(-1)
    last = length - 1
    assert nearest[0].tolist() == [0, 1, 2, 3, 4]
    assert nearest[1].tolist() == [last, last, last - 1, last - 2, last - 3]


def test_keys_are_behind_their_values_by_none_up_to_a_step():
    behind = [Remember(4, 8, h, most_behind=8, key=jr.key(0)).behind for h in (1, 2, 8)]
    assert behind == [(8,), (0, 8), (0, 2, 3, 4, 5, 6, 7, 8)]
