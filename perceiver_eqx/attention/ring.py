"""Causal attention between steps that lie on many devices: keys and values go round in
a ring, and every device merges what its queries find in each of their parts.

Steps are dealt out in runs (`TimeAxis`), so that each device has early and late ones:
with several runs, all have about as much to do.

The next part comes while one is attended. Backward, the parts go round once more, and
behind them their gradients, which come home at the end: nothing of the whole sequence
is held anywhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ..time_axis import TimeAxis
from .cudnn import CudnnKernel, cudnn_refusal
from .parts import RowKernel
from .ring_parts import FusedParts, RingEngine, RingSizes, TiledParts
from .softmax import ATTENDED, merge


@jax.named_scope("pqx.ring_attend")
def ring_attend(
    query: Float[Array, "steps rows heads head_dim"],
    key: Float[Array, "steps rows heads head_dim"],
    value: Float[Array, "steps rows heads v_dim"],
    time: TimeAxis,
    kernel: RowKernel | None = None,
) -> Float[Array, "steps rows heads v_dim"]:
    """Attention of each step's rows to those of all steps up to their own, wherever
    these lie.

    Args:
        query, key, value: of this device's steps.
        kernel: what attends to a part; `None` for cuDNN's, or where it cannot serve for
            the portable engine.

    Source:
        Liu et al., "Ring Attention" (2023); Brandon et al., "Striped Attention" (2023),
        for steps that are dealt out.
    """
    steps, rows = query.shape[:2]
    time.run_of(steps)
    flat = [x.reshape(steps * rows, *x.shape[2:]) for x in (query, key, value)]
    sizes = RingSizes(steps, rows, time.runs)
    if kernel is None and cudnn_refusal(*flat, sizes.own_mask, 0.0) is None:
        kernel = CudnnKernel()
    engine = TiledParts(sizes) if kernel is None else FusedParts(sizes, kernel)
    out = jnp.asarray(_ring(*flat, engine, time))
    return out.reshape(steps, rows, *out.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _ring(query, key, value, engine: RingEngine, time: TimeAxis):
    return _forward(query, key, value, engine, time)[0]


def _forward(query, key, value, engine: RingEngine, time):
    def add(average, part, later):
        return merge(average, engine.average(query, *part, later))

    average = engine.average(query, key, value, None)
    average = _over_others(add, average, (key, value), time)
    kept = checkpoint_name(engine.kept(average, value.dtype), ATTENDED)
    # Of what is kept, or a layer that is computed again would go round once more.
    return engine.out(kept, value.dtype), (query, key, value, kept)


def _backward(engine: RingEngine, time, residuals, d_out):
    query, key, value, kept = residuals

    def add(found, part, later):
        d_query, of_keys = found
        of_query, *more = engine.gradients(query, *part, kept, d_out, later)
        # What was found of this part so far is where the device before had it.
        return d_query + of_query, [*map(jnp.add, time.to_next(of_keys), more)]

    d_query, *of_keys = engine.gradients(query, key, value, kept, d_out, None)
    d_query, of_keys = _over_others(add, (d_query, of_keys), (key, value), time)
    # Now they are where the next device's keys are.
    found = d_query, *time.to_next(of_keys)
    return tuple(
        gradient.astype(x.dtype)
        for gradient, x in zip(found, (query, key, value), strict=True)
    )


_ring.defvjp(_forward, _backward)


def _over_others(add: Callable, found: Any, part: Any, time: TimeAxis) -> Any:
    """Folds `add` over the parts of all other devices, of which each comes from the
    device before while the last one is added; `add` takes what was found, a part, and
    whether it is that of a later device."""
    if time.size == 1:
        return found

    def hop(carry, distance):
        found, part = carry
        coming = time.to_next(part)
        return (add(found, part, distance > time.index), coming), None

    last = time.size - 1
    carry, _ = lax.scan(hop, (found, time.to_next(part)), jnp.arange(1, last))
    return add(*carry, last > time.index)
