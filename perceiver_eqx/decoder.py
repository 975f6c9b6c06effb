"""Decoders: how outputs are read out of the latents of a step."""

import equinox as eqx
import jax
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from .attention.attend import attend
from .layers import CrossAttention, Linear


class QueryDecoder(eqx.Module):
    """Learned output queries, the same at every step, that read the step's latents."""

    queries: Float[Array, "outputs query_dim"]
    cross: CrossAttention
    output: Linear

    def __init__(
        self,
        num_outputs: int,
        query_dim: int,
        output_dim: int,
        *,
        latent_dim: int,
        num_heads: int,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        query_residual: bool = True,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_outputs: queries per step.
            query_dim: channels of a query, a multiple of `num_heads`.
            output_dim: channels of an output.
            query_residual: add the query to what it read.

        Source:
            Jaegle et al., "Perceiver IO" (2021), §3.1 and §E.2.
        """
        query_key, cross_key, output_key = jr.split(key, 3)
        self.queries = 0.02 * jr.normal(query_key, (num_outputs, query_dim))
        self.cross = CrossAttention(
            query_dim,
            latent_dim,
            num_heads,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            residual=query_residual,
            dropout=dropout,
            key=cross_key,
        )
        self.output = Linear(query_dim, output_dim, key=output_key)

    @jax.named_scope("pqx.decoder")
    def __call__(
        self,
        latents: Float[Array, "steps latents latent_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps outputs output_dim"]:
        """The outputs of each step."""
        queries = self.queries.astype(latents.dtype)
        keys, values = self.cross.keys_values(latents)
        attended = jax.vmap(attend, in_axes=(None, 0, 0))(
            self.cross.queries(queries), keys, values
        )
        return self.output(self.cross.finish(queries, attended, key=key))


class PlaceDecoder(eqx.Module):
    """A linear map of the step's latents for each of its outputs: what a place reads
    does not depend on a softmax, and costs less than a query and an MLP.

    Source:
        Yu et al., "MEGABYTE" (2023), §2.2, whose global model feeds its local one so.
    """

    output: Linear
    num_outputs: int = eqx.field(static=True)

    def __init__(
        self,
        num_outputs: int,
        output_dim: int,
        *,
        num_latents: int,
        latent_dim: int,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_outputs, output_dim: outputs of a step and their channels.
            num_latents, latent_dim: of a step.
        """
        width = num_latents * latent_dim
        self.output = Linear(width, num_outputs * output_dim, key=key)
        self.num_outputs = num_outputs

    @jax.named_scope("pqx.decoder")
    def __call__(
        self,
        latents: Float[Array, "steps latents latent_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps outputs output_dim"]:
        """The outputs of each step. There is nothing to drop: `key` is not used."""
        outputs = self.output(rearrange(latents, "t c d -> t (c d)"))
        return rearrange(outputs, "t (o d) -> t o d", o=self.num_outputs)
