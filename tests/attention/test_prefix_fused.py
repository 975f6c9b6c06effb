"""The fused kernels of `prefix_attend`, interpreted; on a GPU, compiled."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx import SoftmaxAverage, empty_average, prefix_attend
from perceiver_eqx.attention import prefix
from perceiver_eqx.attention.prefix import scan_prefixes
from perceiver_eqx.attention.prefix_fused import Plan, fused_prefix_attend, plan_of
from perceiver_eqx.attention.prefix_layout import Tiling
from tests.helpers import assert_close, assert_gradients_close, normals, relative_error


on_gpu = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="the kernels are compiled on a GPU"
)

HEADS, HEAD_DIM = 2, 16
# Segments of several tiles, tiles of several steps; a step in several parts.
SHORT = Plan(8, Tiling(4, 16), Tiling(4, 16), Tiling(4, 16), Tiling(2, 16))
LONG = Plan(2, Tiling(1, 16), Tiling(1, 32), Tiling(2, 16), Tiling(1, 16))


def arguments(
    seed, steps, tokens, latents, fastest=0.5, dtype=np.float32, head_dim=HEAD_DIM
):
    """Those of `fused_prefix_attend` without mask and plan; and cotangents."""
    per_latent = latents, HEADS
    rng = np.random.default_rng(seed)

    def average(seed):
        lse = jnp.asarray(normals(seed, *per_latent))
        value = jnp.asarray(normals(seed + 1, *per_latent, head_dim))
        return SoftmaxAverage(lse, value)

    query, key, value, d_out = (
        jnp.asarray(normals(seed + at, *shape, HEADS, head_dim), dtype)
        for at, shape in enumerate(
            [(latents,), (steps, tokens), (steps, tokens), (steps, latents)]
        )
    )
    rate = jnp.asarray(fastest * rng.random(per_latent), jnp.float32)
    d_final = average(seed + 8)
    d_final = SoftmaxAverage(d_final.top, d_final.value, d_final.top)
    averages = average(seed + 4), average(seed + 6)
    return (query, key, value, rate, *averages), (d_out, d_final)


@eqx.filter_jit
def run(attend, args, mask, cotangents, *plan):
    """Output, final average and all gradients."""
    (out, final), vjp = jax.vjp(lambda *args: attend(*args, mask, *plan), *args)
    return (out, final.lse, final.value), vjp(cotangents)


@pytest.mark.parametrize(
    ("shape", "plan"),
    [
        ((21, 3, 3), SHORT),  # ragged in steps, tokens and latents
        ((8, 4, 8), SHORT),  # one segment, whole tiles
        ((5, 40, 2), LONG),
        ((37, 1, 32), Plan(16, *[Tiling(steps, 16) for steps in (16, 8, 2, 4)])),
        ((1, 1, 1), None),
        ((70, 8, 4), None),
    ],
)
def test_the_kernels_equal_the_scan_forward_and_backward(shape, plan):
    steps, tokens, _ = shape
    args, cotangents = arguments(0, *shape)
    some = np.random.default_rng(0).random((steps, tokens)) < 0.7
    some[steps // 2] = False
    for mask in (jnp.asarray(some), None):
        found = run(fused_prefix_attend, args, mask, cotangents, plan)
        expected = run(scan_prefixes, args, mask, cotangents)
        assert_close(found[0], expected[0])
        assert_gradients_close(found[1], expected[1])


def test_nothing_is_seen_before_the_first_token_that_is_there():
    (query, key, value, rate, initial, _), cotangents = arguments(1, 21, 3, 2)
    initial = empty_average(initial.lse.shape, HEAD_DIM)
    mask = jnp.arange(21)[:, None] >= jnp.array([10, 11, 12])
    args = query, key, value, rate, initial, None
    found = run(fused_prefix_attend, args, mask, cotangents, SHORT)
    expected = run(scan_prefixes, args, mask, cotangents)
    assert np.all(found[0][0][:10] == 0)
    assert_close(found[0], expected[0])
    assert_gradients_close(found[1], expected[1])
    nothing = fused_prefix_attend(*args, jnp.zeros_like(mask), SHORT)[1]
    assert np.all(np.isneginf(nothing.lse))


def test_an_old_strong_token_gives_way_to_new_weak_ones():
    """Decay carries a score of 2,000 below one of -2,000, without NaN."""
    steps, rates = 40, jnp.array([[100.0], [150.0]])
    key = np.full((steps, 1, 1, HEAD_DIM), 0.0, np.float32)
    key[..., 0] = -8000.0
    key[0, ..., 0] = 8000.0
    value = np.zeros_like(key)
    value[0] = 1.0
    query = jnp.zeros((2, 1, HEAD_DIM)).at[..., 0].set(1.0)
    arrays = query, jnp.asarray(key), jnp.asarray(value), rates
    average = empty_average((2, 1), HEAD_DIM)
    mask = jnp.ones((steps, 1), bool)
    cotangents = jnp.ones((steps, 2, 1, HEAD_DIM)), average
    (out, *_), gradients = run(
        fused_prefix_attend, (*arrays, average, average), mask, cotangents, SHORT
    )
    age = np.arange(steps)[:, None]
    seen = np.where(age * np.array([100.0, 150.0]) < 4000, 1.0, 0.0)
    assert np.array_equal(np.round(out[:, :, 0, 0]), seen)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


def test_they_map_over_batches_and_scan_with_remat():
    args, (d_out, d_final) = arguments(2, 16, 2, 2)
    query, key, value, rate, initial, context = args
    mask = jnp.ones((8, 2), bool)

    def chunk(attend, initial, tokens):
        out, final = attend(query, *tokens, rate, initial, context, mask)
        return final, out

    def loss(attend, key, value):
        """Two chunks of a batch of batches."""
        body = jax.checkpoint(lambda *x: chunk(attend, *x))

        def one(key, value):
            chunks = (x.reshape(2, 8, *x.shape[1:]) for x in (key, value))
            final, out = jax.lax.scan(body, initial, tuple(chunks))
            return jnp.sum(out.reshape(d_out.shape) * d_out) + final.lse.sum()

        return jax.vmap(jax.vmap(one))(key, value).sum()

    batch = [
        jnp.stack([x, 2 * x, x - 1, -x]).reshape(2, 2, *x.shape) for x in (key, value)
    ]
    fused = lambda *x: fused_prefix_attend(*x, SHORT)  # noqa: E731
    found, expected = (
        jax.jit(jax.value_and_grad(lambda *x, f=f: loss(f, *x), (0, 1)))(*batch)
        for f in (fused, scan_prefixes)
    )
    assert_close(found[0], expected[0])
    assert_gradients_close(found[1], expected[1])


@pytest.mark.parametrize("latents", [1, 8, 64])
@pytest.mark.parametrize("tokens", [1, 3, 8, 100, 4096])
@pytest.mark.parametrize("steps", [1, 37, 2**20])
def test_plans_fit_every_size(latents, steps, tokens):
    query = jax.ShapeDtypeStruct((latents, 8, 64), jnp.bfloat16)
    plan = plan_of(query, steps, tokens)
    for tiling in plan[1:]:
        assert plan.segment % tiling.steps == 0
        assert tiling.tokens & (tiling.tokens - 1) == 0
        assert tiling.tokens >= 16
        assert tiling.steps == 1 or tiling.steps * tokens <= tiling.tokens


def test_only_long_bfloat16_on_a_gpu_takes_the_kernels(monkeypatch):
    x = jnp.zeros((4 * prefix.TILE + 1, 1, 1, 64), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert prefix._suits_kernels(x[0], x, x)
    for other in (x[1:], x[..., :48], x.astype(jnp.float32), x.astype(jnp.float16)):
        assert not prefix._suits_kernels(other[0], other, other)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not prefix._suits_kernels(x[0], x, x)


def test_without_a_triton_backend_the_scan_steps_in_with_a_warning(monkeypatch):
    x = jnp.ones((4 * prefix.TILE + 1, 1, 1, 32), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    expected = prefix_attend(x[0], x, x)[0]
    monkeypatch.setattr(prefix, "HAS_TRITON", False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.warns(UserWarning, match="has no Triton backend"):
        found = prefix_attend(x[0], x, x)[0]
    assert np.array_equal(found, expected)


@on_gpu
@pytest.mark.parametrize(
    ("shape", "head_dim"),
    [((2000, 1, 8), 64), ((301, 8, 8), 64), ((140, 100, 3), 32), ((200, 5, 16), 128)],
)
def test_compiled_they_equal_the_scan_but_for_rounding(shape, head_dim):
    args, cotangents = arguments(3, *shape, 0.1, jnp.bfloat16, head_dim)
    mask = jnp.asarray(np.random.default_rng(0).random(shape[:2]) < 0.7)
    assert prefix._suits_kernels(*args[:3])
    found = run(through_prefix_attend, args, mask, cotangents)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (args, cotangents))
    with jax.default_matmul_precision("highest"):
        expected = run(scan_prefixes, wide[0], mask, wide[1])
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        # One rounding to bfloat16 is 2e-3; the rate's gradient sums many.
        assert relative_error(one, other) <= 1e-2


def through_prefix_attend(query, key, value, rate, initial, context, mask):
    options = {"rate": rate, "initial": initial, "context": context, "mask": mask}
    return prefix_attend(query, key, value, **options)
