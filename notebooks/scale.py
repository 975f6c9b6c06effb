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

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

import perceiver_eqx as pqx
from train.collectives import collectives
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.loss import batch_bits
from train.plan_mesh import compile_over
from train.program import compile_step, new_state
from train.sharding import Layout


# Before any array is made.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tiny shapes that run once: compiling them is nearly all of the time. (Not for work.)
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
# **Claim:** a step of training over `time=4` has the loss, and the norm of the
# gradient, of one device. (The tests of the project compare every gradient.)

# %%
config = TrainConfig(
    model=ModelConfig(
        bytes_per_step=4,
        num_latents=1,
        latent_dim=16,
        num_layers=1,
        num_heads=2,
        latent_window=3,
        input_layers=0,
        output_layers=0,
        ngrams=(),
    ),
    data=DataConfig(window_bytes=64, validation_bytes=None),
    optim=OptimConfig(name="adamw", warmup_steps=1),
    batch_size=2,
    chunk_steps=16,
    steps=5,
)
rng = np.random.default_rng(0)
batch = {
    "bytes": rng.integers(97, 123, (2, 64), dtype=np.uint8),
    "length": np.full(2, 64, np.int32),
}


layout = Layout.of(mesh, config)
state = new_state(config, jr.key(0))


@eqx.filter_jit
@eqx.filter_value_and_grad
def loss(model):
    bits, num_bytes = batch_bits(model, batch, None, chunk_steps=config.chunk_steps)
    return bits / num_bytes


alone, slopes = loss(state.model)
norm = optax.global_norm(slopes)

step, state = compile_step(config, state, layout), layout.put_state(state)
arrays, rows = eqx.filter(state, eqx.is_array), layout.put_batch(batch)
step, found = step.lower(arrays, rows, jr.key(1)).compile(), []
for _ in range(5):
    arrays, metrics = step(arrays, rows, jr.key(1))
    found.append([float(metrics[n]) for n in ("bits_per_byte", "gradient_norm")])
losses, norms = np.array(found).T
print(f"on one device {alone:.5f} bits, a gradient of norm {norm:.5f}")
print(f"over four     {losses[0]:.5f} bits, a gradient of norm {norms[0]:.5f}")
print("five steps over four:", *losses.round(4))
assert np.allclose([alone, norm], [losses[0], norms[0]], rtol=1e-5)
assert losses[-1] < losses[0]

# %% [markdown]
# ## What they tell each other
#
# Read from the compiled program. Along `time`, the encoder's latents share one average
# each, and layers the part of the past that their window reaches: neither grows with
# the sequence. (There are more of them, one round for each run of steps.)
#
# **Claim:** twice the bytes, and the messages are of the same kinds and sizes.


# %%
def messages(compiled):
    return {(x.kind, x.result_bytes) for x in collectives(compiled, mesh)}


longer = replace(config, data=replace(config.data, window_bytes=128))
short = messages(step)
long = messages(compile_over(longer, Layout.of(mesh, longer)))
for kind, size in sorted(short):
    print(f"{kind}: {size:,} bytes")
assert long == short
