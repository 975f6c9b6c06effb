"""Bytes in, bytes out: the adapters between bytes and the Perceiver's channels."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, Integer, PRNGKeyArray, UInt8

from ..checks import check_shape
from ..draws import normal, split_key
from ..layers import Embedding, Linear
from ..positions import LearnedPositions
from ..state import State
from ..time_axis import TimeAxis, last_of
from .local import LocalLayers, LocalState
from .ngrams import NOTHING, NgramEmbedding


NUM_BYTES = 256

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


class ByteInputState(State):
    """What a `ByteInput` keeps of the bytes it has seen.

    Attributes:
        layers: what its layers keep.
        before: the last few bytes, for n-grams; `NOTHING` where there were none.
    """

    layers: LocalState
    before: Int[Array, " reach"]


class ByteInput(eqx.Module):
    """The bytes of each step, as features that know what stands before them, and as
    tokens for the Perceiver."""

    embedding: Embedding
    ngrams: NgramEmbedding | None
    positions: LearnedPositions
    begin: Float[Array, " dim"]
    layers: LocalLayers
    tokens: Linear

    def __init__(
        self,
        bytes_per_step: int,
        token_dim: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        ngrams: Sequence[int] = (),
        ngram_rows: int = 1 << 14,
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            bytes_per_step: tokens of a step.
            token_dim: channels of a token.
            dim: channels of a feature.
            ngrams, ngram_rows: orders and rows of an `NgramEmbedding`, if any.
            num_layers, num_heads, options: of the `LocalLayers`.
        """
        keys = split_key(key, 6)
        self.embedding = Embedding(NUM_BYTES, dim, key=keys[0])
        self.ngrams = None
        if ngrams:
            self.ngrams = NgramEmbedding(ngrams, ngram_rows, dim, key=keys[5])
        self.positions = LearnedPositions(bytes_per_step, dim, key=keys[1])
        self.begin = normal(keys[2], (dim,))
        self.layers = LocalLayers(num_layers, dim, num_heads, key=keys[3], **options)
        self.tokens = Linear(dim, token_dim, key=keys[4])

    def before_all(self, dtype: DTypeLike) -> Float[Array, "bytes_per_step dim"]:
        """Features of a step before the first one, where nothing was read yet."""
        shape = self.positions.table.shape
        return jnp.broadcast_to(self.begin.astype(dtype), shape)

    def init_state(self, dtype: DTypeLike, *, keep: bool = True) -> ByteInputState:
        """The state before the first byte.

        Args:
            dtype: of what is to come.
            keep: make room for past bytes; without it, for a sequence taken at once.
        """
        reach = 0 if self.ngrams is None else self.ngrams.reach
        before = jnp.full((reach,), NOTHING, jnp.int32)
        return ByteInputState(self.layers.init_state(dtype, keep=keep), before)

    @jax.named_scope("pqx.byte_input")
    def __call__(
        self,
        symbols: Integer[Array, "steps bytes_per_step"],
        state: ByteInputState,
        dtype: DTypeLike,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps bytes_per_step dim"], ByteInputState]:
        """The features of the next steps' bytes, each of itself and those before it,
        and the state after them; of this device's, if they lie over several."""
        places, symbols = self.positions.table.astype(dtype), symbols.astype(jnp.int32)
        return self._features(symbols, places, state, dtype, key, time)

    def of_context(
        self,
        symbols: Integer[Array, " source"],
        state: ByteInputState,
        dtype: DTypeLike,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "source dim"], ByteInputState]:
        """The features of the next bytes of a context: the same as of a sequence, but
        that they have no place in a step. So what is read can be found in what was."""
        no_place = jnp.zeros((1, self.begin.size), dtype)
        symbols = symbols.astype(jnp.int32)
        return self._features(symbols, no_place, state, dtype, key, time)

    def next_byte(
        self,
        symbol: Int[Array, ""],
        position: Int[Array, ""],
        state: ByteInputState,
        dtype: DTypeLike,
    ) -> tuple[Float[Array, " dim"], ByteInputState]:
        """The features of one byte alone, whose place in its step is `position`."""
        place = self.positions.table[position].astype(dtype)
        x, state = self._features(symbol[None], place, state, dtype, None)
        return x[0], state

    def _features(
        self,
        symbols: Int[Array, "*bytes"],
        places: Float[Array, "*#bytes dim"],
        state: ByteInputState,
        dtype: DTypeLike,
        key: PRNGKeyArray | None,
        time: TimeAxis | None = None,
    ) -> tuple[Float[Array, "*bytes dim"], ByteInputState]:
        x, before = self.embedding(symbols, dtype) + places, state.before
        if self.ngrams is not None:
            flat = symbols.ravel()
            if time is None:
                after = jnp.concatenate([before, flat])[flat.size :]
            else:
                before, after = time.before(last_of(flat, before.size), before)
            x = x + self.ngrams(flat, before, dtype).reshape(x.shape)
            before = after
        x, layers = self.layers(x, state.layers, time=time, key=key)
        return x, ByteInputState(layers, before)


class ByteOutput(eqx.Module):
    """The logits of each byte, from what the Perceiver says of its place in the step
    and from the features of the byte before it."""

    layers: LocalLayers
    logits: Linear

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            dim: channels of a feature.
            num_layers, num_heads, options: of the `LocalLayers`.
        """
        layers_key, logits_key = split_key(key)
        self.layers = LocalLayers(num_layers, dim, num_heads, key=layers_key, **options)
        self.logits = Linear(dim, NUM_BYTES, scale=0.1, key=logits_key)

    @jax.named_scope("pqx.byte_output")
    def __call__(
        self,
        readout: Float[Array, "*bytes dim"],
        before: Float[Array, "*bytes dim"],
        state: LocalState,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*bytes 256"], LocalState]:
        """
        Args:
            readout: what the Perceiver says of the place of each byte.
            before: the features of the byte before each.
            time: devices over which the bytes lie, a run on each; `None` for one.

        Returns:
            the logits of the next bytes, at least float32, and the state after them.
        """
        x, state = self.layers(readout + before, state, time=time, key=key)
        logits = self.logits(x)
        return logits.astype(jnp.result_type(jnp.float32, logits.dtype)), state

    def next_byte(
        self,
        readout: Float[Array, " dim"],
        before: Float[Array, " dim"],
        state: LocalState,
    ) -> tuple[Float[Array, " 256"], LocalState]:
        """The logits of one byte alone."""
        logits, state = self(readout[None], before[None], state)
        return logits[0], state


def delayed(
    before: Float[Array, "bytes_per_step dim"],
    features: Float[Array, "steps bytes_per_step dim"],
    time: TimeAxis | None = None,
) -> tuple[
    Float[Array, "steps bytes_per_step dim"],
    Float[Array, "steps bytes_per_step dim"],
    Float[Array, "bytes_per_step dim"],
]:
    """Features of steps, one step late, and one byte late, and those of the last step.

    Args:
        before: those of the step before all of them.
        time: devices over which the steps lie, a run on each; `None` for one.
    """
    after = features[-1]
    if time is not None:
        before, after = time.before(after, before)
    both = jnp.concatenate([before[None], features])
    _, per_step, dim = both.shape
    byte_late = both.reshape(-1, dim)[per_step - 1 : -1]
    return both[:-1], byte_late.reshape(features.shape), after
