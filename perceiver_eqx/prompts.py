"""Prompts, of any length, read into states."""

from collections.abc import Sequence
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, UInt8

from .adapters.byte_lm import ByteLM
from .adapters.byte_state import ByteState
from .adapters.bytes import Symbols, symbols_of
from .checks import check_sizes
from .sampling import RECENT


# Prompts enter in pieces of so many steps, each of which compiles once.
PIECES = (512, 64, 8, 1)

# Contexts are filled up to multiples of so many bytes at least.
SHORTEST = 16


def read_prompts(
    model: ByteLM,
    prompts: Sequence[Symbols],
    num_bytes: int,
    context: Symbols | Sequence[Symbols] | None,
    state: ByteState | None,
) -> tuple[ByteState, Int[np.ndarray, "prompts recent"]]:
    """Where to go on from after each prompt, stacked, and its last `RECENT` bytes, but
    for those of an unfinished step, -1 where there were none. Of a given state, only
    those are known.

    Args:
        As `generate` takes them; at least one prompt.
    """
    check_model(model)
    check_sizes(num_bytes=num_bytes)
    texts = [symbols_of("prompt", prompt) for prompt in prompts]
    if state is None:
        most = max(text.size for text in texts) + num_bytes
        sources = _sources(context, len(texts))
        states = begin(model, sources, _room(model, most))
    elif context is None:
        states = jax.tree.map(lambda x: x[None], state)
    else:
        raise ValueError(
            "`context` must be None where a `state` is given, which has its own; use "
            "`model.add_context(state, context)`."
        )
    begun = states.unfinished.shape[0]
    if not any(text.size for text in texts):
        states = jax.tree.map(lambda x: jnp.repeat(x, len(texts) // begun, 0), states)
        return states, np.full((len(texts), RECENT), -1, np.int32)
    read = [
        _read(model, jax.tree.map(lambda x, at=at: x[at % begun], states), text)
        for at, text in enumerate(texts)
    ]
    states = jax.tree.map(lambda *x: jnp.stack(x), *(state for state, _ in read))
    return states, np.stack([recent for _, recent in read])


def _sources(
    context: Symbols | Sequence[Symbols] | None, count: int
) -> list[Integer[np.ndarray, " _source"]] | None:
    """A context for each of the prompts, or one for all."""
    if context is None:
        return None
    if not isinstance(context, list | tuple):
        return [symbols_of("context", cast(Symbols, context))]
    if len(context) != count:
        raise ValueError(
            f"`context` must be one for all prompts or one for each, got "
            f"{len(context)} for {count}."
        )
    return [symbols_of("context", one) for one in context]


def begin(
    model: ByteLM,
    sources: Sequence[Integer[np.ndarray, " _source"]] | None,
    max_steps: int | None,
) -> ByteState:
    """The states before the first byte, stacked: one for each context, or one without.

    Contexts are filled up to few sizes, each of which compiles once.
    """
    if sources is None:
        return jax.tree.map(lambda x: x[None], _init_state(model, max_steps))
    size = _few_sizes(max(source.size for source in sources))
    filled = np.zeros((len(sources), size), np.uint8)
    for row, source in zip(filled, sources, strict=True):
        row[: source.size] = source
    lengths = np.array([source.size for source in sources], np.int32)
    return _init_states(model, jnp.asarray(filled), jnp.asarray(lengths), max_steps)


def _few_sizes(size: int) -> int:
    """The next size up of which there are four between a power of two and the next."""
    part = max(1 << (size.bit_length() - 3), SHORTEST) if size > SHORTEST else SHORTEST
    return -(-size // part) * part


def check_model(model: ByteLM) -> None:
    """Refuse what is no model over bytes.

    Raises:
        TypeError: for that.
    """
    if not isinstance(model, ByteLM):
        raise TypeError(f"`model` must be a ByteLM, got {type(model).__name__}.")


def _room(model: ByteLM, num_bytes: int) -> int | None:
    """Steps to make room for, if past latents are kept: few sizes, each compiles."""
    if model.latent_window is not None:
        return None
    steps = -(-num_bytes // model.bytes_per_step)
    return 1 << (steps - 1).bit_length()


def _read(model: ByteLM, state: ByteState, text: np.ndarray):
    per_step = model.bytes_per_step
    begun = np.asarray(state.unfinished)
    state = eqx.tree_at(lambda s: s.unfinished, state, jnp.full_like(begun, -1))
    text = np.concatenate([begun[begun >= 0], text])
    whole = text.size // per_step
    tokens, at = text[: whole * per_step].reshape(whole, per_step), 0
    for size in PIECES:
        while whole - at >= size:
            state = _advance(model, state, tokens[at : at + size])
            at += size
    left = np.full(per_step, -1, np.int32)
    left[: text.size % per_step] = text[whole * per_step :]
    recent = np.concatenate([np.full(RECENT, -1), text[: whole * per_step]])[-RECENT:]
    state = eqx.tree_at(lambda s: s.unfinished, state, jnp.asarray(left))
    return state, recent.astype(np.int32)


@eqx.filter_jit
def _init_state(model: ByteLM, max_steps: int | None) -> ByteState:
    return model.init_state(max_steps=max_steps)


@eqx.filter_jit
def _init_states(
    model: ByteLM,
    contexts: UInt8[Array, "rows source"],
    lengths: Int[Array, " rows"],
    max_steps: int | None,
) -> ByteState:
    def one(context, length):
        return model.init_state(context, max_steps, context_length=length)

    return jax.vmap(one)(contexts, lengths)


@eqx.filter_jit
def _advance(model: ByteLM, state: ByteState, tokens) -> ByteState:
    return model.advance_unchecked(state, tokens)[0]
