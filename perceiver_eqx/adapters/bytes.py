"""Bytes in, bytes out: the adapters between bytes and the Perceiver's channels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, Integer, PRNGKeyArray, UInt8

from ..checks import check_shape
from ..layers import Embedding, Linear
from ..positions import LearnedPositions, sinusoids
from ..processor import CausalProcessor
from ..state import KeyValueCache


NUM_BYTES = 256
BEGIN = 256  # stands before the first byte, where nothing was read yet

# What bytes are given as: integers from 0 to 255 in an array, or Python's own.
Symbols = bytes | bytearray | np.ndarray | Array


def symbols_of(name: str, text: Symbols) -> UInt8[np.ndarray, " n"]:
    """Bytes as an array, checked.

    Raises:
        ValueError: for integers that are no bytes.
        TypeError: for anything else.
    """
    if isinstance(text, bytes | bytearray):
        text = np.frombuffer(text, np.uint8)
    elif isinstance(text, str):
        raise TypeError(f"`{name}` must be bytes, got a str; pass {name}.encode().")
    kind = getattr(text, "dtype", None)
    if kind is None or not jnp.issubdtype(kind, jnp.integer):
        raise TypeError(f"`{name}` must be bytes or an integer array, got {text!r}.")
    check_shape(name, text, name)
    symbols = np.asarray(text)
    wide = symbols.dtype != np.uint8
    if wide and symbols.size and not (0 <= symbols.min() and symbols.max() < NUM_BYTES):
        raise ValueError(
            f"`{name}` must hold bytes, 0 to 255, got {symbols.min()} to "
            f"{symbols.max()}."
        )
    return symbols.astype(np.uint8, copy=False)


class ByteInput(eqx.Module):
    """The bytes of each step, as tokens that know their place in the step."""

    embedding: Embedding
    positions: LearnedPositions

    def __init__(self, bytes_per_step: int, dim: int, *, key: PRNGKeyArray):
        """
        Args:
            bytes_per_step: tokens of a step.
            dim: channels of a token.
        """
        embedding_key, positions_key = jr.split(key)
        self.embedding = Embedding(NUM_BYTES + 1, dim, key=embedding_key)
        self.positions = LearnedPositions(bytes_per_step, dim, key=positions_key)

    @jax.named_scope("pqx.byte_input")
    def __call__(
        self, symbols: Integer[Array, "steps bytes_per_step"], dtype: DTypeLike
    ) -> Float[Array, "steps bytes_per_step dim"]:
        """Tokens of bytes (0 to 255) or `BEGIN`."""
        return self.positions(self.embedding(symbols, dtype))


class ByteContext(eqx.Module):
    """A source of bytes of any length, as tokens that know their place in it."""

    embedding: Embedding

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        """
        Args:
            dim: channels of a token, even.
        """
        self.embedding = Embedding(NUM_BYTES, dim, key=key)

    def __call__(
        self,
        symbols: Integer[Array, " source"],
        dtype: DTypeLike,
        start: Int[Array, ""] | int = 0,
    ) -> Float[Array, "source dim"]:
        """Tokens of a piece of the source, whose first byte has the place `start`."""
        tokens = self.embedding(symbols, dtype)
        places = sinusoids(start + jnp.arange(symbols.size), tokens.shape[-1])
        return tokens + places.astype(tokens.dtype)


class ByteOutput(eqx.Module):
    """The bytes of each step, one after the other: a small causal decoder over the
    positions of a step, which reads what the Perceiver says of each position and the
    bytes before it."""

    embedding: Embedding
    positions: LearnedPositions
    decoder: CausalProcessor
    logits: Linear

    def __init__(
        self,
        bytes_per_step: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        mlp_widening: int = 4,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            bytes_per_step: positions of a step.
            dim, num_layers, num_heads, mlp_widening, dropout: of the causal
                decoder inside a step.
        """
        keys = jr.split(key, 4)
        self.embedding = Embedding(NUM_BYTES + 1, dim, key=keys[0])
        self.positions = LearnedPositions(bytes_per_step, dim, key=keys[1])
        self.decoder = CausalProcessor(
            num_layers,
            dim,
            num_heads,
            window=None,
            remat=False,
            mlp_widening=mlp_widening,
            dropout=dropout,
            key=keys[2],
        )
        self.logits = Linear(dim, NUM_BYTES, scale=0.1, key=keys[3])

    def empty_cache(self, dtype: DTypeLike) -> KeyValueCache:
        """Room for the keys and values of one step's positions."""
        positions = self.positions.table.shape[0]
        return self.decoder.empty_cache(positions, 1, dtype)

    @jax.named_scope("pqx.byte_output")
    def __call__(
        self,
        readout: Float[Array, "steps bytes_per_step dim"],
        tokens: Integer[Array, "steps bytes_per_step"],
        before: Int[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps bytes_per_step 256"]:
        """
        Args:
            readout: what the Perceiver says of each position of each step.
            tokens: the bytes of these steps; position `i` is shown those before it.
            before: the byte before the first of them, or `BEGIN`.

        Returns:
            the logits of `tokens`.
        """
        shifted = jnp.concatenate([before[None], tokens.ravel()[:-1]])
        shifted = shifted.reshape(tokens.shape)
        x = self.positions(readout + self.embedding(shifted, readout.dtype))
        keys = None if key is None else jr.split(key, x.shape[0])
        nothing_kept = self.decoder.empty_cache(0, 1, x.dtype)
        start = jnp.zeros((), jnp.int32)

        def decode_step(x, key):
            return self.decoder(x[:, None], nothing_kept, start, key=key)[0][:, 0]

        return self._logits(jax.vmap(decode_step)(x, keys))

    def next_byte(
        self,
        readout: Float[Array, " dim"],
        before: Int[Array, ""],
        position: Int[Array, ""],
        cache: KeyValueCache,
    ) -> tuple[Float[Array, " 256"], KeyValueCache]:
        """One position of one step, the positions before it being in the cache.

        Args:
            readout: what the Perceiver says of this position.
            before: the byte before it, or `BEGIN`.
            position: its place in the step, from 0.

        Returns:
            the logits of its byte, and the cache with it added.
        """
        x = readout + self.embedding(before, readout.dtype)
        x = x + self.positions.table[position].astype(x.dtype)
        x, cache = self.decoder(x[None, None], cache, position)
        return self._logits(x[0, 0]), cache

    def _logits(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows 256"]:
        logits = self.logits(x)
        return logits.astype(jnp.result_type(jnp.float32, logits.dtype))
