import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceiver_eqx import (
    SoftmaxAverage,
    StepMask,
    attend,
    empty_average,
    merge,
    prefix_attend,
)
from perceiver_eqx.attention.prefix import TILE
from tests.helpers import (
    TOLERANCE,
    assert_close,
    normals,
    relative_error,
    softmax_oracle,
)
from tests.strategies import seeds


# (steps, tokens, latents): one step, one token, one latent, ragged and whole tiles.
SHAPES = [(1, 3, 2), (5, 1, 2), (2 * TILE, 2, 1), (2 * TILE + 5, 3, 2), (1, 1, 1)]
HEADS, HEAD_DIM, V_DIM = 2, 4, 3


def prefix_oracle(query, key, value, rate, initial, d_out):
    """Dense attention of the queries, replicated over the steps, in float64: the
    output, and the gradients of all arguments under `d_out`."""
    steps, tokens = key.shape[:2]
    latents, heads, head_dim = query.shape
    scale = head_dim**-0.5
    query, key, value, rate, d_out = (
        np.asarray(x, np.float64) for x in (query, key, value, rate, d_out)
    )
    age = np.arange(steps)[:, None] - np.repeat(np.arange(steps), tokens)
    keys = key.reshape(-1, heads, head_dim)
    raw = np.einsum("chd,khd->hck", query, keys) * scale
    scores = raw[:, None] - rate.T[:, None, :, None] * age[:, None, :]
    scores = np.where((age >= 0)[:, None, :], scores, -np.inf)
    # What came before is one more key per latent, one step old at the first step.
    old = 1 + np.arange(steps, dtype=np.float64)
    lse = np.asarray(initial.lse, np.float64)
    before = lse.T[:, None, :] - rate.T[:, None, :] * old[:, None]
    scores = np.concatenate([scores, before[..., None]], -1)
    all_ages = np.concatenate([np.where(age >= 0, age, 0), old[:, None]], 1)

    out = np.zeros((steps, latents, heads, value.shape[-1]))
    d_query, d_rate = np.zeros_like(query), np.zeros_like(rate)
    d_key, d_value = np.zeros_like(keys), np.zeros((len(keys), *value.shape[2:]))
    d_lse, d_before = np.zeros_like(lse), np.zeros(initial.value.shape)
    values = value.reshape(-1, *value.shape[2:]).swapaxes(0, 1)
    for c in range(latents):
        seen = np.asarray(initial.value, np.float64)[c][:, None]
        joined = np.concatenate([values, seen], 1)
        one, _, d_scores, d_joined = softmax_oracle(
            scores[:, :, c], joined, d_out[:, c].swapaxes(0, 1)
        )
        out[:, c] = one.swapaxes(0, 1)
        d_rate[c] = -(d_scores * all_ages).sum((-1, -2))
        d_lse[c], d_before[c] = d_scores[..., -1].sum(-1), d_joined[:, -1]
        d_raw = d_scores[..., :-1].sum(1) * scale
        d_query[c] = np.einsum("hk,khd->hd", d_raw, keys)
        d_key += np.einsum("hk,hd->khd", d_raw, query[c])
        d_value += d_joined[:, :-1].swapaxes(0, 1)
    gradients = (
        d_query,
        d_key.reshape(key.shape),
        d_value.reshape(value.shape),
        d_rate,
        # The gradient of both parts of its log-sum-exp is that of the whole.
        SoftmaxAverage(
            *(jnp.asarray(x, jnp.float32) for x in (d_lse, d_before, d_lse))
        ),
    )
    return out, gradients


@jax.jit
def forward_and_gradients(query, key, value, rate, initial, d_out):
    def attention(query, key, value, rate, initial):
        return prefix_attend(query, key, value, rate=rate, initial=initial)[0]

    out, vjp = jax.vjp(attention, query, key, value, rate, initial)
    return out, vjp(d_out)


def arguments(seed, shape, spread=1.0, fastest=1.0):
    steps, tokens, latents = shape
    rng = np.random.default_rng(seed)
    query = spread * normals(seed, latents, HEADS, HEAD_DIM)
    key = normals(seed + 1, steps, tokens, HEADS, HEAD_DIM)
    value = normals(seed + 2, steps, tokens, HEADS, V_DIM)
    rate = fastest * rng.random((latents, HEADS)).astype(np.float32)
    initial = SoftmaxAverage(
        jnp.asarray(normals(seed + 3, latents, HEADS)),
        jnp.asarray(normals(seed + 4, latents, HEADS, V_DIM)),
    )
    d_out = normals(seed + 5, steps, latents, HEADS, V_DIM)
    return *map(jnp.asarray, (query, key, value, rate)), initial, jnp.asarray(d_out)


