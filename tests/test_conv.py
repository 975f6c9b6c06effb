import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_eqx.blocks import SelfAttentionBlock
from perceiver_eqx.conv import CausalConv
from tests.helpers import TOLERANCE, normals, relative_error
from tests.models import drawn
from tests.strategies import seeds


KERNEL, DIM = 4, 5


def conv_of(seed: int = 0) -> CausalConv:
    conv = CausalConv(KERNEL, DIM)
    taps = jnp.asarray(normals(seed, KERNEL, DIM))
    return jax.tree.map(lambda _: taps, conv)


def nothing(dtype="float32"):
    return jnp.zeros((0, 2, DIM), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_numpys_convolution_of_each_channel_added_to_the_row(dtype):
    conv, x = conv_of(), normals(1, 11, 2, DIM)
    found, _ = conv(jnp.asarray(x, dtype), nothing(dtype))
    expected = x.astype(np.float64)
    for row in range(2):
        for channel in range(DIM):
            taps = np.asarray(conv.taps[:, channel], np.float64)
            expected[:, row, channel] += np.convolve(x[:, row, channel], taps)[:11]
    assert found.dtype == dtype
    assert relative_error(found, expected) <= TOLERANCE[dtype]


def test_at_first_it_changes_nothing():
    x = jnp.asarray(normals(1, 6, 2, DIM))
    assert np.array_equal(CausalConv(KERNEL, DIM)(x, nothing())[0], x)


def test_a_change_of_a_step_leaves_the_rows_before_it_to_the_bit():
    conv, x = conv_of(), jnp.asarray(normals(1, 9, 2, DIM))
    before, _ = conv(x, nothing())
    after, _ = conv(x.at[4].add(1), nothing())
    changed = np.asarray(before != after).any((1, 2))
    assert np.array_equal(changed, [4 <= step < 4 + KERNEL for step in range(9)])


@given(seeds, st.lists(st.sampled_from((1, 2, 5)), min_size=1, max_size=4))
def test_however_the_steps_are_cut_the_rows_are_equal_to_the_bit(seed, lengths):
    conv, x = conv_of(seed), jnp.asarray(normals(seed + 1, sum(lengths), 2, DIM))
    whole, last = conv(x, jnp.zeros((KERNEL - 1, 2, DIM)))
    assert np.array_equal(whole, conv(x, nothing())[0])
    parts, before = [], jnp.zeros((KERNEL - 1, 2, DIM))
    for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        part, before = conv(x[start : start + length], before)
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(before, last)


def test_without_a_kernel_a_block_has_no_convolution():
    with_, without = (
        drawn(SelfAttentionBlock, dim=4, num_heads=1, conv_kernel=kernel)
        for kernel in (KERNEL, 0)
    )
    assert with_.conv is not None
    assert with_.conv.kernel == KERNEL
    assert without.conv is None
