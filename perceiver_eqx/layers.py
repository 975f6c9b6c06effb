"""Layers: linear maps, embeddings, MLPs, and the projections of multi-head attention.

Parameters are float32. A layer computes in the dtype of its input; norms in float32.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, PyTree

from .draws import normal, split_key, truncated_normal
from .mesh import gathered
from .norms import RMSNorm


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
        self.weight = truncated_normal(key, (in_dim, out_dim), spread)
        self.bias = jnp.zeros(out_dim) if use_bias else None

    def __call__(self, x: Float[Array, "*rows in_dim"]) -> Array:
        weight, x = gathered(self.weight, x, x.dtype)
        y = x @ weight
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Embedding(eqx.Module):
    """A learned vector for each of a small number of symbols."""

    table: Float[Array, "symbols dim"]

    def __init__(self, num_symbols: int, dim: int, *, key: PRNGKeyArray):
        self.table = normal(key, (num_symbols, dim))

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


class MLP(eqx.Module):
    """Two linear maps around a GELU; or gated, around a SiLU times a third map, all
    without biases.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), for the gated form, SwiGLU.
    """

    up: Linear
    gate: Linear | None
    down: Linear
    tanh_gelu: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        widening: int,
        *,
        gated: bool = False,
        tanh_gelu: bool = False,
        use_bias: bool = True,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim: channels in and out; `widening * dim` between, or two thirds of it if
                gated (rounded up to a multiple of 8), for as many parameters.
            gated: multiply by a gate.
            tanh_gelu: of the GELU take the approximation by a tanh, as DeepMind's code
                does, and not the exact one.
            use_bias: add biases, if not gated.
            scale: factor on the initial deviation of the map back.
        """
        keys = split_key(key, 3)
        hidden = 8 * -(-widening * dim // 12) if gated else widening * dim
        bias = use_bias and not gated
        self.up = Linear(dim, hidden, use_bias=bias, key=keys[0])
        self.down = Linear(hidden, dim, use_bias=bias, scale=scale, key=keys[1])
        self.gate = Linear(dim, hidden, use_bias=bias, key=keys[2]) if gated else None
        self.tanh_gelu = tanh_gelu

    @jax.named_scope("pqx.mlp")
    def __call__(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x), approximate=self.tanh_gelu))
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
        qk_dim: int | None = None,
        v_dim: int | None = None,
        qk_norm: bool = False,
        qkv_bias: bool = True,
        output_bias: bool = True,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            q_dim: channels of the queries' rows and of the output.
            kv_dim: channels of what is attended.
            num_heads: a divisor of `qk_dim` and of `v_dim`.
            qk_dim: channels of all heads' queries, and of their keys; `q_dim` if
                `None`.
            v_dim: channels of all heads' values; `qk_dim` if `None`.
            qk_norm: norm every head's queries and keys, which bounds the scores.
            qkv_bias, output_bias: add biases in the projections.
            scale: factor on the initial deviation of the output projection.

        Raises:
            ValueError: if `num_heads` does not divide the width of what it parts.
        """
        qk_dim = q_dim if qk_dim is None else qk_dim
        v_dim = qk_dim if v_dim is None else v_dim
        for width in (qk_dim, v_dim):
            if num_heads < 1 or width % num_heads:
                raise ValueError(
                    f"`num_heads` must divide the width, got {num_heads} heads for "
                    f"width {width}."
                )
        keys = split_key(key, 4)
        self.query = Linear(q_dim, qk_dim, use_bias=qkv_bias, key=keys[0])
        self.key = Linear(kv_dim, qk_dim, use_bias=qkv_bias, key=keys[1])
        self.value = Linear(kv_dim, v_dim, use_bias=qkv_bias, key=keys[2])
        self.output = Linear(
            v_dim, q_dim, use_bias=output_bias, scale=scale, key=keys[3]
        )
        self.query_norm = RMSNorm(qk_dim // num_heads) if qk_norm else None
        self.key_norm = RMSNorm(qk_dim // num_heads) if qk_norm else None
        self.num_heads = num_heads

    @property
    def value_dim(self) -> int:
        """Channels of one head's values."""
        return self.value.weight.shape[-1] // self.num_heads

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
