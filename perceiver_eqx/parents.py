"""The parents, out of the same parts: Perceiver and Perceiver IO.

A Perceiver IO is the combined model of a single step that holds all inputs: there is
nothing to be causal about, and positions by step turn nothing.
"""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .blocks import CrossAttention
from .checks import (
    check_floating,
    check_multiples,
    check_probabilities,
    check_shape,
    check_sizes,
)
from .decoder import QueryDecoder
from .draws import normal, split_key
from .layers import Linear
from .processor import CausalProcessor
from .summary import Told


class PerceiverEncoder(eqx.Module):
    """Learned latents that attend the inputs, once or before several blocks of
    self-attention: what both parents have in common."""

    latents: Float[Array, "latents latent_dim"]
    crosses: tuple[CrossAttention, ...]
    processors: tuple[CausalProcessor, ...]
    num_crosses: int = eqx.field(static=True)
    num_blocks: int = eqx.field(static=True)

    def __init__(
        self,
        input_dim: int,
        *,
        num_latents: int,
        latent_dim: int,
        num_layers: int,
        num_heads: int,
        cross_heads: int | None = None,
        num_blocks: int = 1,
        num_crosses: int = 1,
        own_blocks: int = 1,
        own_crosses: int = 1,
        qk_dim: int | None = None,
        v_dim: int | None = None,
        cross_qk_dim: int | None = None,
        cross_v_dim: int | None = None,
        mlp_widening: int = 1,
        cross_widening: int = 1,
        gated_mlp: bool = False,
        tanh_gelu: bool = False,
        latent_residual: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        remat: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            input_dim: channels of an input token.
            num_latents, latent_dim: the latent array.
            num_layers, num_heads: self-attention layers of a block, and their heads.
            cross_heads: heads of the attention to the inputs; `num_heads` if `None`.
            num_blocks: how many blocks there are, one after the other.
            num_crosses: before how many of the blocks the inputs are attended, from the
                first on; at most `num_blocks`.
            own_blocks, own_crosses: of how many of them the parameters are their own;
                those that follow share the last one's. 1 shares all, 2 is the
                Perceiver's own choice for crosses.
            qk_dim, v_dim, cross_qk_dim, cross_v_dim: as in `MultiHead`, of the latents'
                self-attention and of the attention to the inputs.
            mlp_widening, cross_widening: hidden channels of their MLPs over the width.
            gated_mlp, tanh_gelu: of all `MLP`s.
            latent_residual: add the latents to what they attended.
            dropout, attention_dropout: probabilities in [0, 1) of leaving out a
                residual channel, and a weight between latents.
            remat: as in `CausalProcessor`.

        Raises:
            ValueError: for sizes below 1, more crosses than blocks, heads that do not
                divide a width, or a probability outside [0, 1).

        Source:
            Jaegle et al., "Perceiver" (2021), §3, for the blocks; "Perceiver IO"
            (2021), §E.2, for their parts.
        """
        cross_heads = num_heads if cross_heads is None else cross_heads
        check_sizes(
            input_dim=input_dim,
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            cross_heads=cross_heads,
            num_blocks=num_blocks,
            num_crosses=num_crosses,
            own_blocks=own_blocks,
            own_crosses=own_crosses,
            mlp_widening=mlp_widening,
            cross_widening=cross_widening,
        )
        if num_crosses > num_blocks:
            raise ValueError(
                f"`num_crosses` must be at most `num_blocks`, got {num_crosses} for "
                f"{num_blocks}: each stands before a block of its own."
            )
        _check_widths(
            qk_dim=qk_dim,
            v_dim=v_dim,
            cross_qk_dim=cross_qk_dim,
            cross_v_dim=cross_v_dim,
        )
        qk_dim = latent_dim if qk_dim is None else qk_dim
        cross_qk_dim = latent_dim if cross_qk_dim is None else cross_qk_dim
        check_multiples("`num_heads`", num_heads, qk_dim=qk_dim, v_dim=v_dim or qk_dim)
        check_multiples(
            "`cross_heads`",
            cross_heads,
            cross_qk_dim=cross_qk_dim,
            cross_v_dim=cross_v_dim or cross_qk_dim,
        )
        check_probabilities(dropout=dropout, attention_dropout=attention_dropout)
        latent_key, cross_key, block_key = split_key(key, 3)

        def cross(key: PRNGKeyArray) -> CrossAttention:
            return CrossAttention(
                latent_dim,
                input_dim,
                cross_heads,
                qk_dim=cross_qk_dim,
                v_dim=cross_v_dim,
                mlp_widening=cross_widening,
                gated_mlp=gated_mlp,
                tanh_gelu=tanh_gelu,
                residual=latent_residual,
                dropout=dropout,
                key=key,
            )

        def block(key: PRNGKeyArray) -> CausalProcessor:
            return CausalProcessor(
                num_layers,
                latent_dim,
                num_heads,
                window=1,
                remat=remat,
                qk_dim=qk_dim,
                v_dim=v_dim,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                tanh_gelu=tanh_gelu,
                rotary_dims=0,
                dropout=dropout,
                attention_dropout=attention_dropout,
                final_norm=False,
                key=key,
            )

        own_crosses = min(own_crosses, num_crosses)
        own_blocks = min(own_blocks, num_blocks)
        self.latents = normal(latent_key, (num_latents, latent_dim), 0.02)
        self.crosses = tuple(map(cross, jr.split(cross_key, own_crosses)))
        self.processors = tuple(map(block, jr.split(block_key, own_blocks)))
        self.num_crosses = num_crosses
        self.num_blocks = num_blocks

    @property
    def input_dim(self) -> int:
        """Channels of an input token."""
        return self.crosses[0].input_norm.scale.size

    @jax.named_scope("pqx.encoder")
    def __call__(
        self,
        inputs: Float[Array, "tokens input_dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "latents latent_dim"]:
        """The latents after all blocks.

        Args:
            inputs: tokens, any number of them, in any order.
            mask: which of the tokens are there, at least one; `None` for all.
            key: for dropout; `None` for none.

        Raises:
            ValueError: for inputs of another shape, or none.
        """
        check_shape("inputs", inputs, "tokens input_dim", input_dim=self.input_dim)
        check_floating("inputs", inputs)
        if inputs.shape[0] == 0:
            raise ValueError("`inputs` must hold at least 1 token, got none.")
        if mask is not None:
            check_shape("mask", mask, "tokens", tokens=inputs.shape[0])
        keys = split_key(key, 2 * self.num_blocks)
        x = self.latents.astype(inputs.dtype)
        for place in range(self.num_blocks):
            if place < self.num_crosses:
                cross = self.crosses[min(place, len(self.crosses) - 1)]
                x = cross(x, inputs, mask=mask, key=keys[2 * place])
            block = self.processors[min(place, len(self.processors) - 1)]
            caches = block.empty_caches(x.shape[0], x.dtype, 0)
            x = block(x[None], caches, 0, key=keys[2 * place + 1])[0][0]
        return x


class Perceiver(Told):
    """Inputs of any kind to a single output, by the mean of the latents.

    Source:
        Jaegle et al., "Perceiver" (2021).
    """

    encoder: PerceiverEncoder
    output: Linear

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        latent_dim: int,
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            input_dim, output_dim: channels of an input token and of the output.
            latent_dim: channels of a latent.
            options: more arguments of `PerceiverEncoder`.
        """
        check_sizes(output_dim=output_dim)
        encoder_key, output_key = split_key(key)
        self.encoder = PerceiverEncoder(
            input_dim, latent_dim=latent_dim, key=encoder_key, **options
        )
        self.output = Linear(latent_dim, output_dim, key=output_key)

    def __call__(
        self,
        inputs: Float[Array, "tokens input_dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " output_dim"]:
        """The output; arguments as of `PerceiverEncoder`."""
        latents = self.encoder(inputs, mask=mask, key=key)
        return self.output(latents.mean(0))


class PerceiverIO(Told):
    """Inputs of any kind to outputs of any kind, one for each output query.

    Queries and inputs are tokens already; `adapters` make them of bytes, images, sound
    and several of these, and `tasks` puts all together.

    Source:
        Jaegle et al., "Perceiver IO" (2021).
    """

    encoder: PerceiverEncoder
    decoder: QueryDecoder

    def __init__(
        self,
        input_dim: int,
        query_dim: int,
        output_dim: int | None,
        *,
        latent_dim: int,
        num_heads: int,
        query_heads: int | None = None,
        query_qk_dim: int | None = None,
        query_v_dim: int | None = None,
        query_widening: int = 1,
        query_residual: bool = True,
        gated_mlp: bool = False,
        tanh_gelu: bool = False,
        dropout: float = 0.0,
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            input_dim, query_dim: channels of an input token and of an output query.
            output_dim: channels of an output; `None` for what a query came to, without
                a last linear map.
            latent_dim, num_heads, gated_mlp, tanh_gelu, dropout: as of
                `PerceiverEncoder`.
            query_heads, query_qk_dim, query_v_dim, query_widening: of the attention of
                queries to latents; by default `num_heads`, `query_dim`, the width of
                the keys, and 1.
            query_residual: add a query to what it read.
            options: more arguments of `PerceiverEncoder`.

        Raises:
            ValueError: as of `PerceiverEncoder`.
        """
        query_heads = num_heads if query_heads is None else query_heads
        _check_widths(
            output_dim=output_dim, query_qk_dim=query_qk_dim, query_v_dim=query_v_dim
        )
        query_qk_dim = query_dim if query_qk_dim is None else query_qk_dim
        check_sizes(
            query_dim=query_dim, query_heads=query_heads, query_widening=query_widening
        )
        check_multiples(
            "`query_heads`",
            query_heads,
            query_qk_dim=query_qk_dim,
            query_v_dim=query_v_dim or query_qk_dim,
        )
        encoder_key, decoder_key = split_key(key)
        self.encoder = PerceiverEncoder(
            input_dim,
            latent_dim=latent_dim,
            num_heads=num_heads,
            gated_mlp=gated_mlp,
            tanh_gelu=tanh_gelu,
            dropout=dropout,
            key=encoder_key,
            **options,
        )
        self.decoder = QueryDecoder(
            None,
            query_dim,
            output_dim,
            latent_dim=latent_dim,
            num_heads=query_heads,
            qk_dim=query_qk_dim,
            v_dim=query_v_dim,
            mlp_widening=query_widening,
            gated_mlp=gated_mlp,
            tanh_gelu=tanh_gelu,
            query_residual=query_residual,
            dropout=dropout,
            key=decoder_key,
        )

    @property
    def query_dim(self) -> int:
        """Channels of an output query."""
        return self.decoder.cross.query_norm.scale.size

    @property
    def output_dim(self) -> int | None:
        """Channels of an output; `None` without a last linear map."""
        output = self.decoder.output
        return None if output is None else output.weight.shape[-1]

    def __call__(
        self,
        inputs: Float[Array, "tokens input_dim"],
        queries: Float[Array, "outputs query_dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "outputs output_dim"]:
        """The outputs of all queries at once.

        Args:
            inputs, mask, key: as of `PerceiverEncoder`.
            queries: any number of them; an output depends on its own query alone.
        """
        encoder_key, decoder_key = split_key(key)
        latents = self.encoder(inputs, mask=mask, key=encoder_key)
        return self.decode(latents, queries, key=decoder_key)

    def decode(
        self,
        latents: Float[Array, "latents latent_dim"],
        queries: Float[Array, "outputs query_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "outputs output_dim"]:
        """What queries read out of latents that were computed before.

        Raises:
            ValueError: for queries of another shape.
        """
        check_shape("queries", queries, "outputs query_dim", query_dim=self.query_dim)
        return self.decoder.read(latents, queries, key=key)


def _check_widths(**widths: int | None) -> None:
    check_sizes(**{name: size for name, size in widths.items() if size is not None})
