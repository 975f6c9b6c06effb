"""Processor: causal self-attention between the latents of all steps, layer by layer."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .attention.softmax import ATTENDED
from .layers import LayerNorm, SelfAttentionBlock
from .state import KeyValueCache, empty_cache


class CausalProcessor(eqx.Module):
    """A stack of self-attention blocks under the seed's latent mask: the latents of a
    step see each other, and those of the steps before as far as the window reaches."""

    blocks: SelfAttentionBlock
    norm: LayerNorm
    num_layers: int = eqx.field(static=True)
    window: int | None = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        *,
        window: int | None,
        remat: bool,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_layers: blocks, at least 0. Their parameters are stacked.
            dim, num_heads, mlp_widening, gated_mlp, qk_norm, dropout,
                attention_dropout: of a block.
            window: how many steps a latent sees, its own included; `None` for all.
            remat: keep of a layer only what its attention gave, for the backward pass,
                and compute the rest again; without it, matrix products are kept too.

        Raises:
            ValueError: if `dim` is not a multiple of twice `num_heads`.
        """
        if dim % (2 * num_heads):
            raise ValueError(
                "a width must be a multiple of twice its `num_heads`, since rotary "
                f"positions turn channels in pairs, got {dim} for {num_heads} heads."
            )

        def block(key: PRNGKeyArray) -> SelfAttentionBlock:
            return SelfAttentionBlock(
                dim,
                num_heads,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                qk_norm=qk_norm,
                dropout=dropout,
                attention_dropout=attention_dropout,
                scale=1 / math.sqrt(2 * max(num_layers, 1)),
                key=key,
            )

        self.blocks = eqx.filter_vmap(block)(jr.split(key, num_layers))
        self.norm = LayerNorm(dim)
        self.num_layers = num_layers
        self.window = window
        self.remat = remat

    def empty_cache(self, capacity: int, rows: int, dtype: DTypeLike) -> KeyValueCache:
        """Caches of all layers, stacked, of `capacity` steps of `rows` latents."""
        num_heads = self.blocks.heads.num_heads
        return empty_cache(
            capacity,
            rows,
            num_heads,
            self.norm.scale.size // num_heads,
            layers=(self.num_layers,),
            dtype=dtype,
        )

    @jax.named_scope("pqx.processor")
    def __call__(
        self,
        x: Float[Array, "steps rows dim"],
        cache: KeyValueCache,
        past_steps: Int[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps rows dim"], KeyValueCache]:
        """
        Args:
            x: the latents of the next steps.
            cache: each layer's keys and values of the `past_steps` before them.

        Returns:
            the processed latents, and the caches with these steps added.
        """
        if self.num_layers == 0:
            return self.norm(x), cache
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        keys = None if key is None else jr.split(key, self.num_layers)

        def layer(x, of_layer):
            arrays, index, key = of_layer
            block, past = eqx.combine(arrays, static), cache.of_layer(index)
            return block(x, past, past_steps, self.window, key=key)

        layer = jax.checkpoint(layer, policy=_kept(self.remat), prevent_cse=False)
        indices = jnp.arange(self.num_layers)
        x, newest = lax.scan(layer, x, (arrays, indices, keys))
        # All layers' at once: then a cache that is donated is written in place.
        return self.norm(x), cache.extend(*newest)


def _kept(remat: bool) -> Callable[..., bool]:
    """What a layer keeps for its backward pass: what its attention gave, and unless all
    else is computed again, its matrix products. Norms and the like are cheaper to
    compute than to write down and read."""
    policies = jax.checkpoint_policies
    attended = policies.save_only_these_names(ATTENDED)
    products = policies.dots_with_no_batch_dims_saveable
    return attended if remat else policies.save_from_both_policies(attended, products)
