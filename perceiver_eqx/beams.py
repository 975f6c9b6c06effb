"""Beam search: the most likely continuations, rather than random ones."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int, UInt8

from .adapters.byte_lm import ByteLM
from .adapters.byte_state import ByteState
from .adapters.bytes import NUM_BYTES, Symbols
from .adapters.open_step import begin_step, end_step, predict, put, ready
from .checks import check_sizes
from .prompts import read_prompts


class Continuation(NamedTuple):
    """Bytes that go on from a prompt, and the natural logarithm of their probability
    after it."""

    data: UInt8[Array, " num_bytes"]
    log_prob: float


def beam_search(
    model: ByteLM,
    prompt: Symbols,
    num_bytes: int,
    *,
    num_beams: int = 4,
    context: Symbols | None = None,
    state: ByteState | None = None,
) -> list[Continuation]:
    """The likeliest continuations that are found by following the `num_beams` likeliest
    ones byte by byte.

    Args:
        prompt, num_bytes, context, state: as in `generate`.
        num_beams: how many to follow, at least 1; with 1, the likeliest byte each time.

    Returns:
        the continuations, likeliest first: `num_beams`, or fewer if there are not so
        many of the length.

    Raises:
        ValueError, TypeError, RuntimeError: as `generate` does.
    """
    check_sizes(num_beams=num_beams)
    states, _ = read_prompts(model, [prompt], num_bytes, context, state)
    inside = int(jnp.sum(states.unfinished >= 0))
    per_step = model.bytes_per_step
    states = jax.tree.map(lambda x: jnp.repeat(x, num_beams, 0), states)
    model = ready(model)
    # At first all beams are one.
    scores = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
    found = np.zeros((num_beams, 0), np.uint8)
    steps = -(-(inside + num_bytes) // per_step)
    for step in range(steps):
        # After the end, anything goes, at no cost.
        free = min(per_step, inside + num_bytes - step * per_step)
        states, scores, parents, drawn = _beam_step(
            model, states, scores, jnp.int32(free)
        )
        drawn = np.asarray(drawn, np.uint8)
        found = np.concatenate([found[np.asarray(parents)], drawn], 1)
    found = found[:, inside : inside + num_bytes]
    return [
        Continuation(jnp.asarray(data), float(score))
        for data, score in zip(found, scores, strict=True)
        if score > -jnp.inf
    ]


@eqx.filter_jit
def _beam_step(
    model: ByteLM,
    states: ByteState,
    scores: Float[Array, " beams"],
    free: Int[Array, ""],
) -> tuple[
    ByteState,
    Float[Array, " beams"],
    Int[Array, " beams"],
    Int[Array, "beams bytes_per_step"],
]:
    """One step of all beams, of which the first `free` bytes count: their states and
    scores, which of the given beams each comes from, and its bytes."""
    given = states.unfinished[0]  # of the prompt, the same in all
    beams, per_step = states.unfinished.shape
    after, steps = jax.vmap(begin_step, (None, 0))(model, states)

    def take_byte(carry, position):
        scores, parents, steps, drawn = carry
        steps, logits = jax.vmap(predict, (None, 0, None))(model, steps, position)
        forced = jnp.where(position < free, given[position], 0)
        only = jnp.where(jnp.arange(NUM_BYTES) == forced, 0.0, -jnp.inf)
        each = jnp.where(forced >= 0, only, log_softmax(logits))
        scores, places = lax.top_k((scores[:, None] + each).ravel(), beams)
        of_beam, byte = jnp.divmod(places, NUM_BYTES)
        parents, steps, drawn = jax.tree.map(
            lambda x: x[of_beam], (parents, steps, drawn)
        )
        steps = jax.vmap(put, (None, 0, None, 0))(model, steps, position, byte)
        return (scores, parents, steps, drawn.at[:, position].set(byte)), None

    nothing = jnp.zeros((beams, per_step), jnp.int32)
    start = scores, jnp.arange(beams), steps, nothing
    taken, _ = lax.scan(take_byte, start, jnp.arange(per_step))
    scores, parents, steps, drawn = taken
    after = jax.tree.map(lambda x: x[parents], after)
    return jax.vmap(end_step)(after, steps), scores, parents, drawn
