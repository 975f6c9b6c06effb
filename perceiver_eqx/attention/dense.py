"""The dense engine: every score at once. The oracle of the other engines, and the
fastest for small sizes."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .softmax import SoftmaxAverage, average_of, finite_top, log_weight


def state_dtype(*inputs: Array | DTypeLike) -> jnp.dtype:
    """Precision of scores and softmax: float32, or more where an input has more."""
    return jnp.result_type(jnp.float32, *inputs)


def attention_scores(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    allowed: Bool[Array, "q_len kv_len"],
    dtype: DTypeLike,
) -> Float[Array, "heads q_len kv_len"]:
    """Scaled dot products, `-inf` where not allowed."""
    scores = jnp.einsum("qhd,khd->hqk", query, key, preferred_element_type=dtype)
    # Scaling the query instead would round it where it is narrower than the scores.
    return jnp.where(allowed, scores * query.shape[-1] ** -0.5, -jnp.inf)


def keep_weights(
    rng: PRNGKeyArray, rate: float, shape: tuple[int, ...], dtype
) -> Float[Array, "..."]:
    """Inverted dropout as factors: 0 with probability `rate`, else 1 / (1 - rate)."""
    return jr.bernoulli(rng, 1 - rate, shape).astype(dtype) / (1 - rate)


def dense_average(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    allowed: Bool[Array, "q_len kv_len"],
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> SoftmaxAverage:
    """Softmax average of each query over its allowed keys.

    A row that may see nothing is the empty average: zero, with weight `-inf`.
    """
    scores = attention_scores(query, key, allowed, state_dtype(query, key, value))
    top = finite_top(jax.lax.stop_gradient(scores.max(-1, initial=-jnp.inf)))
    weights = jnp.exp(scores - top[..., None])
    total = weights.sum(-1)
    if dropout and rng is not None:
        weights = weights * keep_weights(rng, dropout, weights.shape, weights.dtype)
    # Dividing the sums rather than the weights saves a pass over the scores.
    sums = jnp.einsum(
        "hqk,khd->qhd",
        weights.astype(value.dtype),
        value,
        preferred_element_type=weights.dtype,
    )
    safe = jnp.where(total == 0, 1.0, total)
    return average_of(top.T, log_weight(total).T, sums / safe.T[..., None])