@settings(max_examples=20)
@given(seeds, st.sampled_from(SHAPES), st.sampled_from([0.0, 0.1, 3.0]))
@example(0, (2 * TILE + 5, 3, 2), 0.1)
def test_it_equals_the_dense_oracle_forward_and_backward(seed, shape, fastest):
    args = arguments(seed, shape, fastest=fastest)
    assert_close(forward_and_gradients(*args), prefix_oracle(*args))


@settings(max_examples=10)
@given(seeds, st.sampled_from(SHAPES[2:4]), st.sampled_from([0.0, 0.5]))
def test_it_equals_the_oracle_at_scores_of_ten_thousand(seed, shape, fastest):
    """Scores are multiples of 1/2 up to ten thousand, exact in float32, so that only
    the algorithm's own rounding shows; many are close enough to weigh in together."""
    steps, tokens, latents = shape
    rng = np.random.default_rng(seed)
    _, _, value, rate, initial, d_out = arguments(seed, shape, fastest=fastest)
    query = jnp.ones((latents, HEADS, HEAD_DIM)) * jnp.array([2.0, 0, 0, 0])
    level = rng.choice([-9999.0, 0.0, 9999.0], (steps, tokens, HEADS))
    key = np.zeros((steps, tokens, HEADS, HEAD_DIM), np.float32)
    key[..., 0] = level + rng.integers(-4, 5, level.shape) / 2
    args = query, jnp.asarray(key), value, rate, initial, d_out
    found, expected = forward_and_gradients(*args), prefix_oracle(*args)
    # The queries' gradient sums keys of ten thousand to about one: it is held against
    # the size of what it sums.
    (out, (d_query, *rest)), (out_, (d_query_, *rest_)) = found, expected
    assert_close((out, rest), (out_, rest_))
    summed = np.linalg.norm(key) * np.linalg.norm(d_out)
    assert np.linalg.norm(d_query - d_query_) <= 1e-7 * summed


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_a_stream_of_single_steps_beside_a_context_loses_nothing_to_rounding(level):
    """Scores are exact in float32, as above. The context is two keys of one value."""
    steps = 2 * TILE + 6
    rng = np.random.default_rng(0)
    score = level + rng.integers(-4, 5, (steps, 1, 1, 1)) / 2
    value = normals(1, steps, 1, 1, V_DIM)
    beside = normals(2, 1, 1, V_DIM)
    context = merge(*[SoftmaxAverage(jnp.full((1, 1), level), jnp.asarray(beside))] * 2)
    query = jnp.ones((1, 1, 1))

    def take_step(seen, token):
        key, value = (x[None] for x in token)
        out, seen = prefix_attend(query, key, value, initial=seen, context=context)
        return seen, out[0]

    arrays = jnp.asarray(score, jnp.float32), jnp.asarray(value)
    _, out = jax.jit(jax.lax.scan, static_argnums=0)(
        take_step, empty_average((1, 1), V_DIM), arrays
    )
    weights = np.exp(score[:, 0, 0, 0] - level)
    sums = np.cumsum(weights[:, None] * value[:, 0, 0].astype(np.float64), 0)
    expected = (sums + 2 * beside[0]) / (np.cumsum(weights) + 2)[:, None]
    assert relative_error(out[:, 0, 0], expected) <= 1e-6


def test_a_thousand_equal_scores_of_ten_thousand_give_the_mean():
    steps = 1000
    query, key = jnp.full((1, 1, 1), 1e4), jnp.ones((steps, 1, 1, 1))
    value = jnp.asarray(normals(0, steps, 1, 1, 2))
    out, final = jax.jit(prefix_attend)(query, key, value)
    means = (
        np.cumsum(np.asarray(value, np.float64), 0)
        / np.arange(1, steps + 1)[:, None, None, None]
    )
    assert relative_error(out, means) <= TOLERANCE["float32"]
    assert np.allclose(final.lse, 1e4 + np.log(steps))


def test_an_old_strong_token_gives_way_to_new_weak_ones():
    """Decay carries a score of 9,999 below one of -9,999, exactly and without NaN."""
    steps = 3 * TILE
    key = np.full((steps, 1, 1, 1), -9999.0, np.float32)
    key[0] = 9999.0
    value = np.zeros((steps, 1, 1, 1), np.float32)
    value[0] = 1.0
    run = jax.jit(lambda *x: prefix_attend(*x[:3], rate=x[3])[0])
    out = run(
        jnp.ones((1, 1, 1)),
        jnp.asarray(key),
        jnp.asarray(value),
        jnp.full((1, 1), 400.0),
    )
    expected = np.where(np.arange(steps) * 400 < 2 * 9999, 1.0, 0.0)
    assert np.array_equal(np.round(out[:, 0, 0, 0]), expected)


