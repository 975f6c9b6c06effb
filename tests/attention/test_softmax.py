import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from perceiver_eqx import SoftmaxAverage, empty_average, merge
from tests.helpers import assert_close, normals, softmax_oracle
from tests.strategies import seeds


def averages_of(seed: int, sizes: tuple[int, ...], spread: float = 3.0):
    """The averages over disjoint sets of keys, and the average over all of them."""
    scores = spread * normals(seed, 2, 4, sum(sizes), dtype=np.float64)
    value = normals(seed + 1, 2, sum(sizes), 5, dtype=np.float64)
    borders = np.cumsum((0, *sizes))
    parts = [(scores[..., a:b], value[:, a:b]) for a, b in itertools.pairwise(borders)]
    return [as_average(*part) for part in parts], as_average(scores, value)


def as_average(scores, value) -> SoftmaxAverage:
    out, lse, _, _ = softmax_oracle(scores, value, np.zeros((2, 4, 5)))
    return SoftmaxAverage(jnp.asarray(lse, jnp.float32), jnp.asarray(out, jnp.float32))


def assert_same_average(actual: SoftmaxAverage, expected: SoftmaxAverage):
    assert_close((actual.lse, actual.value), (expected.lse, expected.value))


@pytest.mark.parametrize("score", [0.0, 1e4])
def test_ten_thousand_merges_lose_nothing_to_rounding(score):
    """Each of the keys has the same score, so that the mean of the values is plain."""
    values = 1 + normals(0, 10_000, 1, 1)

    def add(average, value):
        return merge(average, SoftmaxAverage(jnp.array([score]), value)), None

    average, _ = jax.lax.scan(add, empty_average((1,), 1), jnp.asarray(values))
    count = np.float64(10_000)
    assert_close(average.value, values.astype(np.float64).mean(0))
    lse = np.asarray(average.top, np.float64) + np.asarray(average.rest, np.float64)
    assert np.allclose(lse, score + np.log(count), rtol=0, atol=1e-5)


@given(seeds)
def test_merge_is_the_average_over_the_union(seed):
    (a, b), union = averages_of(seed, (3, 4))
    assert_same_average(merge(a, b), union)


@given(seeds)
def test_merge_is_commutative_to_the_bit(seed):
    (a, b), _ = averages_of(seed, (3, 4))
    for one, other in zip(
        jax.tree.leaves(merge(a, b)), jax.tree.leaves(merge(b, a)), strict=True
    ):
        assert np.array_equal(one, other)


@given(seeds)
def test_merge_is_associative(seed):
    (a, b, c), union = averages_of(seed, (3, 1, 4))
    for merged in (merge(merge(a, b), c), merge(a, merge(b, c))):
        assert_same_average(merged, union)


def test_the_empty_average_is_the_identity_of_merge():
    (a,), _ = averages_of(0, (3,))
    nothing = empty_average((2, 4), 5)
    for same in (merge(a, nothing), merge(nothing, a)):
        assert_same_average(same, a)
    both = merge(nothing, nothing)
    assert np.all(np.isneginf(both.lse))
    assert np.all(both.value == 0)


def test_merge_weighs_two_keys_as_computed_by_hand():
    one = SoftmaxAverage(jnp.log(jnp.array([1.0])), jnp.array([[10.0]]))
    three = SoftmaxAverage(jnp.log(jnp.array([3.0])), jnp.array([[20.0]]))
    both = merge(one, three)
    assert np.allclose(both.value, 17.5)
    assert np.allclose(both.lse, np.log(4.0))


def test_gradients_of_merge_are_finite_with_empty_rows():
    (a,), _ = averages_of(0, (3,))
    nothing = empty_average((2, 4), 5)

    def total(pair):
        merged = merge(*pair)
        finite = jnp.where(jnp.isneginf(merged.lse), 0.0, merged.lse)
        return merged.value.sum() + finite.sum()

    for pair in ((a, nothing), (nothing, a), (nothing, nothing)):
        for gradient in jax.tree.leaves(jax.grad(total)(pair)):
            assert np.all(np.isfinite(gradient))
