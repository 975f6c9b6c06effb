"""Attention to what lies on many devices: keys and values go round in a ring, and every
device merges what its queries find in each of their parts.

`ring_attend` is causal attention between steps. They are dealt out in runs
(`TimeAxis`), so that each device has early and late ones: with several runs, all have
about as much to do. `ring_ask` is attention to the tokens of a context, which all see.

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
from jaxtyping import Array, Float, Int

from ..time_axis import TimeAxis
from .cudnn import CudnnKernel, cudnn_refusal
from .masks import first_keys
from .parts import RowKernel
from .ring_parts import FusedParts, Part, RingEngine, RingSizes, TiledParts
from .ring_tokens import FusedTokens, TiledTokens
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
    query, key, value = (
        x.reshape(steps * rows, *x.shape[2:]) for x in (query, key, value)
    )
    sizes = RingSizes(steps, rows, time.runs)
    if kernel is None and cudnn_refusal(query, key, value, sizes.own_mask, 0.0) is None:
        kernel = CudnnKernel()
    engine = TiledParts(sizes) if kernel is None else FusedParts(sizes, kernel)
    out = jnp.asarray(_ring(query, Part(key, value), engine, time))
    return out.reshape(steps, rows, *out.shape[1:])


@jax.named_scope("pqx.ring_ask")
def ring_ask(
    query: Float[Array, "rows heads head_dim"],
    key: Float[Array, "tokens heads head_dim"],
    value: Float[Array, "tokens heads v_dim"],
    count: Int[Array, ""],
    time: TimeAxis,
    kernel: RowKernel | None = None,
) -> Float[Array, "rows heads v_dim"]:
    """Attention of this device's rows to the tokens of all devices.

    Args:
        query: of this device.
        key, value, count: of its tokens, of which the first `count` are there. All
            devices have room for as many.
        kernel: as of `ring_attend`.
    """
    mask = first_keys(query.shape[0], key.shape[0], count)
    if kernel is None and cudnn_refusal(query, key, value, mask, 0.0) is None:
        kernel = CudnnKernel()
    engine = TiledTokens() if kernel is None else FusedTokens(kernel)
    return jnp.asarray(_ring(query, Part(key, value, count), engine, time))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _ring(query, part: Part, engine: RingEngine, time: TimeAxis):
    return _forward(query, part, engine, time)[0]


def _forward(query, part: Part, engine: RingEngine, time):
    def add(average, part, later):
        return merge(average, engine.average(query, part, later))

    dtype = part.value.dtype
    average = engine.average(query, part, None)
    average = _over_others(add, average, part, time)
    kept = checkpoint_name(engine.kept(average, dtype), ATTENDED)
    # Of what is kept, or a layer that is computed again would go round once more.
    return engine.out(kept, dtype), (query, part, kept)


def _backward(engine: RingEngine, time, residuals, d_out):
    query, part, kept = residuals

    def add(found, part, later):
        d_query, of_keys = found
        of_query, *more = engine.gradients(query, part, kept, d_out, later)
        # What was found of this part so far is where the device before had it.
        return d_query + of_query, [*map(jnp.add, time.to_next(of_keys), more)]

    d_query, *of_keys = engine.gradients(query, part, kept, d_out, None)
    d_query, of_keys = _over_others(add, (d_query, of_keys), part, time)
    # Now they are where the next device's keys are.
    d_key, d_value = time.to_next(of_keys)
    key, value = d_key.astype(part.key.dtype), d_value.astype(part.value.dtype)
    return d_query.astype(query.dtype), Part(key, value, None)


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
