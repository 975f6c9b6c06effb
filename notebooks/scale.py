# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Scale: a sequence over many devices, played by one processor
#
# Where one device is not enough, steps are dealt out to several: each has a run of them
# and tells the others what they need. A processor can pass for eight devices, so this
# can be tried, and read, anywhere. (On real GPUs: `python -m train train CONFIG --mesh
# time=8`.)

# %%
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import PartitionSpec as P

import perceiver_eqx as pqx
from train.collectives import collectives
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.plan_mesh import compile_over
from train.program import compile_step, new_state
from train.sharding import Layout


# Before any array is made.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tiny shapes that run once: compiling them is nearly all of the time.
jax.config.update("jax_disable_most_optimizations", True)
assert len(jax.devices()) == 8

# %% [markdown]
# ## Dealt out like cards
#
# The first device has the first run of steps, the next one that after it; after the
# last the first has the next. So each has early and late steps, and as much to do.

# %%
RUN, RUNS, DEVICES = 2, 3, 4


def own_places(_):
    return pqx.TimeAxis(("time",), runs=RUNS).places(RUN * RUNS)


mesh = pqx.make_mesh({"time": DEVICES}, jax.devices()[:DEVICES])
over = {"mesh": mesh, "in_specs": P("time"), "out_specs": P("time")}
places = jax.jit(jax.shard_map(own_places, **over))(jnp.zeros(DEVICES))
places = np.asarray(places).reshape(DEVICES, -1)
owner = np.empty(places.size, int)
for device, held in enumerate(places):
    owner[held] = device
plt.figure(figsize=(8, 1.4), layout="constrained")
plt.imshow(owner[None], cmap="cividis", aspect="auto")
for step, device in enumerate(owner):
    colour = "white" if device < DEVICES / 2 else "black"
    plt.text(step, 0, device, ha="center", va="center", color=colour)
plt.xlabel("step")
plt.yticks([])
plt.title("which device has it")
assert np.array_equal(owner, np.arange(owner.size) // RUN % DEVICES)

# %% [markdown]
# ## The same numbers
#
# **Claim:** steps of training over `data=2, time=2` have the losses and the norms of
# gradients of one device. (The tests of the project compare every gradient.)

# %%
config = TrainConfig(
    model=ModelConfig(
        bytes_per_step=4,
        num_latents=1,
        latent_dim=16,
        num_layers=1,
        num_heads=2,
        latent_window=3,
        local_window=4,
        local_conv=0,
        output_layers=1,
        ngrams=(),
    ),
    data=DataConfig(window_bytes=64, validation_bytes=None),
    optim=OptimConfig(name="adamw", warmup_steps=1),
    batch_size=2,
    chunk_steps=4,
    steps=5,
)
rng = np.random.default_rng(0)
batch = {
    "bytes": rng.integers(97, 123, (2, 64), dtype=np.uint8),
    "length": np.full(2, 64, np.int32),
}


def layout_of(sizes):
    return Layout.of(pqx.make_mesh(sizes), config)


def programs(sizes):
    """A compiled step, and what to call it with."""
    state = new_state(config, jr.key(0))
    layout = layout_of(sizes) if sizes else None
    step, put = compile_step(config, state, layout), partial(jax.tree.map, jnp.asarray)
    if layout is not None:
        state, put = layout.put_state(state), layout.put_batch
    given = eqx.filter(state, eqx.is_array), put(batch), jr.key(1)
    return step.lower(*given).compile(), given


def measured(sizes):
    step, (arrays, batch, key) = programs(sizes)
    found = []
    for _ in range(5):
        arrays, metrics = step(arrays, batch, key)
        found.append([float(metrics[n]) for n in ("bits_per_byte", "gradient_norm")])
    return np.array(found)


alone, shared = measured(""), measured("data=2,time=2")
print("losses on one device", *alone[:, 0].round(4))
print("over 2 x 2          ", *shared[:, 0].round(4))
assert np.allclose(alone, shared, rtol=1e-5)
assert alone[-1, 0] < alone[0, 0]

# %% [markdown]
# ## What they tell each other
#
# Read from the compiled program. Along `time`, the encoder's latents share one average
# each, and layers the part of the past that their window reaches: neither grows with
# the sequence. (There are more of them, one round for each run of steps.)
#
# **Claim:** four times the bytes, and the messages are of the same kinds and sizes.


# %%
def messages(window_bytes):
    data = DataConfig(window_bytes=window_bytes, validation_bytes=None)
    changed = replace(config, data=data)
    layout = Layout.of(pqx.make_mesh("time=4", jax.devices()[:4]), changed)
    found = collectives(compile_over(changed, layout), layout.mesh)
    return {(x.kind, x.result_bytes) for x in found}


short, long = messages(64), messages(256)
for kind, size in sorted(short):
    print(f"{kind}: {size:,} bytes")
assert long == short
