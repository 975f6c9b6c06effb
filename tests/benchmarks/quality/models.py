"""The models to compare: the library's own, and three others made of its parts.

All have `context`, the bytes of a row; `targets`, of how many of them, the last ones,
`bits` gives the bits; and compute in `dtype` with float32 parameters and logits.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, UInt8

from perceiver_eqx import ByteLM, StepMask, attend
from perceiver_eqx.adapters.ngrams import NOTHING, NgramEmbedding
from perceiver_eqx.blocks import CrossAttention
from perceiver_eqx.draws import split_key
from perceiver_eqx.layers import Embedding, Linear
from perceiver_eqx.positions import rotary
from perceiver_eqx.processor import CausalProcessor
from train.loss import symbol_bits


NUM_BYTES = 256
BEGIN = 256  # stands before the first byte of a row


@runtime_checkable
class Model(Protocol):
    """What all models have in common."""

    @property
    def context(self) -> int: ...

    @property
    def targets(self) -> int: ...

    def bits(
        self, data: UInt8[Array, " context"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " targets"]: ...


class ByteTransformer(eqx.Module):
    """A decoder-only Transformer over bytes: rotary, pre-norm, gated MLP, norms of
    queries and keys."""

    embedding: Embedding
    ngrams: NgramEmbedding | None
    processor: CausalProcessor
    logits: Linear
    context: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        context: int,
        ngrams: Sequence[int] = (),
        ngram_rows: int = 1 << 14,
        dtype: DTypeLike = "bfloat16",
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            dim, num_layers, num_heads: of the stack.
            context: bytes of a row.
            ngrams, ngram_rows: orders and rows of an `NgramEmbedding`; none by default.
            options: more arguments of `CausalProcessor`, such as `qk_norm`.
        """
        keys = split_key(key, 4)
        self.embedding = Embedding(NUM_BYTES + 1, dim, key=keys[0])
        self.ngrams = None
        if ngrams:
            self.ngrams = NgramEmbedding(ngrams, ngram_rows, dim, key=keys[3])
        self.processor = _stack(num_layers, dim, num_heads, key=keys[1], **options)
        self.logits = Linear(dim, NUM_BYTES, scale=0.1, key=keys[2])
        self.context = context
        self.dtype = jnp.dtype(dtype)

    @property
    def targets(self) -> int:
        return self.context

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " bytes"]:
        """Bits of each byte from those before it."""
        x = self.embedding(_delayed(data), self.dtype)
        if self.ngrams is not None:
            nothing = jnp.full((self.ngrams.reach,), NOTHING)
            late = jnp.concatenate([nothing[:1], data[:-1].astype(nothing.dtype)])
            x = x + self.ngrams(late, nothing, self.dtype)
        return byte_bits(self.logits(_run(self.processor, x, key)), data)


