"""Layers: linear maps, MLPs, and the two attention blocks made of them.

Parameters are float32. A layer computes in the dtype of its input; norms in float32.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, PyTree

from .attention.attend import attend, attend_average
from .attention.softmax import merge
from .conv import CausalConv
from .dropout import dropouts
from .norms import LayerNorm, RMSNorm
from .positions import rotary
from .state import KeyValueCache, LayerCache, by_row


class Linear(eqx.Module):
    """A linear map of the last axis, over any leading axes."""

    weight: Float[Array, "in_dim out_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        use_bias: bool = True,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            in_dim, out_dim: channels.
            use_bias: add a bias, zero at first.
            scale: factor on the initial standard deviation `1 / sqrt(in_dim)`.
        """
        spread = scale / math.sqrt(in_dim)
        self.weight = spread * jr.truncated_normal(key, -2, 2, (in_dim, out_dim))
        self.bias = jnp.zeros(out_dim) if use_bias else None

    def __call__(self, x: Float[Array, "*rows in_dim"]) -> Array:
        y = x @ self.weight.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Embedding(eqx.Module):
    """A learned vector for each of a small number of symbols."""

    table: Float[Array, "symbols dim"]

    def __init__(self, num_symbols: int, dim: int, *, key: PRNGKeyArray):
        self.table = jr.normal(key, (num_symbols, dim))

    @jax.named_scope("pqx.embed")
    def __call__(
        self, symbols: Int[Array, "*rows"], dtype=jnp.float32
    ) -> Float[Array, "*rows dim"]:
        return _embed(self.table.astype(dtype), symbols)


@jax.custom_vjp
def _embed(table, symbols):
    return table.at[symbols].get(mode="clip")


def _embed_forward(table, symbols):
    return _embed(table, symbols), (table, symbols)


def _embed_backward(residuals, cotangent):
    # The gradient of an index is a scatter, and very many symbols of few kinds contend
    # for it: a one-hot matrix product is several times faster on an accelerator.
    table, symbols = residuals
    one_hot = jax.nn.one_hot(symbols.ravel(), table.shape[0], dtype=cotangent.dtype)
    rows = cotangent.reshape(-1, table.shape[1])
    wide = jnp.result_type(jnp.float32, cotangent.dtype)
    d_table = jnp.einsum("ns,nd->sd", one_hot, rows, preferred_element_type=wide)
    return d_table.astype(table.dtype), None


_embed.defvjp(_embed_forward, _embed_backward)


def matrices_in(dtype: DTypeLike, model: PyTree) -> PyTree:
    """The model with the parameters of its linear maps and embeddings in a dtype. For
    inputs in that, it gives the same, and need not convert them at every call."""

    def convert(part):
        if not isinstance(part, Linear | Embedding):
            return part
        return jax.tree.map(lambda x: x.astype(dtype), part)

    return jax.tree.map(
        convert, model, is_leaf=lambda part: isinstance(part, Linear | Embedding)
    )


def split_key(key: PRNGKeyArray | None, num: int = 2) -> Sequence:
    """`num` keys out of one; without one, as many times `None`."""
    return [None] * num if key is None else list(jr.split(key, num))


