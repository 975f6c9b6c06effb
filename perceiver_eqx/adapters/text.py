"""Text as Perceiver IO takes it: bytes behind six special symbols, with learned
positions; and symbols out by the same table as in."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

from ..checks import check_integers, check_shape, check_sizes
from ..draws import normal, split_key
from ..layers import Embedding
from .bytes import NUM_BYTES, Symbols, symbols_of


PAD, BEGIN, END, MASK, CLASSIFY, SEPARATE = range(6)
NUM_SPECIAL = 6


def text_symbols(text: Symbols, *, framed: bool = True) -> Int[np.ndarray, " n"]:
    """The symbols of a text's bytes.

    Args:
        text: bytes; encode a str as UTF-8.
        framed: put `CLASSIFY` before and `SEPARATE` behind, as the published models of
            language had it.
    """
    symbols = symbols_of("text", text).astype(np.int32) + NUM_SPECIAL
    return np.concatenate([[CLASSIFY], symbols, [SEPARATE]]) if framed else symbols


def symbols_text(symbols: Integer[np.ndarray, " n"] | Array) -> bytes:
    """The bytes of a text's symbols, special ones left out."""
    bytes_of = np.asarray(symbols) - NUM_SPECIAL
    return bytes_of[(bytes_of >= 0) & (bytes_of < NUM_BYTES)].astype(np.uint8).tobytes()


class TextInput(eqx.Module):
    """Symbols to tokens: a vector for each symbol, and for each place."""

    embedding: Embedding
    positions: Float[Array, "max_symbols dim"]

    def __init__(
        self,
        max_symbols: int,
        dim: int,
        *,
        num_symbols: int = NUM_BYTES + NUM_SPECIAL,
        key: PRNGKeyArray,
    ):
        """
        Args:
            max_symbols: the longest text.
            dim: channels of a token.
            num_symbols: how many there are.
        """
        check_sizes(max_symbols=max_symbols, dim=dim, num_symbols=num_symbols)
        embedding_key, position_key = split_key(key)
        self.embedding = Embedding(num_symbols, dim, key=embedding_key)
        self.positions = normal(position_key, (max_symbols, dim), 0.02)

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.positions.shape[-1]

    def __call__(
        self, symbols: Integer[Array, " n"], dtype=jnp.float32
    ) -> Float[Array, "n dim"]:
        """
        Raises:
            ValueError: for more symbols than there are places.
        """
        check_shape("symbols", symbols, "n")
        check_integers("symbols", symbols)
        count = symbols.shape[0]
        if count > self.positions.shape[0]:
            raise ValueError(
                f"`symbols` must be at most {self.positions.shape[0]} (max_symbols), "
                f"got {count}. Cut the text into pieces."
            )
        tokens = self.embedding(symbols.astype(jnp.int32), dtype)
        return tokens + self.positions[:count].astype(dtype)

    def logits(
        self, x: Float[Array, "n dim"], bias: Float[Array, " num_symbols"]
    ) -> Float[Array, "n num_symbols"]:
        """How well each symbol's vector fits each row."""
        return x @ self.embedding.table.T.astype(x.dtype) + bias.astype(x.dtype)
