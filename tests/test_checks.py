import jax.numpy as jnp
import pytest

from perceiver_eqx.checks import (
    check_multiples,
    check_probabilities,
    check_shape,
    check_sizes,
)


ARRAY = jnp.zeros((2, 3))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_sizes(steps=0), "`steps` must be at least 1, got 0"),
        (lambda: check_probabilities(rate=1.0), r"`rate` must lie in \[0, 1\), got 1"),
        (
            lambda: check_probabilities(rate=float("nan")),
            r"`rate` must lie in \[0, 1\), got nan",
        ),
        (
            lambda: check_multiples("`num_heads`", 4, dim=6),
            r"`dim` must be a multiple of 4 \(`num_heads`\), got 6",
        ),
        (
            lambda: check_shape("key", ARRAY, "steps heads", heads=4),
            r"`key` must have shape \(steps, heads=4\), got \(2, 3\)",
        ),
        (
            lambda: check_shape("key", ARRAY, "steps heads dim"),
            r"`key` must have shape \(steps, heads, dim\), got \(2, 3\).* jax.vmap",
        ),
    ],
)
def test_a_bad_value_is_refused_with_name_rule_and_value(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_a_probability_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="rate|probabilities"):
        check_probabilities(rate="0.1")


@pytest.mark.parametrize("size", [True, 2.0])
def test_a_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(TypeError, match="steps|sizes"):
        check_sizes(steps=size)


def test_good_values_pass():
    check_sizes(steps=1)
    check_probabilities(rate=0.0)
    check_multiples("`num_heads`", 4, dim=8)
    check_shape("key", ARRAY, "steps heads", heads=3, dim=5)
