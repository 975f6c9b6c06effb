"""Causal cross-attention of replicated latents, linear in the input.

Replicated latents ask the same query at every step, so what they see up to a step is
what they saw up to the step before, merged with the step's own tokens: a prefix scan of
`merge`. Its state is one `SoftmaxAverage` per latent and head, at any length.

The scan goes over tiles of steps. Inside a tile every step averages its own tokens, and
a small causal matrix of weights mixes those averages and the carried one. The backward
pass keeps what is carried between tiles, and computes the rest again. On a GPU, long
inputs in bfloat16 go through the kernels of `prefix_fused` instead.
"""

import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..checks import check_shape
from .dense import state_dtype
from .prefix_fused import fused_prefix_attend
from .softmax import (
    SoftmaxAverage,
    average_of,
    empty_average,
    finite_top,
    log_weight,
    merge,
)
from .triton import HAS_TRITON


TILE = 32  # steps: small against the tokens of a tile, large against a loop's overhead


@jax.named_scope("pqx.prefix_attend")
def prefix_attend(
    query: Float[Array, "latents heads head_dim"],
    key: Float[Array, "steps tokens heads head_dim"],
    value: Float[Array, "steps tokens heads v_dim"],
    *,
    rate: Float[Array, "latents heads"] | None = None,
    initial: SoftmaxAverage | None = None,
    context: SoftmaxAverage | None = None,
    mask: Bool[Array, "steps tokens"] | None = None,
) -> tuple[Float[Array, "steps latents heads v_dim"], SoftmaxAverage]:
    """Attention of the same queries, at each step, over the tokens of all steps so far.

    Equal to dense attention with the queries replicated over the steps under
    `StepMask(steps, steps, latents, tokens)`, in O(steps * tokens) time and memory.

    Args:
        query: one query per latent and head.
        key, value: the tokens, grouped by step.
        rate: recency, at least 0 (not checked): a token that is `n` steps old has
            `rate * n` taken off its score (the same softmax as `rate * step` added).
            `None` is 0.
        initial: what was seen before the first step, as returned for earlier steps.
            It is one step old at the first step.
        context: what every step sees beside the tokens, and what never ages.
        mask: false for tokens to leave out.

    Returns:
        the attended values in the dtype of `value` (zeros where nothing was
        seen yet), and the average after the last step, without the context, to carry on
        from.

    Raises:
        ValueError: for shapes that do not fit each other, no steps, or no tokens in a
            step.

    Source:
        the seed's causal input cross-attention, as a scan of `merge`.
    """
    check_shape("query", query, "latents heads head_dim")
    latents, heads, head_dim = query.shape
    known = {"latents": latents, "heads": heads, "head_dim": head_dim}
    check_shape("key", key, "steps tokens heads head_dim", **known)
    steps, tokens = key.shape[:2]
    known |= {"steps": steps, "tokens": tokens}
    check_shape("value", value, "steps tokens heads v_dim", **known)
    if rate is not None:
        check_shape("rate", rate, "latents heads", **known)
    if mask is not None:
        check_shape("mask", mask, "steps tokens", **known)
    if steps == 0 or tokens == 0:
        raise ValueError(
            f"`key` must hold at least one step of one token, got {steps} steps of "
            f"{tokens} tokens."
        )
    dtype = state_dtype(query, key, value)
    rate = jnp.zeros(query.shape[:2]) if rate is None else rate
    rate = rate.astype(dtype)
    if initial is None:
        initial = empty_average(query.shape[:2], value.shape[-1], dtype)
    start: SoftmaxAverage = jax.tree.map(lambda x: x.astype(dtype), initial)
    if context is not None:
        context = jax.tree.map(lambda x: x.astype(dtype), context)
    fused = _suits_kernels(query, key, value)
    attend = fused_prefix_attend if fused else scan_prefixes
    return attend(query, key, value, rate, start, context, mask)


def _suits_kernels(query: Array, key: Array, value: Array) -> bool:
    """Whether the fused kernels serve these arrays, and are worth it. Not float16: its
    range is too small for sums of the cotangents of a million steps."""
    latents, _, head_dim = query.shape
    suits = (
        jax.default_backend() == "gpu"
        and {x.dtype for x in (query, key, value)} == {jnp.dtype(jnp.bfloat16)}
        and head_dim == value.shape[-1]
        and head_dim in (32, 64, 128)
        and latents <= 16
        and key.shape[0] > 4 * TILE
    )
    if suits and not HAS_TRITON:
        warnings.warn(
            "The fused kernels of prefix_attend step aside, since this version of JAX "
            "has no Triton backend; a slower scan serves.",
            stacklevel=3,
        )
    return suits and HAS_TRITON


