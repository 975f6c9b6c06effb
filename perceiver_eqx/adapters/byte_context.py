"""A context of bytes: its tokens, and how a source of any length is read."""

from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, Integer, PRNGKeyArray

from ..attention.softmax import merge_all
from ..context import Context, Memory, MemoryOver
from ..draws import split_key
from ..layers import Linear
from ..model import CausalPerceiver
from ..positions import sinusoids
from ..time_axis import TimeAxis
from .both_ways import BothWays
from .bytes import ByteInput, ByteInputState


# A longer context is read in pieces of so many bytes, and again in the backward pass:
# then the memory is that of one piece, and of what is kept of all.
CONTEXT_PIECE = 1 << 14


def context_piece(unit: int) -> int:
    """Bytes of a piece, of which so many are read together."""
    return max(CONTEXT_PIECE // unit, 1) * unit


class ByteContext(eqx.Module):
    """The features of a source's bytes as tokens that know their place in it."""

    tokens: Linear
    both_ways: BothWays | None
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        patch: int,
        dim: int,
        token_dim: int,
        both_ways: BothWays | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """
        Args:
            patch: bytes that make a token.
            dim: channels of a feature.
            token_dim: channels of a token, even.
            both_ways: by what tokens see each other; `None` for not at all.
        """
        self.tokens = Linear(patch * dim, token_dim, key=key)
        self.both_ways = both_ways
        self.patch = patch

    @property
    def unit(self) -> int:
        """Bytes whose tokens are read together: all pieces but the last are whole
        multiples of it."""
        return self.patch * (1 if self.both_ways is None else self.both_ways.block)

    @jax.named_scope("pqx.byte_context")
    def __call__(
        self,
        features: Float[Array, "source dim"],
        start: Int[Array, ""] | int,
        length: Int[Array, ""] | int,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens token_dim"]:
        """
        Args:
            features: of the next bytes, of which the first `length` are there. The last
                token is filled up.
            start: the place of the first of them.
            key: for dropout; `None` for none.
        """
        there = jnp.arange(features.shape[0]) < length
        x = jnp.where(there[:, None], features, 0)
        x = jnp.pad(x, ((0, -x.shape[0] % self.patch), (0, 0)))
        tokens = self.tokens(x.reshape(-1, self.patch * x.shape[-1]))
        places = start + self.patch * jnp.arange(tokens.shape[0])
        tokens = tokens + sinusoids(places, tokens.shape[-1]).astype(tokens.dtype)
        if self.both_ways is None or tokens.shape[0] == 0:
            return tokens
        return self.both_ways(tokens, -(-length // self.patch), key=key)


@dataclass(frozen=True)
class ContextReader:
    """The parts of a model that read a context.

    Attributes:
        inputs: makes features of bytes.
        contexts: makes tokens of them.
        perceiver: sees the tokens.
        dtype: what all compute in.
    """

    inputs: ByteInput
    contexts: ByteContext
    perceiver: CausalPerceiver
    dtype: DTypeLike

    def __call__(
        self,
        known: Context,
        state: ByteInputState,
        start: Int[Array, ""] | int,
        context: Integer[Array, " source"],
        length: Int[Array, ""] | int,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Context, ByteInputState]:
        """Read the next piece, of any length.

        Args:
            known: what is known of the context so far.
            state: what the features of its next bytes need of the last ones.
            start: how many bytes were read.
            context: the piece, of which the first `length` bytes are there.
            key: for dropout; `None` for none.
        """
        patch, size, memory = self.contexts.patch, context.size, known.memory
        carry = state, replace(known, memory=None)
        piece = context_piece(self.contexts.unit)
        whole, found = size // piece if size > piece else 0, []
        if whole:
            places = piece * jnp.arange(whole)
            pieces = context[: whole * piece].reshape(whole, piece)
            carry, more = self._read_all(carry, pieces, start, places, length, key)
            found.append(more)
        if whole * piece < size:
            place = whole * piece
            left = length - place
            left = left if isinstance(left, int) else jnp.maximum(left, 0)
            last = context[place:], start + place, left, key
            carry, more = self._read(carry, last)
            found.append(more)
        if isinstance(memory, Memory):
            keys, values = jax.tree.map(lambda *x: jnp.concatenate(x), *found)
            memory = memory.extend(keys, values, -(-length // patch))
        state, known = carry
        return replace(known, memory=memory), state

    def over_devices(
        self,
        known: Context,
        state: ByteInputState,
        runs: Integer[Array, "runs run"],
        length: Int[Array, ""] | int,
        time: TimeAxis,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Context, ByteInputState]:
        """Read a whole context that lies over devices, inside `jax.shard_map`.

        Args:
            known: of nothing.
            state: as of a call, with room for past bytes.
            runs: of this device; runs are dealt out as those of steps are.
            length: how many bytes of all devices are there.
            time: the devices.
        """
        count, run = runs.shape
        places = run * (jnp.arange(count) * time.size + time.index)
        carry = state, replace(known, memory=None)
        carry, more = self._read_all(carry, runs, 0, places, length, key, time)
        (state, found), patch, memory = carry, self.contexts.patch, None
        if more is not None:
            of_each = -(-jnp.clip(length - places, 0, run) // patch)
            keys, values = more
            total = -(-length // patch)
            memory = MemoryOver(keys, values, of_each.sum(), total, time)
        seen = merge_all(time.of_all(found.seen))
        return replace(found, seen=seen, memory=memory), state

    def _read_all(self, carry, pieces, start, places, length, key, time=None):
        """Pieces of one size, one after the other, of which the bytes are there that
        stand before `length`."""
        count, size = pieces.shape
        # A loop keeps what it computes apart by itself.
        read = jax.checkpoint(partial(self._read, time=time), prevent_cse=False)
        keys = None if key is None else jr.split(key, count)
        left = jnp.clip(length - places, 0, size)
        carry, more = lax.scan(read, carry, (pieces, start + places, left, keys))
        return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), more)

    def _read(self, carry, of_piece, time=None):
        state, known = carry
        symbols, start, length, key = of_piece
        feature_key, token_key = split_key(key)
        features, state = self.inputs.of_context(
            symbols, state, self.dtype, time=time, key=feature_key
        )
        tokens = self.contexts(features, start, length, key=token_key)
        patch = self.contexts.patch
        known, more = self.perceiver.read_context(
            known, tokens, start // patch, -(-length // patch), time=time
        )
        return (state, known), more
