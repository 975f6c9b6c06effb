import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import TOKENS, byte_lm
from train.guard import MEAN_STEPS, Guard
from train.loss import batch_bits
from train.optim import adamw, muon
from train.step import init_train_state, train_step


WINDOW = 2 * TOKENS
NORMS = st.one_of(
    st.floats(0, 1e6), st.sampled_from([math.nan, math.inf, -math.inf, 3e38])
)


def reference(steps, factor):
    """The same in Python: what is taken, and the counts and the mean after it."""
    taken, skipped, row, mean, found = 0, 0, 0, 0.0, []
    for loss, norm in steps:
        takes = math.isfinite(loss) and math.isfinite(norm)
        if factor is not None and taken >= MEAN_STEPS:
            takes = takes and norm <= factor * mean
        if takes:
            mean += (norm - mean) / min(taken + 1, MEAN_STEPS)
            taken, row = taken + 1, 0
        else:
            skipped, row = skipped + 1, row + 1
        found.append((takes, taken, skipped, row, mean))
    return found


@given(
    st.lists(st.tuples(NORMS, NORMS), min_size=1, max_size=12),
    st.sampled_from([None, 2.0]),
    st.booleans(),
)
def test_steps_are_taken_and_counted_as_said(steps, factor, late):
    guard, before = Guard.new(), []
    if late:
        before = [(1.0, 10.0)] * MEAN_STEPS
        counts = (jnp.int32(n) for n in (MEAN_STEPS, 0, 0))
        guard = Guard(*counts, jnp.float32(10))
    for (loss, norm), expected in zip(
        steps, reference([*before, *steps], factor)[len(before) :], strict=True
    ):
        takes, guard = guard.judge(jnp.float32(loss), jnp.float32(norm), factor)
        counts = int(guard.taken), int(guard.skipped), int(guard.in_a_row)
        assert (bool(takes), *counts) == expected[:-1]
        np.testing.assert_allclose(guard.mean_norm, expected[-1], rtol=1e-4, atol=1e-4)


@jax.custom_vjp
def with_slope(value, factor):
    """The value, and its gradient times a factor."""
    return value


with_slope.defvjp(
    lambda value, factor: (value, factor),
    lambda factor, slope: (slope * factor, jnp.zeros_like(factor)),
)


def poisoned_bits(model, batch, key):
    """The loss, or what the batch asks for in its place."""
    bits, count = batch_bits(model, batch, key, chunk_steps=4)
    kind = batch["kind"][0]
    bits = with_slope(bits, jnp.where(kind == 3, jnp.inf, 1))
    return bits * jnp.array([1, jnp.nan, jnp.inf, 1])[kind], count


def batch_of(seed: int, kind: int) -> dict:
    data = jr.randint(jr.key(seed), (2, WINDOW), 0, 256)
    length = jnp.full(2, WINDOW)
    return {"bytes": data, "length": length, "kind": jnp.full(2, kind)}


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_what_is_not_finite_never_reaches_parameters_or_what_is_kept(optimizer):
    options = {"b1": 0.9, "b2": 0.98, "weight_decay": 0.1, "clip_norm": 1.0}
    optim = optimizer(lambda count: 0.01 * (count + 1), **options)

    @eqx.filter_jit
    def step(state, batch):
        return train_step(state, batch, jr.key(0), loss_fn=poisoned_bits, optim=optim)

    begun = init_train_state(byte_lm(3, num_layers=1), optim)
    state, clean = begun, begun
    # From the very first step on, alone and in a row.
    for seed, kind in enumerate((1, 0, 2, 3, 0, 3, 0)):
        before = state
        state, metrics = step(state, batch_of(seed, kind))
        if kind == 0:
            clean, _ = step(clean, batch_of(seed, kind))
        kept = [(s.model, s.opt_state) for s in (state, clean, before)]
        now, unpoisoned, earlier = (
            [
                np.asarray(x).tobytes()
                for x in jax.tree.leaves(eqx.filter(k, eqx.is_array))
            ]
            for k in kept
        )
        assert now == unpoisoned
        assert (now == earlier) == (kind > 0)
        if kind == 3:
            assert np.isfinite(metrics["bits_per_byte"])
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (4, 0)
    assert (int(state.step), int(state.guard.taken)) == (7, 3)
