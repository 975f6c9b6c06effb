"""The two attention blocks, pre-norm with an MLP each: across, and among themselves."""

import equinox as eqx
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .attention.attend import attend, attend_average
from .attention.masks import StepMask
from .attention.softmax import merge
from .context import Ask, Questions
from .conv import CausalConv
from .draws import split_key
from .dropout import dropouts
from .layers import MLP, MultiHead
from .norms import LayerNorm
from .over_devices import attend_over, conv_over
from .positions import rotary
from .state import KeyValueCache, LayerCache, by_row
from .time_axis import TimeAxis, steps_of


class CrossAttention(eqx.Module):
    """Pre-norm cross-attention. Its parts around the attention itself stand on their
    own for the causal encoder, whose attention is a prefix scan."""

    query_norm: LayerNorm
    input_norm: LayerNorm
    heads: MultiHead
    mlp_norm: LayerNorm
    mlp: MLP
    residual: bool = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        q_dim: int,
        kv_dim: int,
        num_heads: int,
        *,
        qk_dim: int | None = None,
        v_dim: int | None = None,
        qkv_bias: bool = True,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        tanh_gelu: bool = False,
        mlp_bias: bool = True,
        residual: bool = True,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            q_dim, kv_dim, num_heads, qk_dim, v_dim, qkv_bias: as in `MultiHead`.
            mlp_widening, gated_mlp, tanh_gelu, mlp_bias: as in `MLP`.
            residual: add the queries to what they attended.
            dropout: probability in [0, 1) on both branches.

        Source:
            Jaegle et al., "Perceiver IO" (2021), §E.2.
        """
        heads_key, mlp_key = split_key(key)
        self.query_norm = LayerNorm(q_dim)
        self.input_norm = LayerNorm(kv_dim)
        self.heads = MultiHead(
            q_dim,
            kv_dim,
            num_heads,
            qk_dim=qk_dim,
            v_dim=v_dim,
            qkv_bias=qkv_bias,
            key=heads_key,
        )
        self.mlp_norm = LayerNorm(q_dim)
        self.mlp = MLP(
            q_dim,
            mlp_widening,
            gated=gated_mlp,
            tanh_gelu=tanh_gelu,
            use_bias=mlp_bias,
            key=mlp_key,
        )
        self.residual = residual
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "q_len q_dim"],
        inputs: Float[Array, "kv_len kv_dim"],
        *,
        mask: Bool[Array, " kv_len"] | StepMask | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "q_len q_dim"]:
        """
        Args:
            x: rows that ask.
            inputs: rows that are asked.
            mask: which of the inputs are there, or a mask as `attend` takes it; `None`
                for all.
        """
        seen = mask
        if mask is not None and not isinstance(mask, StepMask):
            seen = mask[None]
        attended = attend(self.queries(x), *self.keys_values(inputs), seen)
        return self.finish(x, attended, key=key)

    def queries(self, x: Float[Array, "*rows q_dim"]) -> Array:
        return self.heads.queries(self.query_norm(x))

    def keys_values(self, x: Float[Array, "*rows kv_dim"]) -> tuple[Array, Array]:
        normed = self.input_norm(x)
        return self.heads.keys(normed), self.heads.values(normed)

    def finish(
        self,
        queried: Float[Array, "*q_rows q_dim"],
        attended: Float[Array, "*rows heads head_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*rows q_dim"]:
        """What follows the attention: output projection, residual, MLP."""
        joined = self.heads.join(attended)
        drop_attended, drop_mlp = dropouts(self.dropout, joined.shape, key)
        x = drop_attended(joined)
        if self.residual:
            x = x + queried
        return x + drop_mlp(self.mlp(self.mlp_norm(x)))


class SelfAttentionBlock(eqx.Module):
    """Pre-norm causal self-attention between rows grouped by step, with rotary
    positions by step, after a causal convolution if wanted; questions to a context if
    wanted; and an MLP."""

    norm: LayerNorm
    conv: CausalConv | None
    heads: MultiHead
    ask: Ask | None
    mlp_norm: LayerNorm
    mlp: MLP
    rotary_dims: int | None = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    attention_dropout: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
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
        scale: float = 1.0,
        conv_kernel: int = 0,
        asks: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim, num_heads: channels, and heads that divide them.
            qk_dim, v_dim, qk_norm, qkv_bias, output_bias: as in `MultiHead`.
            mlp_widening, gated_mlp, tanh_gelu, mlp_bias: as in `MLP`.
            rotary_dims: as `dims` in `rotary`.
            dropout: probability in [0, 1) on both residual branches.
            attention_dropout: probability in [0, 1) on the attention weights.
            scale: factor on the initial deviation of the two maps into the residual.
            conv_kernel: steps that a `CausalConv` before the attention sees; 0 for
                none.
            asks: attend a context too.
        """
        heads_key, mlp_key = split_key(key)
        self.norm = LayerNorm(dim)
        self.heads = MultiHead(
            dim,
            dim,
            num_heads,
            qk_dim=qk_dim,
            v_dim=v_dim,
            qk_norm=qk_norm,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            scale=scale,
            key=heads_key,
        )
        self.mlp_norm = LayerNorm(dim)
        self.mlp = MLP(
            dim,
            mlp_widening,
            gated=gated_mlp,
            tanh_gelu=tanh_gelu,
            use_bias=mlp_bias,
            scale=scale,
            key=mlp_key,
        )
        self.conv = CausalConv(conv_kernel, dim) if conv_kernel else None
        self.ask = None
        if asks:
            ask_key = jr.fold_in(key, 2)
            self.ask = Ask(dim, num_heads, qk_norm=qk_norm, scale=scale, key=ask_key)
        self.rotary_dims = rotary_dims
        self.dropout = dropout
        self.attention_dropout = attention_dropout

    def __call__(
        self,
        x: Float[Array, "steps rows dim"],
        cache: LayerCache,
        past_steps: Int[Array, ""] | int,
        window: int | None,
        asked: Questions | None = None,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps rows dim"], tuple[Array, Array, Array | None]]:
        """
        Args:
            x: rows of each step; all of a step see each other and the steps before.
            cache: what is kept of past steps; `past_steps` of them were ever put in.
            window: how many steps a row sees, its own included; `None` for all.
            asked: the context, for a block that asks; `None` without one.
            time: devices over which the steps lie; `None` for one.

        Returns:
            the new rows, and what to `extend` the cache by.
        """
        weights_key, dropout_key = split_key(key)
        past, normed, last = cache.attention, self.norm(x), None
        if self.conv is not None:
            before = cache.rows_before(past_steps)
            if time is None:
                normed, last = self.conv(normed, before)
            else:
                normed, last = conv_over(self.conv, normed, before, time)
        positions = past_steps + steps_of(x, time)
        queries, keys = self.queries_keys(normed, positions)
        values = self.heads.values(normed)
        drops_weights = self.attention_dropout > 0 and weights_key is not None
        drops = {"dropout": self.attention_dropout, "rng": weights_key}
        newest = past.newest(keys), past.newest(values)
        if time is not None:
            attended, newest = attend_over(
                queries, keys, values, past, past_steps, window, time, **drops
            )
        elif x.shape[0] == 1 and past.capacity and not drops_weights:
            attended = _attend_one(queries, keys, values, past, past_steps)[None]
        else:
            attended = attend(
                rearrange(queries, "t c h d -> (t c) h d"),
                *past.visible(keys, values, past_steps, window),
                **drops,
            )
            attended = rearrange(attended, "(t c) h d -> t c h d", t=x.shape[0])
        joined = self.heads.join(attended.astype(x.dtype))
        drop_attended, drop_mlp = dropouts(self.dropout, x.shape, dropout_key)
        x = x + drop_attended(joined)
        if self.ask is not None and asked is not None:
            ask_key = None if dropout_key is None else jr.fold_in(dropout_key, 1)
            drop_told, _ = dropouts(self.dropout, x.shape, ask_key)
            x = x + drop_told(self.ask(x, asked))
        x = x + drop_mlp(self.mlp(self.mlp_norm(x)))
        return x, (*newest, last)

    def queries_keys(
        self, normed: Float[Array, "steps rows dim"], positions: Int[Array, " steps"]
    ) -> tuple[Array, Array]:
        """The queries and keys of each step's rows, turned by where it stands."""
        queries, keys = (
            rotary(project(normed), positions, dims=self.rotary_dims)
            for project in (self.heads.queries, self.heads.keys)
        )
        return queries, keys


def _attend_one(
    queries: Float[Array, "1 rows heads head_dim"],
    keys: Float[Array, "1 rows heads head_dim"],
    values: Float[Array, "1 rows heads v_dim"],
    cache: KeyValueCache,
    past_steps: Int[Array, ""] | int,
) -> Float[Array, "rows heads v_dim"]:
    """What a single step attends: itself and all that is held, which is what a window
    reaches. They are read as they lie and not copied."""
    past = by_row(cache.keys), by_row(cache.values), cache.held(past_steps)
    seen = attend_average(queries[0], *past, engine="dense")
    own = attend_average(queries[0], keys[0], values[0], engine="dense")
    return merge(seen, own).value