class MLP(eqx.Module):
    """Two linear maps around an exact GELU; or gated, around a SiLU times a third map,
    all without biases.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), for the gated form, SwiGLU.
    """

    up: Linear
    gate: Linear | None
    down: Linear

    def __init__(
        self,
        dim: int,
        widening: int,
        *,
        gated: bool = False,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim: channels in and out; `widening * dim` between, or two thirds of it if
                gated (rounded up to a multiple of 8), for as many parameters.
            gated: multiply by a gate.
            scale: factor on the initial deviation of the map back.
        """
        keys = jr.split(key, 3)
        hidden = 8 * -(-widening * dim // 12) if gated else widening * dim
        bias = not gated
        self.up = Linear(dim, hidden, use_bias=bias, key=keys[0])
        self.down = Linear(hidden, dim, use_bias=bias, scale=scale, key=keys[1])
        self.gate = Linear(dim, hidden, use_bias=bias, key=keys[2]) if gated else None

    @jax.named_scope("pqx.mlp")
    def __call__(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x), approximate=False))
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MultiHead(eqx.Module):
    """The projections of multi-head attention; who attends whom is the caller's."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: RMSNorm | None
    key_norm: RMSNorm | None
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        q_dim: int,
        kv_dim: int,
        num_heads: int,
        *,
        qk_norm: bool = False,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            q_dim: channels of the queries and of the output.
            kv_dim: channels of what is attended.
            num_heads: a divisor of `q_dim`.
            qk_norm: norm every head's queries and keys, which bounds the scores.
            scale: factor on the initial deviation of the output projection.

        Raises:
            ValueError: if `num_heads` does not divide `q_dim`.
        """
        if num_heads < 1 or q_dim % num_heads:
            raise ValueError(
                f"`num_heads` must divide the width, got {num_heads} heads for width "
                f"{q_dim}."
            )
        keys = jr.split(key, 4)
        self.query = Linear(q_dim, q_dim, key=keys[0])
        self.key = Linear(kv_dim, q_dim, key=keys[1])
        self.value = Linear(kv_dim, q_dim, key=keys[2])
        self.output = Linear(q_dim, q_dim, scale=scale, key=keys[3])
        self.query_norm = RMSNorm(q_dim // num_heads) if qk_norm else None
        self.key_norm = RMSNorm(q_dim // num_heads) if qk_norm else None
        self.num_heads = num_heads

    def queries(self, x: Float[Array, "*rows q_dim"]) -> Array:
        return _normed(self.query_norm, self._heads(self.query(x)))

    def keys(self, x: Float[Array, "*rows kv_dim"]) -> Array:
        return _normed(self.key_norm, self._heads(self.key(x)))

    def values(self, x: Float[Array, "*rows kv_dim"]) -> Array:
        return self._heads(self.value(x))

    @jax.named_scope("pqx.projections")
    def join(self, x: Float[Array, "*rows heads head_dim"]) -> Array:
        return self.output(rearrange(x, "... h d -> ... (h d)"))

    def _heads(self, x: Array) -> Array:
        return rearrange(x, "... (h d) -> ... h d", h=self.num_heads)


def _normed(norm: RMSNorm | None, x: Array) -> Array:
    return x if norm is None else norm(x)


class CrossAttention(eqx.Module):
    """Pre-norm cross-attention: the parts around the attention itself, which differs
    between the encoder (a prefix scan) and the decoder (the latents of one step)."""

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
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        residual: bool = True,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            q_dim, kv_dim, num_heads: as in `MultiHead`.
            mlp_widening, gated_mlp: as in `MLP`.
            residual: add the queries to what they attended.
            dropout: probability in [0, 1) on both branches.

        Source:
            Jaegle et al., "Perceiver IO" (2021), §E.2.
        """
        heads_key, mlp_key = jr.split(key)
        self.query_norm = LayerNorm(q_dim)
        self.input_norm = LayerNorm(kv_dim)
        self.heads = MultiHead(q_dim, kv_dim, num_heads, key=heads_key)
        self.mlp_norm = LayerNorm(q_dim)
        self.mlp = MLP(q_dim, mlp_widening, gated=gated_mlp, key=mlp_key)
        self.residual = residual
        self.dropout = dropout

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
    positions by step, after a causal convolution if wanted, and an MLP."""

    norm: LayerNorm
    conv: CausalConv | None
    heads: MultiHead
    mlp_norm: LayerNorm
    mlp: MLP
    dropout: float = eqx.field(static=True)
    attention_dropout: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        scale: float = 1.0,
        conv_kernel: int = 0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim, num_heads: channels, and heads that divide them.
            mlp_widening, gated_mlp: as in `MLP`.
            qk_norm: as in `MultiHead`.
            dropout: probability in [0, 1) on both residual branches.
            attention_dropout: probability in [0, 1) on the attention weights.
            scale: factor on the initial deviation of the two maps into the residual.
            conv_kernel: steps that a `CausalConv` before the attention sees; 0 for
                none.
        """
        heads_key, mlp_key = jr.split(key)
        self.norm = LayerNorm(dim)
        self.heads = MultiHead(
            dim, dim, num_heads, qk_norm=qk_norm, scale=scale, key=heads_key
        )
        self.mlp_norm = LayerNorm(dim)
        self.mlp = MLP(dim, mlp_widening, gated=gated_mlp, scale=scale, key=mlp_key)
        self.conv = CausalConv(conv_kernel, dim) if conv_kernel else None
        self.dropout = dropout
        self.attention_dropout = attention_dropout

    def __call__(
        self,
        x: Float[Array, "steps rows dim"],
        cache: LayerCache,
        past_steps: Int[Array, ""] | int,
        window: int | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps rows dim"], tuple[Array, Array, Array | None]]:
        """
        Args:
            x: rows of each step; all of a step see each other and the steps before.
            cache: what is kept of past steps; `past_steps` of them were ever put in.
            window: how many steps a row sees, its own included; `None` for all.

        Returns:
            the new rows, and what to `extend` the cache by.
        """
        weights_key, dropout_key = split_key(key)
        past, normed, last = cache.attention, self.norm(x), None
        if self.conv is not None:
            normed, last = self.conv(normed, cache.rows_before(past_steps))
        positions = past_steps + jnp.arange(x.shape[0])
        queries = rotary(self.heads.queries(normed), positions)
        keys = rotary(self.heads.keys(normed), positions)
        values = self.heads.values(normed)
        drops_weights = self.attention_dropout > 0 and weights_key is not None
        if x.shape[0] == 1 and past.capacity and not drops_weights:
            attended = _attend_one(queries, keys, values, past, past_steps)
        else:
            attended = attend(
                rearrange(queries, "t c h d -> (t c) h d"),
                *past.visible(keys, values, past_steps, window),
                dropout=self.attention_dropout,
                rng=weights_key,
            )
        attended = rearrange(attended, "(t c) h d -> t c h d", t=x.shape[0])
        joined = self.heads.join(attended.astype(x.dtype))
        drop_attended, drop_mlp = dropouts(self.dropout, x.shape, dropout_key)
        x = x + drop_attended(joined)
        x = x + drop_mlp(self.mlp(self.mlp_norm(x)))
        return x, (past.newest(keys), past.newest(values), last)


def _attend_one(
    queries: Float[Array, "1 rows heads head_dim"],
    keys: Float[Array, "1 rows heads head_dim"],
    values: Float[Array, "1 rows heads head_dim"],
    cache: KeyValueCache,
    past_steps: Int[Array, ""] | int,
) -> Float[Array, "rows heads head_dim"]:
    """What a single step attends: itself and all that is held, which is what a window
    reaches. They are read as they lie and not copied."""
    past = by_row(cache.keys), by_row(cache.values), cache.held(past_steps)
    seen = attend_average(queries[0], *past, engine="dense")
    own = attend_average(queries[0], keys[0], values[0], engine="dense")
    return merge(seen, own).value
