"""Bounds on memory, by the compiler's own analysis at full size: nothing is run."""

import pytest

from tests.benchmarks.memory import prefix_attend_bytes, train_step_bytes


def test_prefix_attend_grows_linearly_up_to_a_million_tokens():
    small, large = prefix_attend_bytes(2**17), prefix_attend_bytes(2**20)
    assert large < 8.2 * small
    # Keys, values, their gradients and the outputs, each a copy or two; the dense
    # scores alone would take 2**47 bytes.
    assert large < 2**20 * 64 * 4 * 8


@pytest.mark.slow
def test_a_finite_window_trains_any_length_in_constant_memory():
    short, long = train_step_bytes(2**16), train_step_bytes(2**20)
    assert abs(long / short - 1) < 0.1


@pytest.mark.slow
def test_a_context_is_held_once_whatever_the_length_of_what_asks_it():
    """And is read in pieces: what more of both needs is the keys and values
    of the context."""
    short = train_step_bytes(2**14, context_bytes=2**17)
    long = train_step_bytes(2**16, context_bytes=2**18)
    assert abs(long / short - 1) < 0.1
