"""Prompts, of any length, read into states."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .adapters.byte_lm import ByteLM
from .adapters.byte_state import ByteState
from .adapters.bytes import Symbols, symbols_of
from .checks import check_sizes
from .sampling import RECENT


# Prompts enter in pieces of so many steps, each of which compiles once.
PIECES = (512, 64, 8, 1)


def read_prompts(
    model: ByteLM,
    prompts: Sequence[Symbols],
    num_bytes: int,
    context: Symbols | None,
    state: ByteState | None,
) -> list[tuple[ByteState, Int[np.ndarray, " recent"]]]:
    """Where to go on from after each prompt, and its last `RECENT` bytes, but for those
    of an unfinished step, -1 where there were none. Of a given state, only those are
    known.

    Args:
        As `generate` takes them.
    """
    check_model(model)
    check_sizes(num_bytes=num_bytes)
    texts = [symbols_of("prompt", prompt) for prompt in prompts]
    if state is None:
        most = max((text.size for text in texts), default=0) + num_bytes
        source = (
            None if context is None else jnp.asarray(symbols_of("context", context))
        )
        state = init_state(model, source, _room(model, most))
    elif context is not None:
        raise ValueError(
            "`context` must be None where a `state` is given, which has its own; use "
            "`model.add_context(state, context)`."
        )
    return [_read(model, state, text) for text in texts]


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
def init_state(model: ByteLM, context, max_steps: int | None) -> ByteState:
    """`model.init_state`, compiled."""
    return model.init_state(context, max_steps)


@eqx.filter_jit
def _advance(model: ByteLM, state: ByteState, tokens) -> ByteState:
    return model.advance_unchecked(state, tokens)[0]
