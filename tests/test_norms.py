import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.norms import LayerNorm, RMSNorm
from tests.helpers import TOLERANCE, assert_close, normals, relative_error


def norm_of(kind, dim=12):
    norm = kind(dim)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * normals(dim, *x.shape)), norm)


def written_out(norm, x):
    shift = x.mean(-1, keepdims=True) if isinstance(norm, LayerNorm) else 0.0
    square = ((x - shift) ** 2).mean(-1, keepdims=True)
    y = (x - shift) / jnp.sqrt(square + norm.epsilon) * norm.scale
    return y + norm.bias if isinstance(norm, LayerNorm) else y


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_norm_and_its_derivatives_are_those_of_autodiff(kind):
    norm, x = norm_of(kind), jnp.asarray(3 * normals(1, 4, 5, 12) + 1)
    weight = jnp.asarray(normals(2, 4, 5, 12))

    def gradients(function):
        return jax.grad(lambda n, x: (function(n, x) * weight).sum(), (0, 1))(norm, x)

    assert_close(jax.vmap(norm)(x), written_out(norm, x))
    found = gradients(lambda n, x: jax.vmap(n)(x)), gradients(lambda n, x: n(x))
    for one in found:
        jax.tree.map(assert_close, one, gradients(written_out))
    tangents = jax.tree.map(jnp.cos, norm), jnp.sin(x)
    forward, expected = (
        jax.jvp(function, (norm, x), tangents)[1]
        for function in (lambda n, x: n(x), written_out)
    )
    assert_close(forward, expected)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_norm_keeps_the_dtype_and_counts_in_float32(kind):
    x = jnp.asarray(normals(1, 7, 12), jnp.bfloat16) + 100
    norm = norm_of(kind)
    found, gradient = jax.value_and_grad(
        lambda x: norm(x).astype(jnp.float32).sum(), allow_int=False
    )(x)
    assert norm(x).dtype == gradient.dtype == jnp.bfloat16
    assert np.isfinite(found)
    expected = written_out(norm, x.astype(jnp.float32))
    assert relative_error(norm(x), expected) <= TOLERANCE["bfloat16"]
