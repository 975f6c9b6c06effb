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
# # A first model, on your own text
#
# Everything that `python -m train` does is a function of the library and of `train`: so
# a model can be built, trained and asked in a few cells. Set `TEXT` to a file of yours;
# here it is a part of Python's own library, which every machine has. (`train` is
# installed with the library, as the README says: `pip install -e . --group train`.)

# %%
import argparse
import tempfile
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import perceiver_eqx as pqx
from perceiver_eqx import pretrained
from perceiver_eqx.plot import diagram, plot_bits, plot_rates
from train.loss import batch_bits
from train.step import init_train_state, train_step


TEXT = Path(argparse.__file__)
data = np.frombuffer(TEXT.read_bytes(), np.uint8)
held_out, data = data[-8192:], data[:-8192]
assert data.size >= 2 * 8192, "a text of at least 24 kB, please"
print(f"{len(data):,} bytes to train on, {len(held_out):,} held out")

# %% [markdown]
# ## Build
#
# Eight bytes make a step; two latents a step carry what is further back than the narrow
# layers over single bytes see.

# %%
model = pqx.ByteLM(
    bytes_per_step=8,
    num_latents=2,
    latent_dim=32,
    num_layers=1,
    num_heads=2,
    latent_window=32,
    local_window=16,
    output_layers=1,
    ngrams=(2, 3),
    ngram_rows=2048,
    key=jr.key(0),
)
_ = diagram(model, depth=2)

# %% [markdown]
# **Claim:** before training, each byte costs close to eight bits. (`pqx.log_prob` tells
# it of data of any length, or of a file.)


# %%
@eqx.filter_jit
def bits_of(model, rows):
    """What each byte costs, given those before it in its row."""
    logits = jax.vmap(model)(rows.reshape(len(rows), -1, 8))
    log_probs = jax.nn.log_softmax(logits.reshape(*rows.shape, 256))
    chosen = jnp.take_along_axis(log_probs, rows[..., None].astype(int), -1)
    return -chosen[..., 0] / np.log(2)


unseen = jnp.asarray(held_out.reshape(-1, 1024))
before = float(bits_of(model, unseen).mean())
print(f"{before:.3f} bits per byte")
assert 7.5 < before < 8.5

# %% [markdown]
# ## Train
#
# A batch is `bytes` (sequences, bytes) and how many of each count. The loss goes
# through a sequence in chunks of steps, of which it holds one at a time.

# %%
SEQUENCES, WINDOW, STEPS = 8, 256, 120
optim = optax.adamw(optax.cosine_decay_schedule(4e-3, STEPS))
step = eqx.filter_jit(
    partial(train_step, loss_fn=partial(batch_bits, chunk_steps=32), optim=optim)
)
state, rng, losses = init_train_state(model, optim), np.random.default_rng(0), []
for number in range(STEPS):
    starts = rng.integers(0, data.size - WINDOW, SEQUENCES)
    rows = np.stack([data[start : start + WINDOW] for start in starts])
    batch = {
        "bytes": jnp.asarray(rows),
        "length": jnp.full(SEQUENCES, WINDOW, jnp.int32),
    }
    state, metrics = step(state, batch, jr.key(number))
    losses.append(float(metrics["bits_per_byte"]))
model = state.model
plt.plot(losses)
plt.xlabel("step")
_ = plt.ylabel("bits per byte")

# %% [markdown]
# **Claim:** after these steps, bytes that were never seen cost less than half.

# %%
bits = np.asarray(bits_of(model, unseen))
after = bits.mean()
print(f"{after:.3f} bits per byte")
assert after < before / 2

# %% [markdown]
# ## Ask
#
# One byte is drawn after another, from a state of constant size.

# %%
drawn = pqx.generate(model, b"def ", 200, temperature=0.7, key=jr.key(1))
print(bytes(drawn).decode(errors="replace"))

# %% [markdown]
# ## Look into it
#
# Bytes far into a sequence cost less than the first ones, since more is known of what
# came before. To the right, how fast latents forget, which they learn.

# %%
by_place = bits.mean(0)
assert by_place[:16].mean() > by_place[512:].mean()

left, right = plt.figure(figsize=(9, 3.6), layout="constrained").subplots(1, 2)
plot_bits(by_place, bins=24, ax=left)
_ = plot_rates(model.perceiver, ax=right)

# %% [markdown]
# ## Keep it
#
# One file holds the sizes of the model and its numbers.

# %%
file = Path(tempfile.mkdtemp()) / "first.safetensors"
pretrained.save(file, model)
assert eqx.tree_equal(pretrained.load(file), model)

# %% [markdown]
# ## More than this
#
# `python -m train train laptop --data.path FILE --out FOLDER` does all of this at a
# useful size, saves as it goes and goes on where it stopped. From Python it is a call:
#
#     from dataclasses import replace
#     from train import configs, loop
#     from train.config import DataConfig
#
#     config = configs.load("laptop")
#     data = DataConfig(kind="pairs", path=Path("PAIRS.tsv"), context_bytes=64,
#                       window_bytes=64)
#     takes = replace(config.model, use_context=True)
#     model = loop.train(replace(config, model=takes, data=data, out=Path("FOLDER")))
#
# A batch of pairs, for `train_step` by hand, has besides `bytes` and `length` of the
# targets, each of which ends with a byte 0, `context` (pairs, bytes) and
# `context_length` (pairs,) of their sources: both are filled up with anything, and the
# lengths say how much counts.
