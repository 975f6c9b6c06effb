"""Scoring: how probable a model holds data of any length to be."""

import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int, Integer

from .adapters.byte_lm import ByteLM
from .adapters.byte_state import ByteState
from .adapters.bytes import Symbols, symbols_of
from .checks import check_sizes
from .prompts import begin, check_model


def log_prob(
    model: ByteLM,
    data: Symbols | os.PathLike,
    *,
    context: Symbols | None = None,
    chunk_steps: int = 512,
) -> float:
    """The logarithm of the probability of data, in one pass.

    With a finite `latent_window` it takes the memory of one chunk, however long the
    data are; a file is read as it is needed. Divide by `-len(data) * math.log(2)` for
    bits per byte.

    Args:
        data: bytes, or the path of a file that holds them.
        context: bytes that every step sees, for a model with `use_context`.
        chunk_steps: how many steps to take at once, at least 1. A matter of speed.

    Returns:
        the natural logarithm, summed in float64; 0 for no bytes.

    Raises:
        ValueError: for values that are no bytes.
        TypeError: for data that are neither bytes, integers nor a path, or a model that
            is no `ByteLM`.
        FileNotFoundError: there is no such file.
    """
    check_model(model)
    check_sizes(chunk_steps=chunk_steps)
    if isinstance(data, os.PathLike):
        size = Path(data).stat().st_size
        symbols = np.memmap(data, np.uint8, "r") if size else np.zeros(0, np.uint8)
    else:
        symbols = symbols_of("data", data)
    if symbols.size == 0:
        return 0.0
    per_step = model.bytes_per_step
    chunk = min(chunk_steps, -(-symbols.size // per_step)) * per_step
    starts = range(0, symbols.size, chunk)
    sources = None if context is None else [symbols_of("context", context)]
    kept = len(starts) * chunk // per_step if model.latent_window is None else None
    begun, total = begin(model, sources, kept), 0.0
    state = jax.tree.map(lambda x: x[0], begun)
    for start in starts:
        piece = symbols[start : start + chunk]
        # Zeros after the end are seen by nothing before it, and do not count.
        padded = jnp.asarray(np.pad(piece, (0, chunk - piece.size)))
        tokens = padded.reshape(-1, per_step)
        state, each = _score(model, state, tokens, jnp.int32(piece.size))
        total += float(np.sum(np.asarray(each), dtype=np.float64))
    return total


@eqx.filter_jit
def _score(
    model: ByteLM,
    state: ByteState,
    tokens: Integer[Array, "steps bytes_per_step"],
    count: Int[Array, ""],
) -> tuple[ByteState, Float[Array, "steps bytes_per_step"]]:
    """The logarithm of each byte's probability; 0 from the `count`-th on."""
    after, logits = model.advance_unchecked(state, tokens)
    chosen = tokens[..., None].astype(jnp.int32)
    each = jnp.take_along_axis(log_softmax(logits), chosen, -1)[..., 0]
    place = jnp.arange(tokens.size).reshape(tokens.shape)
    return after, jnp.where(place < count, each, 0.0)
