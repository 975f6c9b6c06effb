"""The algebra of softmax averages, on which the whole library rests.

Attention over a set of keys is a weighted mean of their values and the weight of the
whole set. Two such averages over disjoint sets merge into the average over the union.
Prefix scans, key tiles, context, windows and streaming states are all that one merge.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


class SoftmaxAverage(eqx.Module):
    """A softmax-weighted mean of values over some set of keys, for each row.

    Attributes:
        lse: log of the summed exponentials of the scores; `-inf` for no keys.
        value: the weighted mean of the values; zero for no keys.
    """

    lse: Float[Array, "*rows"]
    value: Float[Array, "*rows v_dim"]


def empty_average(
    rows: tuple[int, ...], v_dim: int, dtype: DTypeLike = jnp.float32
) -> SoftmaxAverage:
    """The identity of `merge`: the average over no keys.

    Args:
        rows: shape of the log-sum-exp, for instance `(latents, heads)`.
        v_dim: width of the values.
        dtype: precision of the state.
    """
    return SoftmaxAverage(
        lse=jnp.full(rows, -jnp.inf, dtype), value=jnp.zeros((*rows, v_dim), dtype)
    )


def merge(a: SoftmaxAverage, b: SoftmaxAverage) -> SoftmaxAverage:
    """The average over the union of two disjoint sets of keys.

    Associative and commutative; `empty_average` is its identity. Row shapes broadcast.
    Differentiable in every leaf, empty rows included.

    Returns:
        the merged average, in the promoted dtype of the two.

    Source:
        Rabe & Staats, "Self-attention Does Not Need O(n^2) Memory" (2021), §2.
    """
    both_empty = jnp.isneginf(a.lse) & jnp.isneginf(b.lse)
    a_lse, b_lse = (jnp.where(both_empty, 0.0, lse) for lse in (a.lse, b.lse))
    gap = b_lse - a_lse
    a_share = jax.nn.sigmoid(-gap)[..., None]
    b_share = jax.nn.sigmoid(gap)[..., None]
    return SoftmaxAverage(
        lse=jnp.where(both_empty, -jnp.inf, jnp.logaddexp(a_lse, b_lse)),
        value=a_share * a.value + b_share * b.value,
    )
