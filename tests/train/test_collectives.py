"""What devices send each other, read from the compiled program."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import train.sharding as sharding
from perceiver_eqx.mesh import make_mesh
from tests.train.test_sharding import config_of, layout
from train.collectives import Collective, collectives
from train.program import batch_like, new_state


def exchanges(config, sizes: str) -> tuple[list[Collective], eqx.Module]:
    """Those of a loss and its gradient, and the model."""
    over = layout(sizes, config)
    model = new_state(config, jr.key(0)).model
    like = batch_like(config, over)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    batch = over.put(batch, over.batch_specs(batch))

    @eqx.filter_jit
    def gradient(model, batch):
        return eqx.filter_grad(lambda model: over.loss(model, batch, None)[0])(model)

    lowered = gradient.lower(over.put_state(model), batch)
    return collectives(lowered.compile().compiled, over.mesh), model


@pytest.fixture(autouse=True)
def _small_parameters_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_SHARDED", 32)


@pytest.mark.reliability
def test_what_goes_along_time_does_not_grow_with_the_sequence():
    """The encoder's is an average per latent and head of each device; that of a layer
    is a window of keys and values."""
    config = config_of(3)
    data = dataclasses.replace(config.data, window_bytes=4 * config.data.window_bytes)
    short, model = exchanges(config, "time=4")
    long, _ = exchanges(dataclasses.replace(config, data=data), "time=4")
    along = [
        {(x.kind, x.name, x.result_bytes) for x in found if x.axes == ("time",)}
        for found in (short, long)
    ]
    assert along[0] == along[1]
    rows, encoder = config.batch_size, model.perceiver.encoder
    latents, width = encoder.latents.shape
    average = 4 * rows * (latents * width + 2 * latents * encoder.cross.heads.num_heads)
    of_encoder = [x for x in short if "prefix_over" in x.name and "gather" in x.kind]
    assert sum(x.result_bytes for x in of_encoder) <= 2 * 4 * average
    # What the windows reach before the own step and byte; and features of a step.
    keys = 4 * rows * (config.model.latent_window - 1) * latents * width
    before = max(config.model.local_window - 1, config.model.bytes_per_step)
    most = max(keys, 4 * rows * before * width)
    for x in short:
        if x.kind == "collective-permute":
            assert 0 < x.result_bytes <= most, x
        elif x.axes == ("time",) and "prefix_over" not in x.name:
            # The gradient, once.
            assert x.kind == "all-reduce"
            assert x.times == 1


@pytest.mark.reliability
def test_no_more_than_a_matrix_is_whole_on_a_device():
    found, model = exchanges(config_of((3, 5)), "model=4")
    largest = max(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    gathered = [x for x in found if x.kind == "all-gather"]
    assert len(gathered) > 30
    assert all(x.axes == ("model",) for x in gathered)
    assert 4 * largest == max(x.result_bytes for x in gathered)
    # Those of a stack of layers come one by one, in each of its chunks.
    stacked = [x for x in gathered if "pqx.processor" in x.name and "advance" in x.name]
    matrix = model.perceiver.processor.blocks.mlp.up.weight
    assert max(x.result_bytes for x in stacked) == 4 * matrix.size // matrix.shape[0]
    assert {x.times for x in stacked} == {6}
    assert any(x.kind == "reduce-scatter" for x in found)


def test_exchanges_are_counted_as_often_as_they_run():
    mesh = make_mesh("data=2,time=4", jax.devices())

    def of_device(x):
        def body(x, _):
            ring = [(i, (i + 1) % 4) for i in range(4)]
            return lax.psum(x, "time") + lax.ppermute(x, "time", ring), None

        x, _ = lax.scan(body, x, None, length=5)
        return lax.all_gather(x, ("data", "time")).sum()

    program = jax.shard_map(
        of_device, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
    )
    compiled = jax.jit(program).lower(jnp.ones((2, 16))).compile()
    found = {x.kind: x for x in collectives(compiled, mesh)}
    total = found["all-reduce"]
    assert (total.axes, total.group, total.times) == (("time",), 4, 5)
    assert (total.result_bytes, total.sent_bytes, total.reach) == (64, 96, 4)
    sent = found["collective-permute"]
    assert (sent.axes, sent.group, sent.times) == (("time",), 4, 5)
    assert (sent.result_bytes, sent.sent_bytes, sent.reach) == (64, 64, 4)
    gathered = found["all-gather"]
    assert (gathered.axes, gathered.times) == (("data", "time"), 1)
    assert (gathered.result_bytes, gathered.sent_bytes) == (8 * 64, 7 * 64)
