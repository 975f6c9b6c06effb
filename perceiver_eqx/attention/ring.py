"""Causal attention between steps that lie on many devices: keys and values go round in
a ring, and every device merges what its queries find in each of their parts.

Steps are dealt out in runs (`TimeAxis`), so that each device has early and late ones:
with several runs, all have about as much to do. The mask between two devices' runs is
block-causal in its turn, a run in the place of a step.

Backward, the parts go round once more with their gradients, which come home at the end:
nothing of the whole sequence is held anywhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ..time_axis import TimeAxis
from .blockwise import blockwise_average, blockwise_gradients
from .masks import StepMask
from .softmax import ATTENDED, merge


class _Sizes(NamedTuple):
    steps: int
    rows: int


@jax.named_scope("pqx.ring_attend")
def ring_attend(
    query: Float[Array, "steps rows heads head_dim"],
    key: Float[Array, "steps rows heads head_dim"],
    value: Float[Array, "steps rows heads v_dim"],
    time: TimeAxis,
) -> Float[Array, "steps rows heads v_dim"]:
    """Attention of each step's rows to those of all steps up to their own, wherever
    these lie.

    Args:
        query, key, value: of this device's steps.

    Source:
        Liu et al., "Ring Attention" (2023); Brandon et al., "Striped Attention" (2023),
        for steps that are dealt out.
    """
    steps, rows = query.shape[:2]
    time.run_of(steps)
    flat = [x.reshape(steps * rows, *x.shape[2:]) for x in (query, key, value)]
    out = jnp.asarray(_ring(*flat, _Sizes(steps, rows), time))
    return out.reshape(steps, rows, *out.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _ring(query, key, value, sizes: _Sizes, time: TimeAxis):
    return _forward(query, key, value, sizes, time)[0]


def _forward(query, key, value, sizes, time):
    def add(average, part, mask):
        key, value = part
        return merge(average, blockwise_average(query, key, value, mask)), part

    average = blockwise_average(query, key, value, _own_mask(sizes))
    average, _ = _round(add, average, (key, value), sizes, time)
    average = checkpoint_name(average, ATTENDED)
    return average.value.astype(value.dtype), (query, key, value, average)


def _backward(sizes, time, residuals, d_out):
    query, key, value, average = residuals

    def gradients(key, value, mask):
        return blockwise_gradients(query, key, value, mask, average, d_out)

    def add(d_query, part, mask):
        key, value, *of_keys = part
        of_query, *more = gradients(key, value, mask)
        return d_query + of_query, [key, value, *map(jnp.add, of_keys, more)]

    d_query, *of_keys = gradients(key, value, _own_mask(sizes))
    d_query, part = _round(add, d_query, [key, value, *of_keys], sizes, time)
    # Now they are where the next device's keys are.
    of_keys = time.to_next(part[2:])
    return tuple(
        gradient.astype(x.dtype)
        for gradient, x in zip((d_query, *of_keys), (query, key, value), strict=True)
    )


_ring.defvjp(_forward, _backward)


def _own_mask(sizes: _Sizes) -> StepMask:
    return StepMask(sizes.steps, sizes.steps, sizes.rows, sizes.rows)


def _round(
    add: Callable, start: Any, part: Any, sizes: _Sizes, time: TimeAxis
) -> tuple[Any, Any]:
    """Folds `add` over the parts of all other devices: from a sum, a part and the mask
    of these queries to it, to the sum and what of the part goes on."""
    rows_of_run = time.run_of(sizes.steps) * sizes.rows

    def hop(carry, distance):
        found, part = carry
        # Runs of devices before this one are earlier than its own of the same number.
        later = distance > time.index
        mask = StepMask(
            *(time.runs, time.runs, rows_of_run, rows_of_run),
            query_start=-later.astype(jnp.int32),
        )
        return add(found, time.to_next(part), mask), None

    return lax.scan(hop, (start, part), jnp.arange(1, time.size))[0]