def scan_prefixes(
    query: Float[Array, "latents heads head_dim"],
    key: Float[Array, "steps tokens heads head_dim"],
    value: Float[Array, "steps tokens heads v_dim"],
    rate: Float[Array, "latents heads"],
    initial: SoftmaxAverage,
    context: SoftmaxAverage | None,
    mask: Bool[Array, "steps tokens"] | None,
) -> tuple[Float[Array, "steps latents heads v_dim"], SoftmaxAverage]:
    """`prefix_attend` in plain JAX, for any sizes and dtypes."""
    dtype, steps = rate.dtype, key.shape[0]
    mask = jnp.ones(key.shape[:2], bool) if mask is None else mask
    tile = min(TILE, steps)
    count = -(-steps // tile)
    by_tile = tuple(_cut(x, count, tile) for x in (key, value, mask))
    lengths = jnp.minimum(steps - tile * jnp.arange(count), tile)

    @jax.checkpoint
    def attend_tile(carried, tile_of):
        key, value, mask, length = tile_of
        # Rows of padding repeat the last step: what is carried on is then its own.
        clock = jnp.minimum(jnp.arange(tile), length - 1)
        by_step = _step_averages(query, key, value, mask, dtype)
        seen = _prefixes(carried, by_step, rate, clock)
        average = seen if context is None else merge(seen, context)
        return jax.tree.map(lambda x: x[-1], seen), average.value.astype(value.dtype)

    final, out = lax.scan(attend_tile, initial, (*by_tile, lengths))
    return out.reshape(-1, *out.shape[2:])[:steps], final


def _step_averages(query, key, value, mask, dtype) -> SoftmaxAverage:
    """Each step's tokens, averaged on their own."""
    scores = jnp.einsum("chd,tihd->tchi", query, key, preferred_element_type=dtype)
    scores = scores * query.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    top = finite_top(lax.stop_gradient(scores.max(-1)))
    weights = jnp.exp(scores - top[..., None])
    total = weights.sum(-1)
    safe = jnp.where(total == 0, 1.0, total)
    weights = (weights / safe[..., None]).astype(value.dtype)
    mean = jnp.einsum("tchi,tihd->tchd", weights, value, preferred_element_type=dtype)
    return average_of(top, log_weight(total), mean)


def _prefixes(
    carried: SoftmaxAverage, by_step: SoftmaxAverage, rate, clock
) -> SoftmaxAverage:
    """The average over all up to each step: what was carried (column 0) and the steps
    of this tile, each lighter by its age."""
    columns = jax.tree.map(
        lambda first, others: jnp.concatenate([first[None], others]), carried, by_step
    )
    age = clock[:, None] - jnp.arange(-1, clock.size)
    seen = (age >= 0)[..., None, None]
    loss = rate * age[..., None, None]
    tops = lax.stop_gradient(jnp.where(seen, columns.top - loss, -jnp.inf))
    top = finite_top(tops.max(1))
    # Large numbers cancel first: what is left is small, and rounded little.
    scores = (columns.top - top[:, None]) - loss
    weights = jnp.exp(jnp.where(seen, scores, -jnp.inf)) * jnp.exp(columns.rest)
    old, new = weights[:, 0], weights[:, 1:].sum(1)
    total = old + new
    safe = jnp.where(total == 0, 1.0, total)
    moved = jnp.einsum(
        "tjch,jchd->tchd",
        weights[:, 1:] / safe[:, None],
        by_step.value,
        precision=lax.Precision.HIGHEST,
    )
    # As in `merge`: where the carried average weighs most, it is moved a little.
    leads = old > new
    ratio = jnp.where(leads, new / jnp.where(leads, old, 1.0), 0.0)
    start = jnp.where(leads, scores[:, 0] + carried.rest, 0.0)
    rest = jnp.where(leads, start + jnp.log1p(ratio), log_weight(total))
    old, new = ((x / safe)[..., None] for x in (old, new))
    mean = jnp.where(
        leads[..., None],
        carried.value + (moved - new * carried.value),
        moved + old * carried.value,
    )
    return average_of(top, rest, mean)


def _cut(x: Array, count: int, tile: int) -> Array:
    """Into `count` tiles of steps, the last one filled with zeros."""
    padding = [(0, count * tile - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(count, tile, *x.shape[1:])
