"""Decoders: how outputs are read out of the latents of a step."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .attention.attend import attend
from .blocks import CrossAttention
from .checks import check_sizes
from .draws import normal, split_key
from .layers import Linear


class QueryDecoder(eqx.Module):
    """Output queries that read latents: learned ones, the same at every step, that read
    the step's latents; or any."""

    queries: Float[Array, "outputs query_dim"] | None
    cross: CrossAttention
    output: Linear | None

    def __init__(
        self,
        num_outputs: int | None,
        query_dim: int,
        output_dim: int | None,
        *,
        latent_dim: int,
        num_heads: int,
        qk_dim: int | None = None,
        v_dim: int | None = None,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        tanh_gelu: bool = False,
        query_residual: bool = True,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_outputs: learned queries per step; `None` for none, if `read` is given
                others.
            query_dim: channels of a query.
            output_dim: channels of an output; `None` for what the queries come to.
            latent_dim: channels of a latent.
            num_heads, qk_dim, v_dim, mlp_widening, gated_mlp, tanh_gelu, dropout: of
                the `CrossAttention`.
            query_residual: add the query to what it read.

        Source:
            Jaegle et al., "Perceiver IO" (2021), §3.1 and §E.2.
        """
        query_key, cross_key, output_key = split_key(key, 3)
        self.queries = None
        if num_outputs is not None:
            self.queries = normal(query_key, (num_outputs, query_dim), 0.02)
        self.cross = CrossAttention(
            query_dim,
            latent_dim,
            num_heads,
            qk_dim=qk_dim,
            v_dim=v_dim,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            tanh_gelu=tanh_gelu,
            residual=query_residual,
            dropout=dropout,
            key=cross_key,
        )
        self.output = None
        if output_dim is not None:
            self.output = Linear(query_dim, output_dim, key=output_key)

    @jax.named_scope("pqx.decoder")
    def __call__(
        self,
        latents: Float[Array, "steps latents latent_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps outputs output_dim"]:
        """The outputs of each step, by the learned queries."""
        assert self.queries is not None, "a decoder without queries of its own"
        queries = self.queries.astype(latents.dtype)
        keys, values = self.cross.keys_values(latents)
        attended = jax.vmap(attend, in_axes=(None, 0, 0))(
            self.cross.queries(queries), keys, values
        )
        return self._finished(self.cross.finish(queries, attended, key=key))

    @jax.named_scope("pqx.decoder")
    def read(
        self,
        latents: Float[Array, "latents latent_dim"],
        queries: Float[Array, "outputs query_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "outputs output_dim"]:
        """The outputs of any queries from the latents of one step."""
        return self._finished(self.cross(queries, latents, key=key))

    def _finished(self, x: Array) -> Array:
        return x if self.output is None else self.output(x)


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


def in_pieces(
    read: Callable[[Array], Array], queries: Array, piece: int
) -> Float[Array, "outputs *rest"]:
    """`read(queries)` some queries at a time, for outputs too many to compute at once:
    the memory is that of one piece and of the outputs themselves.

    Args:
        read: maps a leading axis of queries to as many outputs, each by itself.
        queries: with that axis first; numbers, coordinates or queries that are made.
        piece: how many at a time, at least 1.
    """
    check_sizes(piece=piece)
    count = queries.shape[0]
    whole = count // piece * piece
    pieces = queries[:whole].reshape(-1, piece, *queries.shape[1:])
    outputs = lax.map(read, pieces)
    outputs = outputs.reshape(whole, *outputs.shape[2:])
    if whole == count:
        return outputs
    return jnp.concatenate([outputs, read(queries[whole:])])
