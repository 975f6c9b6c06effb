"""Processor: causal self-attention between the latents of all steps, layer by layer."""

import math
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .attention.softmax import ATTENDED
from .blocks import SelfAttentionBlock
from .checks import check_sizes
from .context import Questions
from .norms import LayerNorm
from .state import Caches, LayerCache, empty_cache
from .time_axis import TimeAxis


class CausalProcessor(eqx.Module):
    """A stack of self-attention blocks under the seed's latent mask: the latents of a
    step see each other, and those of the steps before as far as the window of the layer
    reaches."""

    blocks: SelfAttentionBlock
    norm: LayerNorm | None
    num_layers: int = eqx.field(static=True)
    windows: tuple[int | None, ...] = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        *,
        window: int | None | Sequence[int | None],
        remat: bool,
        qk_dim: int | None = None,
        v_dim: int | None = None,
        qkv_bias: bool = True,
        output_bias: bool = True,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        tanh_gelu: bool = False,
        mlp_bias: bool = True,
        qk_norm: bool = False,
        rotary_dims: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        conv_kernel: int = 0,
        asks: bool = False,
        final_norm: bool = True,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_layers: blocks, at least 0. Their parameters are stacked.
            dim, num_heads, qk_dim, v_dim, qkv_bias, output_bias, mlp_widening,
                gated_mlp, tanh_gelu, mlp_bias, qk_norm, rotary_dims, dropout,
                attention_dropout, conv_kernel, asks: of a block.
            window: how many steps a latent sees, its own included; `None` for all. Of
                several, which the layers take in turn, over and over.
            remat: keep of a layer only what its attention gave, for the backward pass,
                and compute the rest again; without it, matrix products are kept too.
            final_norm: norm what the last block gives.

        Raises:
            ValueError: if `qk_dim` is not a multiple of twice `num_heads` where all
                channels turn, or for a window below 1.
        """
        turned = dim if qk_dim is None else qk_dim
        if rotary_dims is None and turned % (2 * num_heads):
            raise ValueError(
                "a width must be a multiple of twice its `num_heads`, since rotary "
                f"positions turn channels in pairs, got {turned} for {num_heads} heads."
            )

        def block(key: PRNGKeyArray) -> SelfAttentionBlock:
            return SelfAttentionBlock(
                dim,
                num_heads,
                qk_dim=qk_dim,
                v_dim=v_dim,
                qkv_bias=qkv_bias,
                output_bias=output_bias,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                tanh_gelu=tanh_gelu,
                mlp_bias=mlp_bias,
                qk_norm=qk_norm,
                rotary_dims=rotary_dims,
                dropout=dropout,
                attention_dropout=attention_dropout,
                scale=1 / math.sqrt(2 * max(num_layers, 1)),
                conv_kernel=conv_kernel,
                asks=asks,
                key=key,
            )

        self.blocks = eqx.filter_vmap(block)(jr.split(key, num_layers))
        self.norm = LayerNorm(dim) if final_norm else None
        self.num_layers = num_layers
        self.windows = windows_in_turn("window", window, num_layers)
        self.remat = remat

    @property
    def window(self) -> int | None:
        """The widest of the windows; `None` if a layer sees all steps."""
        return None if None in self.windows else max(filter(None, self.windows))

    @property
    def dim(self) -> int:
        """Channels of a latent."""
        return self.blocks.norm.scale.shape[-1]

    def layers(self) -> Iterator[tuple[SelfAttentionBlock, int | None]]:
        """Each block and its window, the first one first."""
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        for layer in range(self.num_layers):
            own = jax.tree.map(lambda x, layer=layer: x[layer], arrays)
            yield eqx.combine(own, static), self.windows[layer % len(self.windows)]

    def empty_caches(
        self, rows: int, dtype: DTypeLike, most_steps: int | None = None
    ) -> Caches:
        """The caches before the first step, of `rows` latents a step.

        Args:
            most_steps: there is room for the past steps that a window reaches, but for
                no more than this. Needed where one reaches all; 0 to keep nothing.
        """
        heads = self.blocks.heads
        key_dim = heads.key.weight.shape[-1] // heads.num_heads
        layers = (self.num_layers // len(self.windows),)

        def capacity(window: int | None) -> int:
            reach = None if window is None else window - 1
            return min(most for most in (reach, most_steps) if most is not None)

        def cache(window: int | None) -> LayerCache:
            kept, of_heads = capacity(window), (heads.num_heads, key_dim)
            attention = empty_cache(
                kept, rows, *of_heads, layers, dtype, v_dim=heads.value_dim
            )
            before = None
            if self.blocks.conv is not None:
                past = capacity(self.blocks.conv.kernel)
                before = jnp.zeros((*layers, past, rows, self.dim), dtype)
            return LayerCache(attention, before)

        return tuple(map(cache, self.windows))

    @jax.named_scope("pqx.processor")
    def __call__(
        self,
        x: Float[Array, "steps rows dim"],
        caches: Caches,
        past_steps: Int[Array, ""] | int,
        asked: Questions | None = None,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps rows dim"], Caches]:
        """
        Args:
            x: the latents of the next steps.
            caches: each layer's keys and values of the `past_steps` before them. If
                that is the number 0, and no array, the caches are only written.
            asked: the context, for blocks that ask; `None` without one.
            time: devices over which the steps lie; `None` for one. Then the caches have
                room for all that a finite window reaches.

        Returns:
            the processed latents, and the caches with these steps added.
        """
        if self.num_layers == 0:
            return self._finished(x), caches
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        keys = None if key is None else jr.split(key, self.num_layers)
        unrolled = _unrolls()
        # A round is a layer of each window.
        rounds = self.num_layers // len(self.windows)
        of_rounds = jax.tree.map(
            lambda x: x.reshape(rounds, -1, *x.shape[1:]), (arrays, keys)
        )

        def take_round(x, of_round):
            index, of_layers = of_round
            newest = []
            for place, (window, cache) in enumerate(
                zip(self.windows, caches, strict=True)
            ):

                def layer(x, of_layer, window=window, cache=cache):
                    arrays, key = of_layer
                    block, past = eqx.combine(arrays, static), cache.of_layer(index)
                    return block(x, past, past_steps, window, asked, time=time, key=key)

                of_layer = jax.tree.map(lambda x, place=place: x[place], of_layers)
                layer = jax.checkpoint(
                    layer,
                    policy=_kept(self.remat),
                    prevent_cse=self.remat and unrolled,
                )
                x, of_cache = layer(x, of_layer)
                newest.append(of_cache)
            return x, newest

        x, newest = lax.scan(
            take_round, x, (jnp.arange(rounds), of_rounds), unroll=unrolled
        )
        # All layers' at once: then a cache that is donated is written in place.
        caches = tuple(
            cache.extend(*of_cache)
            for cache, of_cache in zip(caches, newest, strict=True)
        )
        return self._finished(x), caches

    def _finished(self, x: Array) -> Array:
        return x if self.norm is None else self.norm(x)


def windows_in_turn(
    name: str, window: int | None | Sequence[int | None], num_layers: int
) -> tuple[int | None, ...]:
    """The windows of as few layers as come again and again in a stack of this depth,
    where the layers take the given ones in turn.

    Args:
        name: of the argument `window`, for the message.

    Raises:
        TypeError, ValueError: for no window at all, or one that is neither `None` nor a
            whole number of at least 1.
    """
    given = tuple(window) if isinstance(window, Sequence) else (window,)
    if not given:
        raise ValueError(f"`{name}` must hold at least one window, got {window!r}.")
    for one in given:
        if one is not None:
            check_sizes(**{name: one})
    of_layers = [given[layer % len(given)] for layer in range(max(num_layers, 1))]
    period = next(
        count
        for count in range(1, len(of_layers) + 1)
        if of_layers == of_layers[:count] * (len(of_layers) // count)
    )
    return tuple(of_layers[:period])


def _unrolls() -> bool:
    """Whether layers are compiled one by one. On a GPU, XLA computes a product twice if
    a loop both uses it and keeps it for the backward pass. Elsewhere a loop compiles
    faster."""
    return jax.default_backend() == "gpu"


def _kept(remat: bool) -> Callable[..., bool]:
    """What a layer keeps for its backward pass: what its attention gave, and unless all
    else is computed again, its matrix products. Norms and the like are cheaper to
    compute than to write down and read."""
    policies = jax.checkpoint_policies
    attended = policies.save_only_these_names(ATTENDED)
    products = policies.dots_with_no_batch_dims_saveable
    return attended if remat else policies.save_from_both_policies(attended, products)
