"""Rotary positions: right, at whatever distance from the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.positions import ROTARY_PERIOD, fourier_features, rotary
from tests import oracle
from tests.helpers import assert_close, normals


# Any, near the first, at the end of what float32 counts, and of what a state does.
STARTS = [0, 1_000, 2**24 + 1, 10**9, 3 * 2**29 - 16]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rotary_is_a_turn_of_pairs_of_channels(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, positions = normals(0, 300, 2, 64, dtype=dtype), np.arange(300)
        found = rotary(jnp.asarray(x), jnp.asarray(positions))
        assert_close(np.asarray(found), oracle.rotary(x, positions), dtype)


@pytest.mark.parametrize("start", STARTS)
def test_dot_products_depend_on_distance_alone(start):
    query, key = (jnp.asarray(normals(seed, 16, 1, 64)) for seed in (0, 1))

    def scores(start):
        positions = start + jnp.arange(16)
        return jnp.einsum(
            "qhd,khd->hqk", rotary(query, positions), rotary(key, positions)
        )

    assert_close(scores(start), scores(0))


def test_a_period_later_a_turn_is_the_same_to_the_bit():
    x, positions = jnp.asarray(normals(0, 9, 1, 64)), jnp.arange(9) * 1_234_567
    found = rotary(x, positions + ROTARY_PERIOD)
    assert np.array_equal(found, rotary(x, positions))
    halfway = rotary(x, positions + ROTARY_PERIOD // 2)
    assert not np.array_equal(halfway, rotary(x, positions))


def test_of_some_channels_the_others_stay_as_they_are():
    x, positions = jnp.asarray(normals(0, 9, 2, 16)), jnp.arange(9)
    assert np.array_equal(rotary(x, positions, dims=16), rotary(x, positions))
    assert np.array_equal(rotary(x, positions, dims=0), x)
    some = rotary(x, positions, dims=6)
    assert np.array_equal(some[..., 6:], x[..., 6:])
    assert_close(some[..., :6], rotary(x[..., :6], positions))
    for dims in (3, 18, -2):
        with pytest.raises(ValueError, match=f"got {dims} of 16 channels"):
            rotary(x, positions, dims=dims)


def test_fourier_features_are_their_formula():
    places = normals(1, 7, 2)
    found = fourier_features(jnp.asarray(places), 3, (8, 20))
    columns = [*places.T]
    for wave in (np.sin, np.cos):
        for axis, nyquist in enumerate((4, 10)):
            for frequency in np.linspace(1, nyquist, 3):
                columns.append(wave(np.pi * frequency * places[:, axis]))
    assert_close(found, np.stack(columns, 1).astype(np.float32))
    with pytest.raises(ValueError, match="one size per axis"):
        fourier_features(jnp.asarray(places), 3, (8,))