def test_it_is_dense_attention_under_the_seeds_mask():
    """The same by the library's own engine, with the queries written out per step."""
    steps, tokens, latents = 6, 3, 2
    query, key, value, _, _, _ = arguments(0, (steps, tokens, latents))
    out, _ = jax.jit(prefix_attend)(query, key, value)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (key, value)]
    mask = StepMask(steps, steps, latents, tokens)
    dense = attend(jnp.tile(query, (steps, 1, 1)), *flat, mask, engine="dense")
    assert_close(out, dense.reshape(out.shape))


@pytest.mark.parametrize("first", [1, TILE - 1, TILE, TILE + 1])
def test_the_final_average_carries_on_where_the_steps_were_cut(first):
    args = arguments(0, (2 * TILE + 5, 3, 2))
    query, key, value, rate, initial, _ = args
    run = jax.jit(lambda k, v, i: prefix_attend(query, k, v, rate=rate, initial=i))
    whole, final = run(key, value, initial)
    head, between = run(key[:first], value[:first], initial)
    tail, last = run(key[first:], value[first:], between)
    assert_close(jnp.concatenate([head, tail]), whole)
    assert_close((last.lse, last.value), (final.lse, final.value))


def test_the_context_is_seen_by_every_step_and_never_ages():
    query, key, value, rate, context, _ = arguments(0, (TILE + 3, 2, 2))
    run = jax.jit(lambda c: prefix_attend(query, key, value, rate=rate, context=c)[0])
    found = run(context)
    for step in (0, TILE, TILE + 2):
        kept = slice(None, step + 1)
        _, seen = prefix_attend(query, key[kept], value[kept], rate=rate)
        assert_close(found[step], merge(seen, context).value)


def test_masked_tokens_are_as_if_they_were_not_there():
    query, key, value, rate, initial, _ = arguments(0, (TILE + 5, 3, 2))
    mask = np.array(np.random.default_rng(0).random((TILE + 5, 3)) < 0.5)
    mask[4] = False
    run = jax.jit(
        lambda k, v: prefix_attend(
            query, k, v, rate=rate, initial=initial, mask=jnp.asarray(mask)
        )[0]
    )
    elsewhere = jnp.where(mask[..., None, None], 0.0, 1e3)
    assert_close(run(key + elsewhere, value + elsewhere), run(key, value))
    args = (query, jnp.where(mask[..., None, None], key, -jnp.inf), value, rate)
    # A key of -inf scores -inf or +inf by the query's sign: make them all positive.
    positive = (jnp.abs(args[0]), *args[1:], initial)
    expected = prefix_oracle(*positive, jnp.zeros((TILE + 5, 2, HEADS, V_DIM)))[0]
    found = prefix_attend(
        positive[0], key, value, rate=rate, initial=initial, mask=jnp.asarray(mask)
    )[0]
    assert_close(found, expected)


def test_where_nothing_was_seen_yet_the_output_is_zero():
    query, key, value, _, _, _ = arguments(0, (3, 2, 2))
    mask = jnp.array([[False, False], [True, False], [True, True]])
    out, final = prefix_attend(query, key, value, mask=mask)
    assert np.all(out[0] == 0)
    assert np.all(out[1] == np.broadcast_to(value[1, 0], out[1].shape))
    assert np.all(np.isfinite(final.lse))
    _, nothing = prefix_attend(query, key[:1], value[:1], mask=mask[:1])
    assert np.all(np.isneginf(nothing.lse))


def test_half_precision_keeps_a_float32_state():
    args = arguments(0, (2 * TILE + 5, 3, 2))
    half = [x.astype(jnp.bfloat16) for x in args[:3]]
    out, final = prefix_attend(*half, rate=args[3], initial=args[4])
    assert out.dtype == jnp.bfloat16
    assert final.lse.dtype == final.value.dtype == jnp.float32
    expected, _ = prefix_oracle(*half, *args[3:])
    assert relative_error(out, expected) <= TOLERANCE["bfloat16"]


def test_a_change_of_a_later_token_leaves_earlier_outputs_to_the_bit():
    query, key, value, rate, initial, _ = arguments(0, (2 * TILE + 5, 3, 2))
    run = jax.jit(
        lambda k, v: prefix_attend(query, k, v, rate=rate, initial=initial)[0]
    )
    before = run(key, value)
    for step in (1, TILE, TILE + 7, 2 * TILE + 4):
        after = run(key.at[step, 1].add(3.0), value.at[step, 1].add(-2.0))
        assert np.array_equal(before[:step], after[:step])
        assert not np.array_equal(before[step], after[step])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_steps_or_no_tokens_are_refused(shape):
    key = jnp.zeros((*shape, HEADS, HEAD_DIM))
    with pytest.raises(ValueError, match="`key` must hold at least one step"):
        prefix_attend(jnp.zeros((1, HEADS, HEAD_DIM)), key, key)
