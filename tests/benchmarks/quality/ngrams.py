"""Vectors for the last few bytes together, found by a hash: nearly no operations."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, UInt8


# Odd numbers without a pattern, to multiply by modulo 2^32.
_STEP, _SPREAD = 0x01000193, 0x9E3779B1


class NgramEmbedding(eqx.Module):
    """Of each byte the sum of a vector per order: for itself and the bytes before it,
    as many as the order says. Unlike texts may share a vector.

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
            orders: bytes that are looked up together, each at least 2.
            num_rows: of each order's table, a power of 2.
            dim: channels.
        """
        self.orders = tuple(orders)
        self.tables = 0.1 * jr.normal(key, (len(self.orders), num_rows, dim))

    def __call__(
        self, data: UInt8[Array, " bytes"], dtype: DTypeLike
    ) -> Float[Array, "bytes dim"]:
        """The vectors of a text from its beginning on."""
        bits = self.tables.shape[1].bit_length() - 1
        indices = ngram_hashes(data, self.orders) >> (32 - bits)
        found = [table[at] for table, at in zip(self.tables, indices, strict=True)]
        # Summed in float32, and so is the gradient, in which rows meet.
        return sum(found[1:], found[0]).astype(dtype)


def ngram_hashes(
    data: UInt8[Array, " bytes"], orders: Sequence[int]
) -> Int[Array, "orders bytes"]:
    """32 bits for each byte and order. What lies before the text counts as one symbol
    more."""
    symbols = data.astype(jnp.uint32) + 1
    seen, hashes = jnp.zeros_like(symbols), []
    for back in range(max(orders)):
        late = jnp.pad(symbols, (back, 0))[: symbols.size]
        seen = seen * jnp.uint32(_STEP) + late
        if back + 1 in orders:
            mixed = (seen ^ (seen >> 15)) * jnp.uint32(_SPREAD)
            hashes.append((mixed ^ (mixed >> 13)) * jnp.uint32(_SPREAD))
    return jnp.stack(hashes)
