import jax

from perceiver_eqx.layers import MLP


def test_a_gated_mlp_has_as_many_parameters_up_to_rounding():
    def size(gated):
        mlp = MLP(96, 4, gated=gated, key=jax.random.key(0))
        return sum(x.size for x in jax.tree.leaves(mlp))

    assert abs(size(True) / size(False) - 1) < 0.02
