"""Encoder: from the input tokens of each step to the latents of each step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from .attention.attend import attend_average
from .attention.dense import state_dtype
from .attention.prefix import prefix_attend
from .attention.prefix_over import prefix_over
from .attention.softmax import SoftmaxAverage, empty_average
from .blocks import CrossAttention
from .checks import check_shape
from .draws import normal, split_key
from .layers import Linear
from .norms import LayerNorm
from .time_axis import TimeAxis


class CausalEncoder(eqx.Module):
    """Learned latents, replicated once per step, that attend the inputs of all steps up
    to their own and the whole context."""

    latents: Float[Array, "latents latent_dim"]
    cross: CrossAttention
    rate_logit: Float[Array, "latents heads"] | None
    own_step: Linear | None
    context_norm: LayerNorm | None
    context_key: Linear | None
    context_value: Linear | None
    tokens_per_step: int = eqx.field(static=True)
    token_dropout: float = eqx.field(static=True)

    def __init__(
        self,
        input_dim: int,
        tokens_per_step: int,
        *,
        num_latents: int,
        latent_dim: int,
        num_heads: int,
        context_dim: int | None = None,
        recency: bool = True,
        own_step: bool = True,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """The arguments are those of `CausalPerceiver`."""
        keys = split_key(key, 5)
        self.latents = normal(keys[0], (num_latents, latent_dim), 0.02)
        self.cross = CrossAttention(
            latent_dim,
            input_dim,
            num_heads,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            dropout=dropout,
            key=keys[1],
        )
        self.rate_logit = _rate_logits(num_latents, num_heads) if recency else None
        self.own_step = None
        if own_step:
            width = tokens_per_step * input_dim
            self.own_step = Linear(width, num_latents * latent_dim, key=keys[2])
        self.context_norm = self.context_key = self.context_value = None
        if context_dim is not None:
            self.context_norm = LayerNorm(context_dim)
            self.context_key = Linear(context_dim, latent_dim, key=keys[3])
            self.context_value = Linear(context_dim, latent_dim, key=keys[4])
        self.tokens_per_step = tokens_per_step
        self.token_dropout = token_dropout

    @property
    def rate(self) -> Float[Array, "latents heads"] | None:
        """How much a token's score falls with each step of age; `None` for never."""
        return None if self.rate_logit is None else jax.nn.softplus(self.rate_logit)

    def empty_prefix(self, dtype: DTypeLike) -> SoftmaxAverage:
        """What the latents have seen before the first step: nothing.

        Args:
            dtype: of the inputs to come.
        """
        heads = self.cross.heads
        rows = self.latents.shape[0], heads.num_heads
        return empty_average(rows, heads.value_dim, state_dtype(dtype))

    def read_context(
        self,
        source: Float[Array, "source context_dim"],
        count: Int[Array, ""] | int | None = None,
    ) -> SoftmaxAverage:
        """What the latents see of the context: all of it, at every step.

        Args:
            count: how many of the tokens are there, the first ones; `None` for all.
        """
        if (
            self.context_norm is None
            or self.context_key is None
            or self.context_value is None
        ):
            raise ValueError(
                "`context` was given to a model built without one; pass `context_dim` "
                "when building it."
            )
        dim = self.context_norm.scale.size
        check_shape("context", source, "source context_dim", context_dim=dim)
        if source.shape[0] == 0:
            return self.empty_prefix(source.dtype)
        normed = self.context_norm(source)
        shape = (source.shape[0], self.cross.heads.num_heads, -1)
        query = self.cross.queries(self.latents.astype(source.dtype))
        key = self.context_key(normed).reshape(shape)
        value = self.context_value(normed).reshape(shape)
        mask = None if count is None else (jnp.arange(source.shape[0]) < count)[None]
        return attend_average(query, key, value, mask)

    @jax.named_scope("pqx.encoder")
    def __call__(
        self,
        inputs: Float[Array, "steps tokens input_dim"],
        prefix: SoftmaxAverage,
        context: SoftmaxAverage,
        *,
        mask: Bool[Array, "steps tokens"] | None = None,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps latents latent_dim"], SoftmaxAverage]:
        """
        Args:
            inputs: the tokens of the next steps.
            prefix: what was seen of the steps before.
            context: what is seen of the context.
            mask: which of the tokens are there, in steps of fewer tokens; `None` for
                all.
            time: devices over which the steps lie, a run on each; `None` for one.

        Returns:
            the latents of these steps, and what was seen up to the last.
        """
        token_key, cross_key = split_key(key)
        keep = mask
        if token_key is not None and self.token_dropout:
            keep = jr.bernoulli(token_key, 1 - self.token_dropout, inputs.shape[:2])
            keep = keep if mask is None else keep & mask
        latents = self.latents.astype(inputs.dtype)
        known = self.cross.queries(latents), *self.cross.keys_values(inputs)
        options = {"rate": self.rate, "mask": keep}
        after = None
        if time is not None:
            prefix, after = prefix_over(*known, time, initial=prefix, **options)
        context_seen = None if self.context_norm is None else context
        attended, prefix = prefix_attend(
            *known, initial=prefix, context=context_seen, **options
        )
        prefix = prefix if after is None else after
        x = self.cross.finish(latents, attended, key=cross_key)
        if self.own_step is not None:
            if mask is not None:
                inputs = jnp.where(mask[..., None], inputs, 0)
            own = self.own_step(inputs.reshape(inputs.shape[0], -1))
            x = x + own.reshape(x.shape)
        return x, prefix


def _rate_logits(num_latents: int, num_heads: int) -> Float[Array, "latents heads"]:
    """Rates whose half-lives run geometrically from 1 step to 1024, or one of 32."""
    count = num_latents * num_heads
    half_lives = np.geomspace(1.0, 1024.0, count) if count > 1 else np.array([32.0])
    rates = np.log(2) / half_lives
    logits = np.log(np.expm1(rates)).reshape(num_latents, num_heads)
    return jnp.asarray(logits, jnp.float32)
