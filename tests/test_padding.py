"""What fills up a context or a sequence changes no number, whatever it is of."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from perceiver_eqx import ValueInput
from perceiver_eqx.adapters.grid import FourierPositions, GridInput, LearnedGrid
from perceiver_eqx.adapters.modalities import Padding, in_a_row
from perceiver_eqx.adapters.text import TextInput
from tests.helpers import assert_close
from tests.models import drawn
from tests.strategies import seeds
from tests.stream_models import (
    SIZES,
    STEPS,
    built,
    changed,
    everything,
    for_translator,
    log_prob,
    piece,
    run,
    some_context,
    some_streams,
    translator,
)


TEXT = drawn(TextInput, max_symbols=6, dim=4, num_symbols=11)
IMAGE = GridInput(1, drawn(LearnedGrid, shape=(3, 2), table_dim=3))
BLOCKS = GridInput(1, FourierPositions(1, (4, 2)), block=(1, 2))


class Sound(eqx.Module):
    """A user's own: pieces of sound, each a token."""

    pieces: ValueInput
    dim: int = eqx.field(static=True)

    def __call__(self, sound) -> Array:
        return self.pieces(sound)[:, 0]


class Several(eqx.Module):
    """A picture and a text, in a row."""

    padding: Padding
    dim: int = eqx.field(static=True)

    def __call__(self, context) -> Array:
        parts = {"image": IMAGE(context["image"]), "text": TEXT(context["text"])}
        return in_a_row(self.padding(parts))


def several() -> Several:
    padding = drawn(Padding, dims={"image": IMAGE.dim, "text": TEXT.dim})
    return Several(padding, padding.dim)


CONTEXTS = {
    "text": lambda: TEXT,
    "image": lambda: IMAGE,
    "blocks": lambda: BLOCKS,
    "sound": lambda: Sound(ValueInput(3, bits=8), 3),
    "several": several,
}
TOKENS = {"text": 6, "image": 6, "blocks": 4, "sound": 5, "several": 12}


def some_source(kind: str, seed: int):
    rng = np.random.default_rng(seed)
    made = {
        "text": lambda: rng.integers(11, size=6),
        "image": lambda: rng.normal(size=(3, 2, 1)).astype(np.float32),
        "blocks": lambda: rng.normal(size=(4, 2, 1)).astype(np.float32),
        "sound": lambda: rng.integers(256, size=(5, 3)),
        "several": lambda: {n: some_source(n, seed) for n in ("image", "text")},
    }[kind]()
    return made if kind == "several" else jnp.asarray(made)


def changed_at(kind: str, source, token: int):
    """The source with another token at a place."""
    if kind == "several":
        part, at = ("image", token) if token < 6 else ("text", token - 6)
        return source | {part: changed_at(part, source[part], at)}
    if kind == "image":
        return source.at[token // 2, token % 2].add(1)
    if kind == "blocks":
        return source.at[token].add(1)
    top = {"text": 11, "sound": 256}[kind]
    return source.at[token].set((source[token] + top // 2) % top)


@functools.cache
def model_of(kind: str):
    base = translator()
    inputs = {name: entry.adapter for name, entry in base.inputs.entries.items()}
    sizes = SIZES | {"num_layers": 1}
    outputs = dict(base.outputs.adapters)
    return built(inputs, outputs, 2, context=CONTEXTS[kind](), **sizes)


@pytest.mark.parametrize("kind", CONTEXTS)
@settings(max_examples=8)
@given(seeds, st.data())
def test_tokens_behind_those_that_count_change_no_number(kind, seed, data):
    """To the bit; and each of those that count changes some."""
    model, streams = model_of(kind), for_translator(some_streams(seed))
    source, tokens = some_source(kind, seed), TOKENS[kind]
    token = data.draw(st.integers(0, tokens - 1))
    count = data.draw(st.integers(0, tokens))
    other = changed_at(kind, source, token)
    one, same = (
        run(model, streams, x, jnp.int32(count))["symbols"] for x in (source, other)
    )
    assert np.all(one == same) == (token >= count)


@pytest.mark.parametrize("chunk_steps", [None, 4])
@settings(max_examples=8)
@given(seeds, st.integers(1, STEPS), st.sampled_from([*range(1, 6)]))
def test_steps_behind_those_that_count_change_no_number(chunk_steps, seed, steps, size):
    """Of streams of every kind at once."""
    model, streams, context = everything(), some_streams(seed), some_context(seed)
    other = {
        name: x.at[steps:].set(changed(name, x)[steps:]) for name, x in streams.items()
    }
    counts = {"steps_count": jnp.int32(steps), "context_count": jnp.int32(size)}
    one, same = (
        log_prob(model, x, context, chunk_steps=chunk_steps, **counts)
        for x in (streams, other)
    )
    assert one == same
    whole = log_prob(model, streams, context, chunk_steps=chunk_steps)
    assert (steps, size) == (STEPS, 5) or one != whole


def test_what_is_filled_up_is_what_it_was():
    model, streams, context = everything(), some_streams(0), some_context(0)
    counts = {"steps_count": jnp.int32(4), "context_count": jnp.int32(3)}
    found = log_prob(model, streams, context, **counts)
    assert_close(found, log_prob(model, piece(streams, 0, 4), context[:3]))
