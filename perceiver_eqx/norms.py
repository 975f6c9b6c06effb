"""Norms, counted in float32, with a derivative of their own."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(eqx.Module):
    """Zero mean, unit variance over the last axis, then a learned scale and shift."""

    scale: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, dim: int, epsilon: float = 1e-5):
        self.scale = jnp.ones(dim)
        self.bias = jnp.zeros(dim)
        self.epsilon = epsilon

    @jax.named_scope("pqx.norm")
    def __call__(self, x: Float[Array, "*rows dim"]) -> Array:
        return _norm(x, self.scale, self.bias, self.epsilon)


class RMSNorm(eqx.Module):
    """Unit mean square over the last axis, then a learned scale."""

    scale: Float[Array, " dim"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, dim: int, epsilon: float = 1e-6):
        self.scale = jnp.ones(dim)
        self.epsilon = epsilon

    @jax.named_scope("pqx.norm")
    def __call__(self, x: Float[Array, "*rows dim"]) -> Array:
        return _norm(x, self.scale, None, self.epsilon)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _norm(x, scale, bias, epsilon):
    """Scaled to unit mean square, and with a bias first shifted to zero mean."""
    y = _normed_rows(x, *_row_statistics(x, bias is not None, epsilon)) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


@_norm.defjvp
def _norm_tangent(epsilon, primals, tangents):
    # By its parts, autodiff makes several times as many passes over the rows.
    (x, scale, bias), (d_x, d_scale, d_bias) = primals, tangents
    mean, factor = _row_statistics(x, bias is not None, epsilon)

    def normed():
        # Of statistics behind a barrier, each use is a value of its own, which is
        # computed where it is read: one value for all would be written in float32.
        return _normed_rows(x, *jax.lax.optimization_barrier((mean, factor)))

    d_x = d_x.astype(factor.dtype)
    across = d_x - normed() * (d_x * normed()).mean(-1, keepdims=True)
    if bias is not None:
        across = across - d_x.mean(-1, keepdims=True)
    d_y = across * factor * scale + normed() * d_scale
    d_y = d_y if bias is None else d_y + d_bias
    return _norm(x, scale, bias, epsilon), d_y.astype(x.dtype)


def _row_statistics(x, shifts: bool, epsilon: float):
    """What is taken from a row, and what it is then multiplied by."""
    wide = x.astype(jnp.result_type(jnp.float32, x.dtype))
    mean = wide.mean(-1, keepdims=True) if shifts else jnp.zeros((), wide.dtype)
    square = jnp.square(wide - mean).mean(-1, keepdims=True)
    return mean, jax.lax.rsqrt(square + epsilon)


def _normed_rows(x, mean, factor):
    """The rows without scale and shift."""
    return (x.astype(factor.dtype) - mean) * factor
