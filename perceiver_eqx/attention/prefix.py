"""Causal cross-attention of replicated latents, linear in the input.

Replicated latents ask the same query at every step, so what they see up to a step is
what they saw up to the step before, merged with the step's own tokens: a prefix scan of
`merge`. Its state is one `SoftmaxAverage` per latent and head, at any length.

The scan goes over tiles of steps. Inside a tile every step averages its own tokens, and
a small causal matrix of weights mixes those averages and the carried one. The backward
pass keeps what is carried between tiles, and computes the rest again.

What is carried holds its log-sum-exp in two parts, `top + rest`, where `rest` is small.
Differences of large scores then lose nothing to rounding, and all numbers stay bounded
at any length.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .dense import state_dtype
from .softmax import SoftmaxAverage, empty_average, merge


TILE = 32  # steps: small against the tokens of a tile, large against a loop's overhead

# Stands for a score of -inf: finite, so that the difference of two of them is a number.
NOTHING = -1e30


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
        rate: recency, at least 0: a token that is `n` steps old has `rate * n` taken
            off its score (the same softmax as `rate * step` added). `None` is 0.
        initial: what was seen before the first step, as returned for earlier steps.
            It is one step old at the first step.
        context: what every step sees beside the tokens, and what never ages.
        mask: false for tokens to leave out.

    Returns:
        the attended values in the dtype of `value` (zeros where nothing was
        seen yet), and the average after the last step, without the context, to carry on
        from.

    Raises:
        ValueError: if there are no steps or no tokens in a step.

    Source:
        the seed's causal input cross-attention, as a scan of `merge`.
    """
    steps, tokens = key.shape[:2]
    if steps == 0 or tokens == 0:
        raise ValueError(
            f"`key` must hold at least one step of one token, got {steps} steps of "
            f"{tokens} tokens."
        )
    dtype = state_dtype(query, key, value)
    rate = jnp.zeros(query.shape[:2]) if rate is None else rate
    rate = rate.astype(dtype)
    mask = jnp.ones((steps, tokens), bool) if mask is None else mask

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
        average = _joined(seen) if context is None else merge(_joined(seen), context)
        return jax.tree.map(lambda x: x[-1], seen), average.value.astype(value.dtype)

    if initial is None:
        initial = empty_average(query.shape[:2], value.shape[-1], dtype)
    carried, out = lax.scan(attend_tile, _split(initial, dtype), (*by_tile, lengths))
    return out.reshape(-1, *out.shape[2:])[:steps], _joined(carried)


class _Split(eqx.Module):
    """A softmax average whose log-sum-exp is `top + rest`. Any float near it serves as
    `top`, so no gradient goes through `top`: all of it goes through `rest`."""

    top: Float[Array, "*rows"]
    rest: Float[Array, "*rows"]
    value: Float[Array, "*rows v_dim"]


def _split(average: SoftmaxAverage, dtype) -> _Split:
    empty = jnp.isneginf(average.lse)
    lse = jnp.where(empty, 0.0, average.lse).astype(dtype)
    top = lax.stop_gradient(lse)
    return _Split(
        top=jnp.where(empty, NOTHING, top),
        rest=lse - top,
        value=average.value.astype(dtype),
    )


def _joined(split: _Split) -> SoftmaxAverage:
    empty = split.top <= NOTHING / 2
    lse = jnp.where(empty, -jnp.inf, split.top + jnp.where(empty, 0.0, split.rest))
    return SoftmaxAverage(lse=lse, value=split.value)


def _step_averages(query, key, value, mask, dtype) -> _Split:
    """Each step's tokens, averaged on their own."""
    scores = jnp.einsum("chd,tihd->tchi", query, key, preferred_element_type=dtype)
    scores = scores * query.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    top = lax.stop_gradient(jnp.maximum(scores.max(-1), NOTHING))
    weights = jnp.exp(scores - top[..., None])
    total = weights.sum(-1)
    total = jnp.where(total == 0, 1.0, total)
    weights = (weights / total[..., None]).astype(value.dtype)
    mean = jnp.einsum("tchi,tihd->tchd", weights, value, preferred_element_type=dtype)
    return _Split(top=top, rest=jnp.log(total), value=mean)


def _prefixes(carried: _Split, by_step: _Split, rate, clock) -> _Split:
    """The average over all up to each step: what was carried (column 0) and the steps
    of this tile, each lighter by its age."""
    columns = jax.tree.map(
        lambda first, others: jnp.concatenate([first[None], others]), carried, by_step
    )
    age = clock[:, None] - jnp.arange(-1, clock.size)
    seen = (age >= 0)[..., None, None]
    rest = columns.rest - rate * age[..., None, None]
    top = lax.stop_gradient(
        jnp.max(columns.top + rest, axis=1, initial=-jnp.inf, where=seen)
    )
    logits = (columns.top - top[:, None]) + rest
    weights = jnp.where(seen, jnp.exp(jnp.where(seen, logits, 0.0)), 0.0)
    total = weights.sum(1)
    mean = jnp.einsum(
        "tjch,jchd->tchd",
        weights / total[:, None],
        columns.value,
        precision=lax.Precision.HIGHEST,
    )
    return _Split(top=top, rest=jnp.log(total), value=mean)


def _cut(x: Array, count: int, tile: int) -> Array:
    """Into `count` tiles of steps, the last one filled with zeros."""
    padding = [(0, count * tile - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(count, tile, *x.shape[1:])
