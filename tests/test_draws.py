"""The first values of parameters are those of `jax.random`, compiled fewer times."""

import jax
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import draws


SHAPES = (), (0,), (7,), (33, 32), (3, 5, 7), (draws.ROOM,), (257, 300), (1000, 100)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_those_of_jax(shape, wide):
    with jax.enable_x64(wide):
        key = jr.key(3)
        expected = 0.25 * jr.normal(key, shape)
        found = draws.normal(key, shape, 0.25)
        assert found.shape == shape
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        expected = 0.25 * jr.truncated_normal(key, -2, 2, shape)
        np.testing.assert_array_equal(
            draws.truncated_normal(key, shape, 0.25), expected
        )


def test_numbers_are_those_of_jax_in_a_batch_and_in_a_program():
    keys = jr.split(jr.key(1), 3)
    expected = jax.vmap(lambda key: jr.normal(key, (4, 5)))(keys)
    found = jax.jit(jax.vmap(lambda key: draws.normal(key, (4, 5))))(keys)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("num", [1, 2, 5, draws.NUM_KEYS, 11])
@pytest.mark.parametrize("make", [jr.key, jr.PRNGKey])
def test_keys_are_those_of_jax(make, num):
    key = make(5)
    for found, expected in zip(
        draws.split_key(key, num), jr.split(key, num), strict=True
    ):
        np.testing.assert_array_equal(
            jr.uniform(found, (2,)), jr.uniform(expected, (2,))
        )


def test_without_a_key_there_are_none():
    assert draws.split_key(None, 3) == [None] * 3


def test_many_shapes_are_one_program():
    draws.normal(jr.key(0), (2, 3))
    before = draws._normal._cache_size()
    for size in range(1, 12):
        draws.normal(jr.key(0), (size, 3))
    assert draws._normal._cache_size() == before
