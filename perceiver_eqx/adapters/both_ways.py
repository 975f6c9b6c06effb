"""Tokens of a context that see each other, before and behind, within blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..attention.masks import first_keys
from ..blocks import CrossAttention


class BothWays(eqx.Module):
    """Layers of self-attention without a mask, among the tokens of one block at a time:
    linear in the length, and a piece of whole blocks is read by itself.

    What a token means can depend on what follows it, which it does not know otherwise:
    features of bytes are causal. Places are told by the tokens themselves.
    """

    layers: CrossAttention
    block: int = eqx.field(static=True)

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        block: int,
        *,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_layers: at least 1.
            dim, num_heads: channels of a token, and heads that divide them.
            block: tokens that see each other.
            mlp_widening, gated_mlp, dropout: as of a `CrossAttention`.
        """

        @eqx.filter_vmap
        def layer(key: PRNGKeyArray) -> CrossAttention:
            return CrossAttention(
                dim,
                dim,
                num_heads,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                dropout=dropout,
                key=key,
            )

        self.layers = layer(jr.split(key, num_layers))
        self.block = block

    @jax.named_scope("pqx.both_ways")
    def __call__(
        self,
        tokens: Float[Array, "tokens dim"],
        count: Int[Array, ""] | int,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """
        Args:
            tokens: from the beginning of a block on.
            count: how many of them are there, the first ones; the others are seen by
                none.
            key: for dropout; `None` for none.
        """
        length = tokens.shape[0]
        size = min(self.block, length)
        x = jnp.pad(tokens, ((0, -length % size), (0, 0)))
        x = rearrange(x, "(blocks size) dim -> blocks size dim", size=size)
        counts = jnp.clip(count - size * jnp.arange(x.shape[0]), 0, size)
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        num_layers = self.layers.query_norm.scale.shape[0]
        keys = None if key is None else jr.split(key, (num_layers, x.shape[0]))

        def take_layer(x, of_layer):
            arrays, keys = of_layer
            layer = eqx.combine(arrays, static)

            def in_block(x, count, key):
                return layer(x, x, mask=first_keys(size, size, count), key=key)

            return jax.vmap(in_block)(x, counts, keys), None

        take_layer = jax.checkpoint(take_layer, prevent_cse=False)
        x, _ = lax.scan(take_layer, x, (arrays, keys))
        return rearrange(x, "blocks size dim -> (blocks size) dim")[:length]
