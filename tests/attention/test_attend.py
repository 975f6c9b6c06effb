import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import StepMask, attend
from perceiver_eqx.attention.attend import attend_average
from perceiver_eqx.attention.blockwise import blockwise_average
from perceiver_eqx.attention.masks import FullMask
from tests.helpers import (
    TOLERANCE,
    assert_close,
    attention_oracle,
    normals,
    relative_error,
)
from tests.strategies import seeds


ENGINES = ("dense", "blockwise")
MASKS = {
    "latents": StepMask(9, 9, 3, 3),
    "own step": StepMask(9, 9, 2, 2, 1),
    "window": StepMask(9, 9, 2, 2, 4),
    "inputs": StepMask(7, 7, 2, 5),
    "past": StepMask(4, 9, 2, 2, 3, 5, 4),
    "everything": None,
    "keys": jnp.arange(37)[None] % 3 > 0,
}


def inputs(seed, mask, heads=2, kv_heads=None, head_dim=8, v_dim=6):
    rows, columns = mask.shape if isinstance(mask, StepMask) else (23, 37)
    kv_heads = kv_heads or heads
    shapes = (
        (rows, heads, head_dim),
        (columns, kv_heads, head_dim),
        (columns, kv_heads, v_dim),
        (rows, heads, v_dim),
    )
    return [jnp.asarray(normals(seed + i, *s)) for i, s in enumerate(shapes)]


def written_out(mask, query, key):
    shape = query.shape[0], key.shape[0]
    allowed = mask.dense() if isinstance(mask, StepMask) else mask
    return np.broadcast_to(True if mask is None else allowed, shape)


