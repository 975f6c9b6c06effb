"""The algebra of softmax averages, on which the whole library rests.

Attention over a set of keys is a weighted mean of their values and the weight of the
whole set. Two such averages over disjoint sets merge into the average over the union.
Prefix scans, key tiles, context, windows and streaming states are all that one merge.

The logarithm of the weight is held as the sum of two floats, the second what rounding
takes from the first. With one float, a merge at scores of 10,000 would shift weights by
1e-3, and a stream of millions of merges would drift at any scores.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float


# Checkpoint policies know the results of attention by this name, to keep them.
ATTENDED = "pqx.attended"


class SoftmaxAverage(eqx.Module):
    """A softmax-weighted mean of values over some set of keys, for each row.

    Attributes:
        top, rest: their sum is the log of the summed exponentials of the scores;
            `top` is `-inf` for no keys.
        value: the weighted mean of the values; zero for no keys.
    """

    top: Float[Array, "*rows"]
    rest: Float[Array, "*rows"]
    value: Float[Array, "*rows v_dim"]

    def __init__(
        self,
        lse: Float[Array, "*rows"],
        value: Float[Array, "*rows v_dim"],
        rest: Float[Array, "*rows"] | None = None,
    ):
        """
        Args:
            lse: log of the summed exponentials of the scores; `-inf` for no keys.
            value: the weighted mean of the values; zero for no keys.
            rest: what rounding took from `lse`, to be added to it; `None` for nothing.
        """
        self.top = lse
        self.rest = jnp.zeros_like(lse) if rest is None else rest
        self.value = value

    @property
    def lse(self) -> Float[Array, "*rows"]:
        """Log of the summed exponentials of the scores, rounded; `-inf` for no keys."""
        return self.top + self.rest


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
    top = lax.stop_gradient(finite_top(jnp.maximum(a.top, b.top)))
    # Not exp(gap + rest): XLA adds up the two parts of an average that is a constant.
    a_weight, b_weight = (jnp.exp(x.top - top) * jnp.exp(x.rest) for x in (a, b))
    a_leads = a_weight >= b_weight
    heavy, light = (
        SoftmaxAverage(
            lse=jnp.where(which, a.top, b.top),
            value=jnp.where(which[..., None], a.value, b.value),
            rest=jnp.where(which, a.rest, b.rest),
        )
        for which in (a_leads, ~a_leads)
    )
    most = jnp.maximum(a_weight, b_weight)
    ratio = jnp.minimum(a_weight, b_weight) / jnp.where(most == 0, 1.0, most)
    # The light one moves the heavy one. As a sum of two shares, whose rounding is not
    # even, the value would drift over very many merges; so would log(1 + ratio).
    share = (ratio / (1 + ratio))[..., None]
    rest = jnp.where(most == 0, -jnp.inf, heavy.rest + jnp.log1p(ratio))
    value = heavy.value + share * (light.value - heavy.value)
    return average_of(finite_top(heavy.top), rest, value)


def merge_all(averages: SoftmaxAverage) -> SoftmaxAverage:
    """`merge` over the first axis."""
    if averages.top.shape[0] == 1:
        return jax.tree.map(lambda x: x[0], averages)
    top = finite_top(lax.stop_gradient(averages.top.max(0)))
    weights = jnp.exp(averages.top - top) * jnp.exp(averages.rest)
    total = weights.sum(0)
    shares = weights / jnp.where(total == 0, 1.0, total)
    value = (shares[..., None] * averages.value).sum(0)
    return average_of(top, log_weight(total), value)


def finite_top(top: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """A number to take off scores before their exponentials: 0 where all are `-inf`."""
    return jnp.where(jnp.isneginf(top), 0.0, top)


def log_weight(total: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The logarithm of a sum of weights, `-inf` for 0 with a gradient of 0."""
    return jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1.0, total)))


def average_of(
    top: Float[Array, "*rows"],
    rest: Float[Array, "*rows"],
    value: Float[Array, "*rows v_dim"],
) -> SoftmaxAverage:
    """An average whose log-sum-exp is `top + rest`, parted anew so that the second is
    what rounding takes from the first.

    Args:
        top: finite.
        rest: `-inf` for no keys.
        value: the weighted mean of the values.

    Source:
        Knuth, "The Art of Computer Programming" 2 (1997), §4.2.2, for the exact error
        of a sum.
    """
    empty = jnp.isneginf(rest)
    rest = jnp.where(empty, 0.0, rest)
    base, addend = lax.stop_gradient((top, rest))
    rounded = base + addend
    taken = rounded - base
    lost = (base - (rounded - taken)) + (addend - taken)
    # The value of `lost`; the gradient of both arguments.
    rest = lost + (rest - addend) + (top - base)
    return SoftmaxAverage(
        lse=jnp.where(empty, -jnp.inf, rounded),
        value=value,
        rest=jnp.where(empty, 0.0, rest),
    )
