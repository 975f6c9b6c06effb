from operator import attrgetter

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx.blocks import SelfAttentionBlock
from perceiver_eqx.layers import MLP, matrices_in
from perceiver_eqx.state import LayerCache, empty_cache
from tests.models import byte_inputs, byte_lm


def test_a_gated_mlp_has_as_many_parameters_up_to_rounding():
    def size(gated):
        mlp = MLP(96, 4, gated=gated, key=jax.random.key(0))
        return sum(x.size for x in jax.tree.leaves(mlp))

    assert abs(size(True) / size(False) - 1) < 0.02


@pytest.mark.parametrize("branch", ["heads.output", "mlp.down"])
def test_a_block_drops_out_channels_of_either_branch(branch):
    """The other branch gives nothing, so what it adds is what this one gives."""
    rate, dim = 0.25, 64
    block = SelfAttentionBlock(dim, 2, gated_mlp=True, dropout=rate, key=jr.key(0))
    other = {"heads.output": "mlp.down", "mlp.down": "heads.output"}[branch]
    block = eqx.tree_at(attrgetter(f"{other}.weight"), block, replace_fn=jnp.zeros_like)
    x = jr.normal(jr.key(1), (50, 1, dim))
    cache = LayerCache(empty_cache(0, 1, 2, dim // 2), None)
    run = eqx.filter_jit(lambda key: block(x, cache, 0, None, key=key)[0] - x)
    whole, dropped = run(None), run(jr.key(2))
    kept = np.asarray(dropped != 0)
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    np.testing.assert_allclose(
        dropped[kept], whole[kept] / (1 - rate), rtol=1e-3, atol=1e-5
    )


def test_with_its_matrices_converted_a_model_gives_the_same_to_the_bit():
    model = byte_lm(3, dtype="bfloat16")
    converted = matrices_in(model.dtype, model)
    assert model.outputs.logits.weight.dtype == jnp.float32
    assert converted.outputs.logits.weight.dtype == jnp.bfloat16
    assert converted.inputs.embedding.table.dtype == jnp.bfloat16
    assert converted.outputs.layers.processor.norm.scale.dtype == jnp.float32
    tokens, _ = byte_inputs(0)
    run = eqx.filter_jit(lambda model: model(tokens))
    assert np.array_equal(run(converted), run(model))
