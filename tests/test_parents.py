"""Perceiver and Perceiver IO: right, of any widths, however often they ask."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import CausalPerceiver
from perceiver_eqx.decoder import in_pieces
from perceiver_eqx.parents import Perceiver, PerceiverIO
from tests import oracle_parents as oracle
from tests.helpers import assert_close, normals
from tests.models import drawn


INPUT, QUERY, TOKENS, OUTPUTS = 10, 6, 13, 7
SIZES = {"num_latents": 5, "latent_dim": 12, "num_layers": 2, "num_heads": 3}
KINDS = {
    "plain": {},
    "widths": {"qk_dim": 6, "v_dim": 9, "cross_qk_dim": 4, "cross_v_dim": 10}
    | {"cross_heads": 2, "query_qk_dim": 8, "query_v_dim": 4, "query_heads": 2},
    "repeated": {"num_blocks": 3, "num_crosses": 2, "own_crosses": 2},
    "unshared": {"num_blocks": 2, "own_blocks": 2, "query_residual": False},
    "options": {"tanh_gelu": True, "latent_residual": False, "mlp_widening": 2},
}


def perceiver_io(output_dim: int | None = 3, **options) -> PerceiverIO:
    sizes = {"input_dim": INPUT, "query_dim": QUERY, "output_dim": output_dim}
    return drawn(PerceiverIO, **{**sizes, **SIZES, **options})


def inputs_and_queries():
    return jnp.asarray(normals(0, TOKENS, INPUT)), jnp.asarray(
        normals(1, OUTPUTS, QUERY)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_description_written_out_in_float64(kind):
    options = KINDS[kind]
    model = perceiver_io(None if kind == "widths" else 3, **options)
    inputs, queries = inputs_and_queries()
    mask = np.arange(TOKENS) != 4
    with jax.default_matmul_precision("highest"):
        found = eqx.filter_jit(model)(inputs, queries, mask=jnp.asarray(mask))
    assert_close(found, oracle.perceiver_io(model, inputs, queries, mask))


def test_the_perceiver_gives_the_mean_of_the_latents():
    model = drawn(Perceiver, input_dim=INPUT, output_dim=4, **SIZES)
    inputs, _ = inputs_and_queries()
    expected = oracle.encoder(model.encoder, inputs).mean(0)
    expected = oracle.linear(model.output, expected)
    assert_close(eqx.filter_jit(model)(inputs), expected)


def test_it_is_the_combined_model_of_one_step():
    sizes = {"input_dim": INPUT, "output_dim": 3, **SIZES, "num_heads": 2}
    combined = drawn(
        CausalPerceiver,
        tokens_per_step=TOKENS,
        outputs_per_step=OUTPUTS,
        query_dim=QUERY,
        recency=False,
        own_step=False,
        mlp_widening=1,
        **sizes,
    )
    parent = perceiver_io(num_heads=2)
    encoder, processor = combined.encoder, combined.processor
    # The same arrays, but positions by step turn nothing: there is one step.
    of_blocks = jax.tree.structure(parent.encoder.processors[0].blocks)
    blocks = jax.tree.unflatten(of_blocks, jax.tree.leaves(processor.blocks))
    parent = eqx.tree_at(
        lambda p: (
            p.encoder.latents,
            p.encoder.crosses[0],
            p.encoder.processors[0].blocks,
            p.decoder.cross,
            p.decoder.output,
        ),
        parent,
        (
            encoder.latents,
            encoder.cross,
            blocks,
            combined.decoder.cross,
            combined.decoder.output,
        ),
    )
    inputs, _ = inputs_and_queries()
    latents = processor.norm(eqx.filter_jit(parent.encoder)(inputs))
    found = parent.decode(latents, combined.decoder.queries)
    assert_close(found, eqx.filter_jit(combined)(inputs[None])[0])


def test_tokens_that_are_masked_count_as_absent():
    model, (inputs, queries) = perceiver_io(), inputs_and_queries()
    mask = jnp.arange(TOKENS) < 9
    assert_close(model(inputs, queries, mask=mask), model(inputs[:9], queries))


def test_outputs_in_pieces_are_the_same():
    model, (inputs, queries) = perceiver_io(), inputs_and_queries()
    latents = model.encoder(inputs)
    for piece in (1, 3, 7, 20):
        found = in_pieces(lambda some: model.decode(latents, some), queries, piece)
        assert_close(found, model.decode(latents, queries))


def test_shared_blocks_are_one_set_of_parameters():
    def size(**options):
        shapes = eqx.filter_eval_shape(
            lambda: PerceiverIO(INPUT, QUERY, 3, **SIZES, **options, key=jr.key(0))
        )
        return sum(x.size for x in jax.tree.leaves(shapes))

    one, shared = size(), size(num_blocks=4, num_crosses=4)
    assert shared == one
    own = size(num_blocks=4, num_crosses=4, own_crosses=2, own_blocks=4)
    assert own > 2 * one


def test_dropout_acts_where_a_key_is_given():
    model, (inputs, queries) = perceiver_io(dropout=0.5), inputs_and_queries()
    whole = model(inputs, queries)
    assert np.array_equal(whole, model(inputs, queries))
    one, other = (model(inputs, queries, key=jr.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)
    assert not np.allclose(one, whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_crosses": 2}, "`num_crosses` must be at most `num_blocks`, got 2 for 1"),
        ({"qk_dim": 7}, "`qk_dim` must be a multiple of 3"),
        ({"cross_v_dim": 7}, "`cross_v_dim` must be a multiple of 3"),
        ({"query_heads": 4}, "`query_qk_dim` must be a multiple of 4"),
        ({"num_latents": 0}, "`num_latents` must be at least 1"),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"qk_dim": 0}, "`qk_dim` must be at least 1"),
        ({"query_v_dim": -2}, "`query_v_dim` must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        PerceiverIO(INPUT, QUERY, 3, **{**SIZES, **options}, key=jr.key(0))


def test_inputs_of_another_shape_are_refused():
    model, (inputs, queries) = perceiver_io(), inputs_and_queries()
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(tokens, inp"):
        model(inputs[:, 1:], queries)
    with pytest.raises(ValueError, match="`inputs` must hold at least 1 token"):
        model(inputs[:0], queries)
    with pytest.raises(ValueError, match="`queries` must have shape"):
        model(inputs, queries[:, 1:])
    with pytest.raises(TypeError, match="floating-point|Float"):
        model(inputs.astype(int), queries)
    # Here jaxtyping sees it before the model does.
    with pytest.raises((ValueError, TypeError), match="mask"):
        model(inputs, queries, mask=jnp.ones(3, bool))
