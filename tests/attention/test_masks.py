import einops
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_eqx import StepMask
from tests.strategies import step_masks


sizes = st.integers(1, 6)


@given(sizes, sizes)
def test_the_latent_mask_is_the_seeds_own_expression(timesteps, latent_count):
    expected = einops.rearrange(
        np.tril(np.ones((latent_count, latent_count, timesteps, timesteps))),
        "c e t1 t2 -> (t1 c) (t2 e)",
    )
    mask = StepMask(timesteps, timesteps, latent_count, latent_count).dense()
    assert np.array_equal(mask, expected)


@given(sizes, sizes, sizes, st.integers(1, 7))
def test_a_window_is_a_band_of_the_seeds_mask(steps, queries, tokens, window):
    square = np.tril(np.ones((queries, tokens, steps, steps)))
    band = square - np.tril(square, -window)
    expected = einops.rearrange(band, "c i t1 t2 -> (t1 c) (t2 i)")
    assert np.array_equal(
        StepMask(steps, steps, queries, tokens, window).dense(), expected
    )


def test_a_mask_of_two_latents_and_a_window_written_by_hand():
    expected = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]
    assert np.array_equal(StepMask(3, 3, 2, 2, 2).dense(), np.array(expected, bool))


@given(step_masks())
def test_offsets_cut_the_mask_of_the_whole_sequence(mask):
    steps, past = mask.key_steps, mask.query_start
    whole = StepMask(
        steps, steps, mask.queries_per_step, mask.keys_per_step, mask.window
    )
    expected = np.array(whole.dense())[past * mask.queries_per_step :]
    expected[:, : mask.key_start * mask.keys_per_step] = False
    assert np.array_equal(mask.dense(), expected)


@given(step_masks(), st.data())
def test_ranges_hold_all_that_is_allowed_and_little_more(mask, data):
    dense = np.array(mask.dense())
    for written_out, range_of in ((dense, mask.columns_of), (dense.T, mask.rows_of)):
        last = data.draw(st.integers(0, written_out.shape[0] - 1))
        first = data.draw(st.integers(0, last))
        start, stop = map(int, range_of(first, last))
        seen = np.flatnonzero(written_out[first : last + 1].any(0))
        if seen.size:
            assert start <= seen[0]
            assert seen[-1] < stop
        if written_out is dense and seen.size:
            assert (start, stop) == (seen[0], seen[-1] + 1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 1, 1, 1), "query_steps"),
        ((1, 0, 1, 1), "key_steps"),
        ((1, 1, 0, 1), "queries_per_step"),
        ((1, 1, 1, 0), "keys_per_step"),
        ((1, 1, 1, 1, 0), "window"),
    ],
)
def test_sizes_below_one_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
        StepMask(*arguments)
