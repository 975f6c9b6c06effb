import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.dropout import dropouts


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.5, 0.9])
def test_dropouts_leave_out_what_they_say_one_apart_from_the_other(rate):
    shape = (400, 500)
    ones = jnp.ones(shape)
    first, second = (
        np.asarray(drop(ones)) for drop in dropouts(rate, shape, jax.random.key(0))
    )
    for kept in (first, second):
        assert np.allclose(np.unique(kept), [0, 1 / (1 - rate)], rtol=1e-4)
    # Five standard deviations of a mean of as many draws.
    for share, expected in (
        ((first == 0).mean(), rate),
        ((second == 0).mean(), rate),
        (((first == 0) & (second == 0)).mean(), rate**2),
    ):
        spread = np.sqrt(expected * (1 - expected) / first.size)
        assert abs(share - expected) < 5 * spread


@pytest.mark.parametrize(
    ("rate", "key"), [(0.0, jax.random.key(0)), (0.5, None), (1e-9, jax.random.key(0))]
)
def test_without_a_key_or_a_rate_nothing_is_left_out(rate, key):
    x = jnp.arange(6.0)
    for drop in dropouts(rate, x.shape, key):
        assert drop(x) is x
