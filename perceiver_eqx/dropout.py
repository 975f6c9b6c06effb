"""Dropout after the two branches of a layer."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray


Drop = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def dropouts(
    rate: float, shape: tuple[int, ...], key: PRNGKeyArray | None
) -> tuple[Drop, Drop]:
    """Two functions of arrays of this shape. Each zeroes an entry with probability
    `rate`, rounded to a multiple of 2^-16, and scales up the rest; without a key it
    does nothing.

    To draw a random number costs more than to use it, so one serves both.
    """
    of_65536 = min(round(rate * 65536), 65535)
    if key is None or of_65536 == 0:
        return _identity, _identity
    bits = jr.bits(key, shape, jnp.uint32)

    def drop(kept: Bool[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(kept, x / (1 - of_65536 / 65536), 0)

    first, second = bits >> 16, bits & 65535
    return partial(drop, first >= of_65536), partial(drop, second >= of_65536)


def _identity(x: Array) -> Array:
    return x
