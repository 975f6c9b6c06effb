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
# # Memory: what a mask costs, and what it need not
#
# The recipe's author wrote the mask between replicated latents out, and ran out of
# memory. Here nothing is run: the compiler tells how many bytes a program would take,
# so any size can be asked on any machine.

# %%
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt

import perceiver_eqx as pqx
from train.loss import batch_bits


# Nothing runs, so nothing need run fast. What programs hold stays the same.
jax.config.update("jax_disable_most_optimizations", True)

MIB = 2**20


def temporary_mib(function, *shapes):
    """What a compiled program takes besides what goes in and comes out."""
    compiled = jax.jit(function).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes / MIB


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def curve(name, sizes, found, marker="o"):
    plt.loglog(sizes, found, marker=marker, label=name)


def label(sizes, name):
    plt.xticks(sizes, [f"{size:,}" for size in sizes])
    plt.xticks([], minor=True)
    plt.xlabel(name)
    plt.ylabel("MiB")
    plt.legend()


# %% [markdown]
# ## From inputs to latents
#
# Two latents a step, eight tokens a step, forward and backward. Dense attention holds
# every score; the scan holds a tile of them.
#
# **Claim:** four times the steps take the dense mask more than ten times the memory,
# and the scan at most five times.

# %%
LATENTS, TOKENS, HEADS, DIM = 2, 8, 1, 16


def dense(query, key, value):
    steps = key.shape[0]
    flat = [x.reshape(-1, HEADS, DIM) for x in (key, value)]
    mask = pqx.StepMask(steps, steps, LATENTS, TOKENS)
    rows = jnp.tile(query, (steps, 1, 1))
    return jnp.sum(pqx.attend(rows, *flat, mask, engine="dense") ** 2)


def scan(query, key, value):
    return jnp.sum(pqx.prefix_attend(query, key, value)[0] ** 2)


STEPS = [64, 256, 1024]
tokens = [of(steps, TOKENS, HEADS, DIM) for steps in STEPS]
found = {
    name: [
        temporary_mib(jax.grad(function, (0, 1, 2)), of(LATENTS, HEADS, DIM), x, x)
        for x in tokens
    ]
    for name, function in {"dense": dense, "prefix_attend": scan}.items()
}
for name, taken in found.items():
    curve(name, STEPS, taken, "s" if name == "dense" else "o")
    print(f"{name:15}", *(f"{x:10.2f} MiB" for x in taken))
label(STEPS, "steps")
assert found["dense"][2] > 10 * found["dense"][1]
assert found["prefix_attend"][2] < 5 * found["prefix_attend"][1]

# %% [markdown]
# ## Between latents
#
# The same for self-attention of replicated latents, in tiles of scores.
#
# **Claim:** at 4,096 steps of two latents, the dense mask takes more than a gigabyte,
# and tiles take less than a fiftieth of that.


# %%
def between(engine, x):
    steps = x.shape[0] // LATENTS
    mask = pqx.StepMask(steps, steps, LATENTS, LATENTS)
    return jnp.sum(pqx.attend(x, x, x, mask, engine=engine) ** 2)


between_latents, BETWEEN = {}, [256, 1024, 4096]
for engine in ("dense", "blockwise"):
    between_latents[engine] = [
        temporary_mib(
            jax.grad(partial(between, engine)), of(steps * LATENTS, HEADS, DIM)
        )
        for steps in BETWEEN
    ]
    curve(engine, BETWEEN, between_latents[engine], "s" if engine == "dense" else "o")
    print(f"{engine:15}", *(f"{x:10.2f} MiB" for x in between_latents[engine]))
label(BETWEEN, "steps")
assert between_latents["dense"][2] > 1024
assert between_latents["blockwise"][2] < between_latents["dense"][2] / 50

# %% [markdown]
# ## The loss of a sequence, and its gradient
#
# With a finite window, training goes through a sequence chunk by chunk and computes
# each chunk again in the backward pass. What is kept between chunks is a state of
# constant size. (This model has no narrow layers over bytes, to compile faster.)
#
# **Claim:** sixteen times the bytes take less than twice the memory; the shorter
# sequence all at once, eight chunks of it, takes more than five times as much.

# %%
shapes = eqx.filter_eval_shape(
    lambda key: pqx.ByteLM(
        bytes_per_step=8,
        num_latents=1,
        latent_dim=32,
        num_layers=2,
        num_heads=2,
        latent_window=16,
        input_layers=0,
        output_layers=0,
        key=key,
    ),
    jr.key(0),
)
arrays, static = eqx.partition(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))


def step_mib(num_bytes, chunk_steps):
    def loss(arrays, batch):
        model = eqx.combine(arrays, static)
        return batch_bits(model, batch, None, chunk_steps=chunk_steps)[0]

    batch = {
        "bytes": of(1, num_bytes, dtype=jnp.uint8),
        "length": of(1, dtype=jnp.int32),
    }
    return temporary_mib(jax.grad(loss), arrays, batch)


SIZES = [2**14, 2**18]
chunked = [step_mib(size, 256) for size in SIZES]
whole = step_mib(SIZES[0], SIZES[0] // 8)
plt.figure()
curve("chunks of 256 steps", SIZES, chunked)
curve("all at once", SIZES[:1], [whole], "s")
plt.ylim(bottom=1)
label(SIZES, "bytes of the sequence")
print("in chunks  ", *(f"{x:8.1f} MiB" for x in chunked))
print(f"all at once {whole:8.1f} MiB")
assert chunked[1] < 2 * chunked[0]
assert whole > 5 * chunked[0]

# %% [markdown]
# So, besides parameters and what the optimizer keeps of them, the memory of a run is
# set by the model's width, `chunk_steps` (a chunk), `latent_window` (what is kept
# between chunks; `None` keeps all), and the batch. `python -m train plan` tells it for
# your machine before anything runs.
