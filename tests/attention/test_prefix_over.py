"""What a device tells the others of its own tokens: the end of `prefix_attend`."""

import jax
import jax.numpy as jnp
import pytest

import perceiver_eqx.attention.prefix_over as prefix_over
from perceiver_eqx import prefix_attend
from tests.helpers import assert_close, normals


LATENTS, HEADS, HEAD_DIM, STEPS, TOKENS = 2, 3, 4, 11, 2


@pytest.mark.parametrize("tile", [4, 11, 1024])
@pytest.mark.parametrize("there", [True, False])
def test_in_any_tiles_the_total_is_the_last_prefix(monkeypatch, tile, there):
    """Of tokens that age, some of which may not be there; gradients included."""
    monkeypatch.setattr(prefix_over, "TILE", tile)
    query = normals(0, LATENTS, HEADS, HEAD_DIM)
    key, value = (normals(i, STEPS, TOKENS, HEADS, HEAD_DIM) for i in (1, 2))
    rate = jnp.abs(normals(3, LATENTS, HEADS))
    mask = None if there else jnp.asarray(normals(4, STEPS, TOKENS) > 0)

    def weighed(average):
        weights = normals(5, LATENTS, HEADS, HEAD_DIM)
        return jnp.sum(average.value * weights) + jnp.sum(average.lse), average

    def total(query, key, value, rate):
        return weighed(prefix_over.total_prefix(query, key, value, rate, mask))

    def last(query, key, value, rate):
        return weighed(prefix_attend(query, key, value, rate=rate, mask=mask)[1])

    def run(call):
        both = jax.jit(jax.value_and_grad(call, (0, 1, 2, 3), has_aux=True))
        ((_, average), gradients) = both(query, key, value, rate)
        return (average.lse, average.value), gradients

    assert_close(run(total), run(last))
