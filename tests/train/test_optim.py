import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

from tests.helpers import assert_close, normals
from tests.models import byte_lm
from train.optim import UPDATE_RMS, adamw, hidden_matrices, is_matrix, muon


RATE = 0.1
DECAYS = {"b1": 0.9, "b2": 0.99, "clip_norm": 1e6}


def params_of_a_model():
    return eqx.filter(byte_lm(3, num_layers=2), eqx.is_array)


def first_update(make, gradient, params, **options):
    optim = make(lambda step: RATE, **DECAYS, **{"weight_decay": 0.0, **options})
    return jax.jit(lambda g, p: optim.update(g, optim.init(p), p)[0])(gradient, params)


@pytest.mark.parametrize(
    ("make", "decaying"), [(adamw, is_matrix), (muon, hidden_matrices)]
)
def test_only_matrices_decay(make, decaying):
    params = params_of_a_model()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = first_update(make, zeros, params, weight_decay=0.5)
    matrices = decaying(params)
    assert 0 < sum(jax.tree.leaves(matrices)) < len(jax.tree.leaves(matrices))
    for decays, update, leaf in zip(
        *map(jax.tree.leaves, (matrices, updates, params)), strict=True
    ):
        assert_close(update, -0.05 * leaf if decays else 0 * leaf)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_muon_makes_every_matrix_of_a_stack_orthogonal_by_itself(dtype):
    """Its singular values are all near one, in its own iteration between 0.6 and 1.2,
    whatever those of the gradient; times what gives all shapes the same size."""
    params = params_of_a_model()
    gradient = jtu.tree_map_with_path(
        lambda path, x: normals(len(jtu.keystr(path)), *x.shape), params
    )
    updates = first_update(muon, gradient, params, dtype=dtype)

    def layers(tree):
        mlp = tree.perceiver.processor.blocks.mlp
        return [*mlp.up.weight, *mlp.gate.weight, *mlp.down.weight]

    assert len(layers(updates)) == 6
    for layer, (update, of_layer) in enumerate(
        zip(layers(updates), layers(gradient), strict=True)
    ):
        scale = RATE * UPDATE_RMS * np.sqrt(max(update.shape))
        left, values, right = np.linalg.svd(np.asarray(update), full_matrices=False)
        assert 0.55 < values.min() / scale < values.max() / scale < 1.25
        # The same directions as the gradient, downhill, and the own layer's.
        u, _, v = np.linalg.svd(np.asarray(of_layer), full_matrices=False)
        alike = np.sum(update * (u @ v)) / (np.sum(values) + 1e-9)
        assert alike < -0.97, layer


def test_muon_leaves_the_logits_and_all_that_is_no_matrix_to_adamw():
    """Whose first update has the same size in every entry."""
    params = params_of_a_model()
    gradient = jtu.tree_map_with_path(
        lambda path, x: normals(len(jtu.keystr(path)), *x.shape), params
    )
    updates = first_update(muon, gradient, params)
    taken = 0
    for (path, update), matrix in zip(
        jtu.tree_leaves_with_path(updates),
        jax.tree.leaves(is_matrix(params)),
        strict=True,
    ):
        sizes = np.abs(np.asarray(update))
        by_adamw = not matrix or "logits" in jtu.keystr(path)
        assert (np.ptp(sizes) < 1e-4 * sizes.max()) == by_adamw or sizes.size == 1
        taken += not by_adamw
    assert taken > 10