class PerceiverAR(eqx.Module):
    """The last bytes of a long context attend all of it, causally, and then each other
    in a causal stack.

    Source:
        Hawthorne et al., "Perceiver AR" (2022), §3.
    """

    embedding: Embedding
    cross: CrossAttention
    processor: CausalProcessor
    logits: Linear
    context: int = eqx.field(static=True)
    targets: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        context: int,
        targets: int,
        gated_mlp: bool = True,
        dtype: DTypeLike = "bfloat16",
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            dim, num_layers, num_heads: of the stack, the cross-attention not counted.
            context: bytes that are read.
            targets: how many of them, the last ones, are latents and predicted.
            gated_mlp: of the stack and of the cross-attention.
            options: more arguments of `CausalProcessor`.

        Raises:
            ValueError: if there are more targets than bytes.
        """
        if targets > context:
            raise ValueError(
                f"`targets` must be at most `context`, got {targets} of {context}."
            )
        keys = split_key(key, 4)
        self.embedding = Embedding(NUM_BYTES + 1, dim, key=keys[0])
        self.cross = CrossAttention(
            dim, dim, num_heads, gated_mlp=gated_mlp, key=keys[1]
        )
        self.processor = _stack(
            num_layers, dim, num_heads, gated_mlp=gated_mlp, key=keys[2], **options
        )
        self.logits = Linear(dim, NUM_BYTES, scale=0.1, key=keys[3])
        self.context = context
        self.targets = targets
        self.dtype = jnp.dtype(dtype)

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " targets"]:
        """Bits of the last bytes, each from all bytes before it."""
        cross_key, stack_key = split_key(key)
        x = self.embedding(_delayed(data), self.dtype)
        start = data.size - self.targets
        places = jnp.arange(data.size)
        keys, values = self.cross.keys_values(x)
        attended = attend(
            rotary(self.cross.queries(x[start:]), places[start:]),
            rotary(keys, places),
            values,
            StepMask(self.targets, data.size, 1, 1, query_start=start),
        )
        x = self.cross.finish(x[start:], attended, key=cross_key)
        return byte_bits(self.logits(_run(self.processor, x, stack_key)), data[start:])


class PatchModel(eqx.Module):
    """A causal stack over patches, each shown one patch late, and a small causal stack
    over the bytes inside a patch.

    Source:
        Yu et al., "MEGABYTE" (2023), §2. Unlike there, the first byte of a patch is
        shown the byte before it, and positions are rotary.
    """

    patch_embedding: Embedding
    processor: CausalProcessor
    to_local: Linear
    embedding: Embedding
    local: CausalProcessor
    logits: Linear
    context: int = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        *,
        patch: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        local_dim: int,
        local_layers: int,
        local_heads: int,
        context: int,
        dtype: DTypeLike = "bfloat16",
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            patch: bytes of a patch; a divisor of `dim` and of `context`.
            dim, num_layers, num_heads: of the stack over patches.
            local_dim, local_layers, local_heads: of the stack inside a patch.
            context: bytes of a row.
            options: more arguments of both `CausalProcessor`s.

        Raises:
            ValueError: if the patch does not divide the width or the context.
        """
        if dim % patch or context % patch:
            raise ValueError(
                f"`patch` must divide `dim` and `context`, got {patch} for {dim} and "
                f"{context}."
            )
        keys = split_key(key, 6)
        self.patch_embedding = Embedding(NUM_BYTES + 1, dim // patch, key=keys[0])
        self.processor = _stack(num_layers, dim, num_heads, key=keys[1], **options)
        self.to_local = Linear(dim, patch * local_dim, key=keys[2])
        self.embedding = Embedding(NUM_BYTES + 1, local_dim, key=keys[3])
        self.local = _stack(
            local_layers, local_dim, local_heads, key=keys[4], **options
        )
        self.logits = Linear(local_dim, NUM_BYTES, scale=0.1, key=keys[5])
        self.context = context
        self.patch = patch
        self.dtype = jnp.dtype(dtype)

    @property
    def targets(self) -> int:
        return self.context

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " bytes"]:
        """Bits of each byte from those before it."""
        patches = data.size // self.patch
        stack_key, local_key = split_key(key)
        x = self.patch_embedding(_delayed(data, self.patch), self.dtype)
        x = _run(self.processor, x.reshape(patches, -1), stack_key)
        x = self.to_local(x).reshape(patches, self.patch, -1)
        before = _delayed(data).reshape(patches, self.patch)
        x = x + self.embedding(before, self.dtype)
        keys = None if local_key is None else jr.split(local_key, patches)
        x = jax.vmap(lambda x, key: _run(self.local, x, key))(x, keys)
        return byte_bits(self.logits(x).reshape(data.size, -1), data)


class Combined(eqx.Module):
    """The library's `ByteLM`, over one row as a whole."""

    byte_lm: ByteLM
    context: int = eqx.field(static=True)

    def __init__(self, *, context: int, key: PRNGKeyArray, **sizes):
        """
        Args:
            context: bytes of a row, a multiple of `bytes_per_step`.
            sizes: the arguments of `ByteLM`.

        Raises:
            ValueError: if a step does not divide the context.
        """
        if context % sizes["bytes_per_step"]:
            raise ValueError(
                f"`context` must be a multiple of `bytes_per_step`, got {context} for "
                f"{sizes['bytes_per_step']}."
            )
        self.byte_lm = ByteLM(**sizes, key=key)
        self.context = context

    @property
    def targets(self) -> int:
        return self.context

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " bytes"]:
        """Bits of each byte from those before it."""
        tokens = data.reshape(-1, self.byte_lm.bytes_per_step)
        logits = self.byte_lm(tokens, key=key)
        return byte_bits(logits.reshape(data.size, -1), data)


def _stack(
    num_layers: int,
    dim: int,
    num_heads: int,
    *,
    gated_mlp: bool = True,
    qk_norm: bool = True,
    remat: bool = False,
    key: PRNGKeyArray,
    **options,
) -> CausalProcessor:
    """A causal stack over rows of one step each, with what `ByteLM` has by default."""
    return CausalProcessor(
        num_layers,
        dim,
        num_heads,
        window=None,
        remat=remat,
        gated_mlp=gated_mlp,
        qk_norm=qk_norm,
        key=key,
        **options,
    )


def _run(
    stack: CausalProcessor, x: Float[Array, "rows dim"], key: PRNGKeyArray | None
) -> Float[Array, "rows dim"]:
    """A row as a whole, from its beginning: nothing is kept."""
    start = jnp.zeros((), jnp.int32)
    return stack(x[:, None], stack.empty_caches(1, x.dtype, 0), start, key=key)[0][:, 0]


def _delayed(data: UInt8[Array, " bytes"], by: int = 1) -> Int[Array, " bytes"]:
    """The bytes so many places late."""
    return jnp.pad(data[:-by].astype(jnp.int32), (by, 0), constant_values=BEGIN)


def byte_bits(
    logits: Float[Array, "bytes 256"], data: UInt8[Array, " bytes"]
) -> Float[Array, " bytes"]:
    """Minus the base-2 logarithm of the probability of each byte, in float32."""
    return symbol_bits(logits.astype(jnp.result_type(jnp.float32, logits.dtype)), data)
