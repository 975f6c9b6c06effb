"""Vectors for the last few bytes together, found by a hash."""

from collections.abc import Sequence
from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, UInt32

from ..checks import check_sizes
from ..draws import normal
from ..mesh import gathered


# Odd numbers without a pattern, to multiply by modulo 2^32.
_STEP, _SPREAD = 0x01000193, 0x9E3779B1
# In the place of a byte where a text has not begun.
NOTHING = -1


class NgramEmbedding(eqx.Module):
    """Of each byte the sum of one vector per order: of itself and the bytes before it,
    as many together as the order says. Unlike bytes may share a vector by chance.

    It costs next to no operations, and spares the layers above what is frequent.

    Source:
        Pagnoni et al., "Byte Latent Transformer" (2024), §3.2.1.
    """

    tables: Float[Array, "orders rows dim"]
    orders: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, orders: Sequence[int], num_rows: int, dim: int, *, key: PRNGKeyArray
    ):
        """
        Args:
            orders: how many bytes are looked up together, each at least 2.
            num_rows: of each order's table, a power of 2.
            dim: channels.

        Raises:
            ValueError: for no order or one below 2, or another number of rows.
        """
        check_ngrams(orders, num_rows)
        self.orders = tuple(orders)
        self.tables = normal(key, (len(self.orders), num_rows, dim), 0.1)

    @property
    def reach(self) -> int:
        """How many bytes before a byte are looked at."""
        return max(self.orders) - 1

    @jax.named_scope("pqx.ngrams")
    def __call__(
        self,
        symbols: Int[Array, " bytes"],
        before: Int[Array, " reach"],
        dtype: DTypeLike,
    ) -> Float[Array, "bytes dim"]:
        """The vectors of some bytes, given those before them, `NOTHING` where there
        were none."""
        hashes = ngram_hashes(jnp.concatenate([before, symbols]), self.orders)
        num_rows = self.tables.shape[1]
        rows = (hashes[:, before.size :] % num_rows).astype(jnp.int32)
        # Summed in the dtype of the tables, and so is the gradient, where rows meet.
        tables, rows = gathered(self.tables, rows, self.tables.dtype)
        found = [table[at] for table, at in zip(tables, rows, strict=True)]
        return reduce(jnp.add, found).astype(dtype)


def check_ngrams(orders: Sequence[int], num_rows: int) -> None:
    """Refuse what no `NgramEmbedding` can be made of.

    Raises:
        ValueError: for no order or one below 2, or a number of rows that is no power
            of 2.
    """
    if not orders:
        raise ValueError(f"`ngrams` must hold at least one order, got {orders!r}.")
    for order in orders:
        check_sizes(2, ngrams=order)
    check_sizes(2, ngram_rows=num_rows)
    if num_rows & (num_rows - 1):
        below = 1 << (num_rows.bit_length() - 1)
        raise ValueError(
            f"`ngram_rows` must be a power of 2, got {num_rows}; the nearest are "
            f"{below} and {2 * below}."
        )


def ngram_hashes(
    symbols: Int[Array, " bytes"], orders: Sequence[int]
) -> UInt32[Array, "orders bytes"]:
    """A number for each byte and order, of the byte and those before it."""
    symbols = (symbols + 1).astype(jnp.uint32)
    hashed, hashes = jnp.zeros_like(symbols), {}
    for back in range(max(orders)):
        late = jnp.pad(symbols, (back, 0))[: symbols.size]
        hashed = hashed * jnp.uint32(_STEP) + late
        mixed = (hashed ^ (hashed >> 15)) * jnp.uint32(_SPREAD)
        hashes[back + 1] = mixed ^ (mixed >> 16)
    return jnp.stack([hashes[order] for order in orders])
