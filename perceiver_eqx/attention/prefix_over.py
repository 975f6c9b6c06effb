"""`prefix_attend` over steps that lie on many devices: each tells the others the
average over its own tokens, and goes on from what those before it told.

That is one average per latent and head from every device, however long the sequence.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..time_axis import TimeAxis
from .dense import state_dtype
from .softmax import (
    SoftmaxAverage,
    average_of,
    empty_average,
    finite_top,
    log_weight,
    merge,
)


# Steps that are averaged at once: so few that their scores take little memory, and so
# many that there are few such tiles.
TILE = 1024


@jax.named_scope("pqx.prefix_over")
def prefix_over(
    query: Float[Array, "latents heads head_dim"],
    key: Float[Array, "steps tokens heads head_dim"],
    value: Float[Array, "steps tokens heads v_dim"],
    time: TimeAxis,
    *,
    rate: Float[Array, "latents heads"] | None = None,
    initial: SoftmaxAverage,
    mask: Bool[Array, "steps tokens"] | None = None,
) -> tuple[SoftmaxAverage, SoftmaxAverage]:
    """What was seen before the steps of this device, and after those of all.

    Args:
        query, key, value, rate, mask: as of `prefix_attend`, of this device's steps,
            which are a single run.
        initial: what was seen before the steps of all devices, which all know.
    """
    time.check_one_run()
    steps = key.shape[0]
    dtype = state_dtype(query, key, value)
    rate = jnp.zeros(query.shape[:2]) if rate is None else rate
    rate = rate.astype(dtype)
    told = time.of_all(total_prefix(query, key, value, rate, mask))
    start: SoftmaxAverage = jax.tree.map(lambda x: x.astype(dtype), initial)

    def add(seen, of_device):
        return merge(_aged(seen, rate, steps), of_device), seen

    after, before = lax.scan(add, start, told)
    return jax.tree.map(lambda x: x[time.index], before), after


def total_prefix(
    query: Float[Array, "latents heads head_dim"],
    key: Float[Array, "steps tokens heads head_dim"],
    value: Float[Array, "steps tokens heads v_dim"],
    rate: Float[Array, "latents heads"],
    mask: Bool[Array, "steps tokens"] | None,
) -> SoftmaxAverage:
    """The average that `prefix_attend` gives after the last step, from nothing before
    the first, without the steps between."""
    steps = key.shape[0]
    mask = jnp.ones(key.shape[:2], bool) if mask is None else mask
    tile = min(TILE, steps)
    count = -(-steps // tile)

    def cut(x: Array) -> Array:
        # What fills it up comes first, where it is the oldest.
        filled = [(count * tile - steps, 0)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, filled).reshape(count, tile, *x.shape[1:])

    ages = jnp.arange(tile - 1, -1, -1)
    loss = rate[..., None, None] * ages[:, None]

    @jax.checkpoint
    def add(carried, of_tile):
        key, value, mask = of_tile
        scores = jnp.einsum(
            "chd,tihd->chti", query, key, preferred_element_type=rate.dtype
        )
        scores = jnp.where(mask, scores * query.shape[-1] ** -0.5 - loss, -jnp.inf)
        top = finite_top(lax.stop_gradient(scores.max((-2, -1))))
        weights = jnp.exp(scores - top[..., None, None])
        total = weights.sum((-2, -1))
        shares = weights / jnp.where(total == 0, 1.0, total)[..., None, None]
        mean = jnp.einsum(
            "chti,tihd->chd",
            shares.astype(value.dtype),
            value,
            preferred_element_type=rate.dtype,
        )
        own = average_of(top, log_weight(total), mean)
        return merge(_aged(carried, rate, tile), own), None

    start = empty_average(query.shape[:2], value.shape[-1], rate.dtype)
    return lax.scan(add, start, tuple(map(cut, (key, value, mask))))[0]


def _aged(average: SoftmaxAverage, rate: Array, steps: int) -> SoftmaxAverage:
    """The average, so many steps later."""
    empty = jnp.isneginf(average.top)
    top = jnp.where(empty, 0.0, average.top) - rate * steps
    rest = jnp.where(empty, -jnp.inf, average.rest)
    return average_of(top, rest, average.value)
