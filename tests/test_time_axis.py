"""Steps that lie over devices see the past and nothing else, as on one device."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

from perceiver_eqx import TimeAxis, make_mesh
from perceiver_eqx.time_axis import last_of
from tests.helpers import assert_close
from tests.models import TOKENS, byte_lm


# Runs of two steps, dealt out to four devices twice.
CHUNKS, DEVICES, RUN = 2, 4, 2
STEPS = CHUNKS * DEVICES * RUN
BYTES = np.random.default_rng(0).integers(0, 256, STEPS * TOKENS)


@cache
def over_devices():
    """From bytes to logits, chunk by chunk, with a window as long as a run reaches."""
    model = byte_lm(RUN + 1)

    def of_device(tokens):
        def take(state, tokens):
            time = TimeAxis(("time",))
            return model.advance_unchecked(state, tokens, time=time)

        return lax.scan(take, model.init_state(), tokens[:, 0])[1][:, None]

    everywhere = P(None, "time")
    mesh = make_mesh({"time": DEVICES}, jax.devices()[:DEVICES])
    program = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        check_vma=False,
    )

    @jax.jit
    def logits(data):
        return program(data.reshape(CHUNKS, DEVICES, RUN, TOKENS)).reshape(-1, 256)

    return logits


def test_logits_over_devices_are_those_of_one():
    expected = eqx.filter_jit(byte_lm(RUN + 1))(BYTES.reshape(STEPS, TOKENS))
    assert_close(over_devices()(BYTES), expected.reshape(-1, 256))


@given(at=st.integers(0, BYTES.size - 1), byte=st.integers(0, 255))
def test_over_devices_no_logit_depends_on_its_byte_or_on_later_ones(at, byte):
    changed = BYTES.copy()
    changed[at] = byte
    before, after = (over_devices()(data)[: at + 1] for data in (BYTES, changed))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("at", [0, RUN * TOKENS - 1, DEVICES * RUN * TOKENS - 1])
def test_over_devices_the_next_logits_depend_on_a_byte(at):
    """On the same device, on the next one, and on the first one in the next chunk."""
    changed = BYTES.copy()
    changed[at] ^= 1
    before, after = (over_devices()(data) for data in (BYTES, changed))
    assert jnp.abs(after - before).max(1)[at + 1] > 1e-6


def test_steps_stand_where_they_are_dealt():
    def of_device(x):
        return TimeAxis(("time",), runs=2).places(len(x))

    mesh = make_mesh({"time": 4}, jax.devices()[:4])
    options = {"mesh": mesh, "in_specs": P("time"), "out_specs": P("time")}
    places = jax.jit(jax.shard_map(of_device, **options))(jnp.zeros(24))
    by_device = np.asarray(places).reshape(4, 6)
    assert by_device[0].tolist() == [0, 1, 2, 12, 13, 14]
    assert by_device[3].tolist() == [9, 10, 11, 21, 22, 23]


def test_what_does_not_fit_the_runs_is_told():
    with pytest.raises(ValueError, match="a multiple of its `runs` = 2, got 5"):
        TimeAxis(("time",), runs=2).run_of(5)
    with pytest.raises(ValueError, match="at least 4 rows in a run, .* got 3: take"):
        last_of(jnp.zeros(3), 4)
