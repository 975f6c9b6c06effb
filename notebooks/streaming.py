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
# # Streaming and compression
#
# A model is one function of time: `advance(state, tokens)` takes any number of steps
# and gives their logits and the state after them. Training, scoring and generating are
# that same function, cut differently. With finite windows the state has a constant
# size, and it is a PyTree.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import perceiver_eqx as pqx
from train.compress import HEADER, compress, decompress


# Tiny shapes that run once: compiling them is nearly all of the time. (Not for work.)
jax.config.update("jax_disable_most_optimizations", True)

shapes = eqx.filter_eval_shape(
    lambda key: pqx.ByteLM(
        bytes_per_step=4,
        num_latents=1,
        latent_dim=16,
        num_layers=2,
        num_heads=2,
        latent_window=4,
        local_window=8,
        output_layers=1,
        key=key,
    ),
    jr.key(0),
)
# Every parameter is noise, so that every path matters: as built, some begin closed.
noise = np.random.default_rng(0)
model = jax.tree.map(
    lambda x: jnp.asarray(noise.standard_normal(x.shape), x.dtype), shapes
)
text = b"what is said in many pieces is said all the same; " * 4
tokens = jnp.frombuffer(text, jnp.uint8).reshape(-1, 4)
run = eqx.filter_jit(model)
logits = run(tokens)
assert logits.std(0).mean() > 0.05  # from byte to byte: far more than is let pass below

# %% [markdown]
# ## Nothing of what comes later
#
# **Claim:** a changed byte moves the logits that follow, and leaves its own and those
# before as they were, to the bit. (A check like this works for any model of bytes; one
# by gradient, for numbers, is in the notebook on masks.)

# %%
for place in (0, 13, 14, 15, 16, len(text) - 1):
    changed = tokens.reshape(-1).at[place].add(1).reshape(tokens.shape)
    moved = np.any(run(changed) != logits, -1).ravel()
    assert not moved[: place + 1].any()
    assert moved[place + 1 : place + 9].all()

# %% [markdown]
# ## Any cut
#
# **Claim:** however a sequence is cut into pieces, the logits are the same.

# %%
advance = eqx.filter_jit(model.advance)
for piece in (1, 10, 20):
    state, found = model.init_state(), []
    for start in range(0, len(tokens), piece):
        state, some = advance(state, tokens[start : start + piece])
        found.append(some)
    assert np.allclose(jnp.concatenate(found), logits, atol=1e-4)

# %% [markdown]
# **Claim:** bytes may come one by one, from and to anywhere in a step.

# %%
advance_bytes = eqx.filter_jit(model.advance_bytes)
state, found, at = model.init_state(), [], 0
for size in (1, 3, 1, 1, 3, 3, 1):
    piece = jnp.frombuffer(text[at : at + size], jnp.uint8)
    state, some = advance_bytes(state, piece)
    found.append(some)
    at += size
assert np.allclose(jnp.concatenate(found), logits.reshape(-1, 256)[:at], atol=1e-4)

# %% [markdown]
# ## The state
#
# **Claim:** it does not grow, however much was read.


# %%
def numbers(state):
    return sum(x.size for x in jax.tree.leaves(state) if eqx.is_array(x))


sizes, state = [], model.init_state()
for start in range(0, 40, 10):
    state, _ = advance(state, tokens[start : start + 10])
    sizes.append(numbers(state))
assert set(sizes) == {numbers(model.init_state())}
print(f"{sizes[0]:,} numbers, after {40 * model.bytes_per_step} bytes as before")

# %% [markdown]
# **Claim:** a state can be kept, and gone on from as often as you like: two endings of
# one beginning, of which the beginning was read once.

# %%
begun, _ = advance(model.init_state(), tokens[:10])
for ending in (tokens[10:20], tokens[30:40]):
    _, once = advance(begun, ending)
    _, whole = advance(model.init_state(), jnp.concatenate([tokens[:10], ending]))
    assert np.allclose(once, whole[10:], atol=1e-4)

# %% [markdown]
# ## Generating is streaming
#
# `stream` gives bytes as soon as they are known.

# %%
pieces = list(pqx.stream(model, text[:32], 12, key=jr.key(1)))
whole = pqx.generate(model, text[:32], 12, key=jr.key(1))
assert b"".join(map(bytes, pieces)) == bytes(whole)
print(pieces)

# %% [markdown]
# ## Compression
#
# A byte that the model expects with probability `p` can be stored in `-log2 p` bits. To
# read it back, the model must expect it as much without having seen it. So a file comes
# back whole, in as many bits as `log_prob` says, which goes through all bytes at once,
# only if no byte leaks into its own probability.
#
# **Claim:** it comes back; and takes what the model says, but for a header and a word.

# %%
data = text[:60]
packed = compress(model, data)
assert decompress(model, packed) == data
bits = -float(pqx.log_prob(model, data)) / np.log(2)
stored = 8 * (len(packed) - HEADER.size)
assert bits - 1 <= stored <= bits + 48
print(f"{8 * len(data)} bits of text, {bits:.0f} by the model, {stored} stored")

# %% [markdown]
# This model is noise, so nothing is saved, on the contrary; the point is that nothing
# leaks. What each byte costs:

# %%
log_probs = jax.nn.log_softmax(logits.reshape(-1, 256))
cost = -log_probs[jnp.arange(len(text)), tokens.ravel().astype(int)] / np.log(2)
assert np.isclose(cost[:60].sum(), bits, rtol=1e-3)
plt.figure(figsize=(9, 2.6), layout="constrained")
plt.bar(np.arange(60), cost[:60], color="#08306b")
plt.xticks(np.arange(60), text[:60].decode().replace(" ", "·"), family="monospace")
_ = plt.ylabel("bits")