def forward_and_gradients(attention, query, key, value, d_out):
    out, vjp = jax.vjp(attention, query, key, value)
    return out, *vjp(d_out)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_equals_the_oracle_forward_and_backward(engine, name):
    mask = MASKS[name]

    @jax.jit
    def run(query, key, value, d_out):
        def attention(*arrays):
            return attend(*arrays, mask, engine=engine)

        return forward_and_gradients(attention, query, key, value, d_out)

    for seed in range(3):
        query, key, value, d_out = inputs(10 * seed, mask)
        allowed = written_out(mask, query, key)
        expected = attention_oracle(query, key, value, allowed, d_out)
        assert_close(run(query, key, value, d_out), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_of_keys_serves_as_many_heads_of_queries(engine):
    mask = MASKS["window"]
    query, key, value, d_out = inputs(0, mask, heads=6, kv_heads=2)

    @jax.jit
    def run(*arrays):
        def attention(*arrays):
            return attend(*arrays, mask, engine=engine)

        return forward_and_gradients(attention, *arrays)

    wide = (np.repeat(x, 3, axis=1) for x in (key, value))
    *expected, d_key, d_value = attention_oracle(query, *wide, mask.dense(), d_out)
    for x in (d_key, d_value):
        expected.append(x.reshape(x.shape[0], 2, 3, -1).sum(2))
    assert_close(run(query, key, value, d_out), tuple(expected))


@pytest.mark.parametrize("tile", [1, 4, 16, 64])
def test_tiles_of_any_size_equal_the_oracle_forward_and_backward(tile):
    mask = MASKS["window"]
    query, key, value, d_out = inputs(0, mask)

    @jax.jit
    def run(query, key, value, d_out):
        def attention(*arrays):
            return blockwise_average(*arrays, mask, tile=tile).value

        return forward_and_gradients(attention, query, key, value, d_out)

    expected = attention_oracle(query, key, value, np.array(mask.dense()), d_out)
    assert_close(run(query, key, value, d_out), expected)


@settings(max_examples=10)
@given(seeds)
def test_engines_agree_on_any_boolean_mask(seed):
    query, key, value, d_out = inputs(seed, None)
    allowed = np.random.default_rng(seed).random((23, 37)) < 0.3
    allowed[5] = False
    expected = attention_oracle(query, key, value, allowed, d_out)
    for engine in ENGINES:
        assert_close(run_boolean(engine)(query, key, value, allowed, d_out), expected)


def run_boolean(engine, cache={}):  # noqa: B006
    if engine not in cache:

        def run(query, key, value, allowed, d_out):
            def attention(*arrays):
                return attend(*arrays, allowed, engine=engine)

            return forward_and_gradients(attention, query, key, value, d_out)

        cache[engine] = jax.jit(run)
    return cache[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_log_sum_exp_has_a_gradient(engine):
    """A merge downstream weighs averages by it."""
    mask = MASKS["window"]
    query, key, value, _ = inputs(0, mask)

    def total(query, key, engine):
        return jnp.sum(jnp.sin(attend_average(query, key, value, mask, engine).lse))

    gradients = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
    scores = np.einsum("qhd,khd->hqk", np.asarray(query, float), key) * 8**-0.5
    scores = np.where(mask.dense(), scores, -np.inf)
    lse = np.log(np.exp(scores).sum(-1))
    d_scores = np.exp(scores - lse[..., None]) * np.cos(lse)[..., None] * 8**-0.5
    expected = (
        np.einsum("hqk,khd->qhd", d_scores, key),
        np.einsum("hqk,qhd->khd", d_scores, query),
    )
    assert_close(gradients(query, key, engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_may_see_nothing_is_zero_with_zero_gradients(engine):
    query, key, value, _ = inputs(0, None)
    allowed = np.ones((23, 37), bool)
    allowed[3] = False
    allowed = jnp.asarray(allowed)
    out, vjp = jax.vjp(lambda *x: attend(*x, allowed, engine=engine), query, key, value)
    assert np.all(out[3] == 0)
    only_that_row = np.zeros_like(out)
    only_that_row[3] = 1
    for gradient in vjp(jnp.asarray(only_that_row)):
        assert np.all(gradient == 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_within_its_rounding(engine, dtype):
    mask = MASKS["latents"]
    arrays = [jnp.asarray(x, dtype) for x in inputs(0, mask)]
    expected = attention_oracle(*arrays[:3], np.array(mask.dense()), arrays[3])

    def attention(*arrays):
        return attend(*arrays, mask, engine=engine)

    found = jax.jit(lambda *x: forward_and_gradients(attention, *x))(*arrays)
    assert {x.dtype.name for x in found} == {dtype}
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) <= TOLERANCE[dtype]


def test_two_keys_weigh_as_computed_by_hand():
    """Scores 0 and log 3, after the scale of 1/2, weigh 1/4 and 3/4."""
    query = jnp.array([[[2.0, 0.0, 0.0, 0.0]]])
    key = jnp.array([[[0.0] * 4], [[np.log(3.0), 0.0, 0.0, 0.0]]])
    value = jnp.array([[[0.0]], [[4.0]]])
    for engine in ENGINES:
        assert np.allclose(attend(query, key, value, engine=engine), 3.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_by_vmap_equal_one_by_one(engine):
    mask = MASKS["window"]
    batch = [
        np.stack(pair) for pair in zip(inputs(0, mask), inputs(9, mask), strict=True)
    ]

    def one(query, key, value, d_out):
        return forward_and_gradients(
            lambda *x: attend(*x, mask, engine=engine), query, key, value, d_out
        )

    together = jax.jit(jax.vmap(one))(*batch)
    apart = [jax.jit(one)(*(x[i] for x in batch)) for i in range(2)]
    assert_close(together, tuple(np.stack(pair) for pair in zip(*apart, strict=True)))


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_leaves_out_weights_and_keeps_the_mean(engine):
    rows = 2000
    query = jnp.zeros((rows, 1, 4))
    key, value = jnp.zeros((8, 1, 4)), jnp.ones((8, 1, 1))

    @jax.jit
    def run(rng):
        return attend(query, key, value, engine=engine, dropout=0.25, rng=rng)[:, 0, 0]

    out = np.array(run(jr.key(0)))
    counts = out * 8 * 0.75
    assert np.allclose(counts, np.round(counts), atol=1e-4)
    assert abs(out.mean() - 1) < 0.02
    assert np.array_equal(out, run(jr.key(0)))
    assert not np.array_equal(out, run(jr.key(1)))
    assert np.allclose(attend(query, key, value, engine=engine, dropout=0.25), 1)


def test_gradients_through_blockwise_dropout_are_those_of_its_own_weights():
    """The backward pass draws the same tiles of zeros as the forward pass did."""
    query, key, value, d_out = (x[:, :, :4] for x in inputs(0, None))
    mask, rng = FullMask(23, 37), jr.key(3)

    def attention(query, key, value):
        return blockwise_average(query, key, value, mask, 0.5, rng, tile=8).value

    # The output is linear in the values: its Jacobian is the dropped weights.
    identity = jnp.broadcast_to(jnp.eye(37)[:, None], (37, 2, 37))
    run = jax.jit(jax.vjp, static_argnums=0)
    weights = jax.jit(attention)(query, key, identity)
    _, vjp = run(attention, query, key, value)
    d_query, d_key, d_value = vjp(d_out)
    assert_close(d_value, np.einsum("qhk,qhd->khd", weights, d_out))
    step = 1e-2 * normals(7, *query.shape)
    there, back = (attention(query + sign * step, key, value) for sign in (1, -1))
    expected = np.sum((np.asarray(there, float) - back) / 2 * d_out)
    assert np.isclose(np.sum(np.asarray(d_query, float) * step), expected, rtol=1e-2)


@pytest.mark.parametrize("mask", [StepMask(2, 2, 2, 2), jnp.ones((23, 36), bool)])
def test_a_mask_of_another_shape_is_refused_with_both_shapes(mask):
    query, key, value, _ = inputs(0, None)
    # Boolean arrays are refused by their annotation first, where types are checked.
    refusals = r"`mask` must have shape .*\(23, 37\), got|parameter 'mask'"
    with pytest.raises((ValueError, TypeError), match=refusals):
        attend(query, key, value, mask)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    query, key, value, _ = inputs(0, None)
    with pytest.raises(Exception, match="engine"):
        attend(query, key, value, engine="fast")  # pyright: ignore


@settings(max_examples=5)
@given(st.sampled_from([600, 777]))
def test_auto_takes_tiles_where_scores_would_be_many(length):
    x = jnp.zeros((length, 1, 8))
    jaxpr = str(jax.make_jaxpr(attend)(x, x, x))
    assert f"{length},1,{length}" not in jaxpr.replace(" ", "")
