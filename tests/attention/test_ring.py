"""Attention over devices that lie in a ring is attention. What needs several GPUs is
run there: `pytest tests/attention/test_ring.py`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from perceiver_eqx import StepMask, TimeAxis, make_mesh
from perceiver_eqx.attention.ring import ring_ask, ring_attend
from perceiver_eqx.attention.softmax import ATTENDED
from tests.attention.test_parts import DenseKernel
from tests.helpers import assert_close, attention_oracle, normals, relative_error


RUN, ROWS, HEADS, HEAD_DIM = 3, 2, 2, 8
GPUS = len(jax.devices()) if jax.default_backend() == "gpu" else 0


def over_devices(devices, runs, kernel=None):
    """Forward and backward of arrays whose steps are in their own order."""
    count = len(devices)

    def dealt(x):
        by_run = jnp.asarray(x).reshape(runs, count, -1, *x.shape[1:])
        return by_run.swapaxes(0, 1)

    def of_device(*arrays):
        flat = [x.reshape(-1, *x.shape[3:]) for x in arrays]
        time = TimeAxis(("time",), runs)
        out, vjp = jax.vjp(lambda *x: ring_attend(*x, time, kernel), *flat[:3])
        shape = arrays[0].shape[:3]
        return tuple(x.reshape(*shape, *x.shape[1:]) for x in (out, *vjp(flat[3])))

    program = jax.shard_map(
        of_device,
        mesh=make_mesh({"time": count}, devices),
        in_specs=P("time"),
        out_specs=P("time"),
        check_vma=False,
    )

    @jax.jit
    def run(*arrays):
        found = program(*map(dealt, arrays))
        return [x.swapaxes(0, 1).reshape(-1, *x.shape[4:]) for x in found]

    return run


def asked(devices, counts, kernel=None):
    """Forward and backward of what all rows see of the first tokens of each device."""

    def of_device(query, key, value, d_out, count):
        def ask(*x):
            return ring_ask(*x, count[0], TimeAxis(("time",)), kernel)

        out, vjp = jax.vjp(ask, query, key, value)
        return out, *vjp(d_out)

    program = jax.shard_map(
        of_device,
        mesh=make_mesh({"time": len(devices)}, devices),
        in_specs=P("time"),
        out_specs=P("time"),
        check_vma=False,
    )
    return lambda *arrays: jax.jit(program)(*arrays, jnp.array(counts))


def expected_of(arrays):
    """The oracle's, of arrays (steps, rows, heads, channels)."""
    steps, rows = arrays[0].shape[:2]
    flat = [np.asarray(x, np.float64).reshape(-1, *x.shape[2:]) for x in arrays]
    mask = np.asarray(StepMask(steps, steps, rows, rows).dense())
    return attention_oracle(*flat[:3], mask, flat[3])


@pytest.mark.parametrize("kernel", [None, DenseKernel()], ids=["tiles", "kernel"])
@pytest.mark.parametrize(("count", "runs"), [(1, 2), (2, 1), (2, 7), (3, 2), (4, 2)])
def test_it_is_causal_attention_forward_and_backward(count, runs, kernel):
    steps = count * runs * RUN
    arrays = [normals(seed, steps, ROWS, HEADS, HEAD_DIM) for seed in range(4)]
    found = over_devices(jax.devices("cpu")[:count], runs, kernel)(*arrays)
    assert_close(found, list(expected_of(arrays)))


@pytest.mark.parametrize("kernel", [None, DenseKernel()], ids=["tiles", "kernel"])
@pytest.mark.parametrize("counts", [(4, 4, 2), (0, 4, 0), (0, 0, 0)])
def test_all_see_the_tokens_that_are_there(counts, kernel):
    count, room = len(counts), 4
    query, d_out = (normals(seed, 5 * count, HEADS, HEAD_DIM) for seed in range(2))
    key, value = (normals(seed, room * count, HEADS, HEAD_DIM) for seed in (2, 3))

    found = asked(jax.devices("cpu")[:count], counts, kernel)(query, key, value, d_out)
    there = np.concatenate([np.arange(room) < some for some in counts])
    allowed = np.broadcast_to(there, (len(query), len(key)))
    assert_close(found, attention_oracle(query, key, value, allowed, d_out))


@pytest.mark.parametrize("kernel", [None, DenseKernel()], ids=["tiles", "kernel"])
def test_a_layer_that_is_computed_again_goes_round_no_more_often(kernel):
    def rounds(wrap):
        def loss(*arrays):
            out = ring_attend(*arrays, TimeAxis(("time",)), kernel)
            return jnp.sum(out**2)

        program = jax.shard_map(
            jax.grad(wrap(loss), (0, 1, 2)),
            mesh=make_mesh({"time": 2}, jax.devices("cpu")[:2]),
            in_specs=P("time"),
            out_specs=P("time"),
            check_vma=False,
        )
        arrays = [normals(seed, 4, ROWS, HEADS, HEAD_DIM) for seed in range(3)]
        return str(jax.make_jaxpr(program)(*arrays)).count("ppermute")

    kept = jax.checkpoint_policies.save_only_these_names(ATTENDED)
    assert rounds(partial(jax.checkpoint, policy=kept)) == rounds(lambda call: call)


@pytest.mark.skipif(GPUS < 2, reason="needs several NVIDIA GPUs")
@pytest.mark.parametrize("first", [0, 1, 37, 64])
def test_by_cudnn_all_see_the_tokens_that_are_there(first):
    rows, room, counts = 33, 64, (first, *[50] * (GPUS - 1))
    shapes = [(rows * GPUS, 2, 64)] * 2 + [(room * GPUS, 2, 64)] * 2
    query, d_out, key, value = (
        jnp.asarray(normals(seed, *shape), "bfloat16")
        for seed, shape in enumerate(shapes)
    )
    found = asked(jax.devices(), counts)(query, key, value, d_out)
    there = np.concatenate([np.arange(room) < some for some in counts])
    allowed = np.broadcast_to(there, (len(query), len(key)))
    expected = attention_oracle(query, key, value, allowed, d_out)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) <= 4e-3


@pytest.mark.skipif(GPUS < 2, reason="needs several NVIDIA GPUs")
@pytest.mark.parametrize(("runs", "rows"), [(1, 1), (5, 1), (3, 2)])
def test_by_cudnn_it_equals_the_oracle_forward_and_backward(runs, rows):
    steps = GPUS * runs * 100
    arrays = [
        jnp.asarray(normals(seed, steps, rows, 2, 64), "bfloat16") for seed in range(4)
    ]
    run = over_devices(jax.devices(), runs)
    assert "cudnn" in run.lower(*arrays).as_text()
    for found, expected in zip(run(*arrays), expected_of(arrays), strict=True):
        assert relative_error(found, expected) <= 4e-3
