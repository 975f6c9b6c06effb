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
# # One algebra: merge, scan, tiles and streams are the same thing
#
# A softmax over some keys gives a weighted mean of their values. Two such means, over
# different keys, make that over all of them, if each brings along how much weight it
# stands for. Everything in this library is that one operation, `merge`: causal
# attention of replicated latents, attention in tiles, a context, windows, devices that
# share a sequence, and a stream that never ends.

# %%
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jax import lax

import perceiver_eqx as pqx


# Tiny shapes that run once: compiling them is nearly all of the time. (Not for work.)
jax.config.update("jax_disable_most_optimizations", True)

DIM = 4
query = jr.normal(jr.key(0), (DIM,))
keys = jr.normal(jr.key(1), (12, DIM))
values = jr.normal(jr.key(2), (12, DIM))


def average(keys, values):
    """What one query finds in some keys: the mean of their values, and its weight."""
    scores = keys @ query / jnp.sqrt(DIM)
    weights = jax.nn.softmax(scores)
    return pqx.SoftmaxAverage(jax.nn.logsumexp(scores), weights @ values)


# %% [markdown]
# ## Merge
#
# **Claim:** the merge of the averages over two parts is the average over the whole, and
# it does not matter where the cut is.

# %%
whole = average(keys, values)
for cut in (1, 6, 11):
    merged = pqx.merge(
        average(keys[:cut], values[:cut]), average(keys[cut:], values[cut:])
    )
    assert np.allclose(merged.value, whole.value, atol=1e-6)
    assert np.allclose(merged.lse, whole.lse, atol=1e-6)
print(f"value {np.round(whole.value, 3)}, log of the weight {whole.lse:.3f}")

# %% [markdown]
# **Claim:** it is associative and commutative, and `empty_average` changes nothing. So
# parts may be merged in any order and grouping: one after the other, in a tree, or on
# other devices.

# %%
a, b, c = (average(keys[i : i + 4], values[i : i + 4]) for i in (0, 4, 8))
orders = [
    pqx.merge(pqx.merge(a, b), c),
    pqx.merge(a, pqx.merge(b, c)),
    pqx.merge(pqx.merge(c, a), b),
    pqx.merge(whole, pqx.empty_average((), DIM)),
]
for found in orders:
    assert np.allclose(found.value, whole.value, atol=1e-6)
    assert np.allclose(found.lse, whole.lse, atol=1e-6)

# %% [markdown]
# ## A prefix scan is causal attention
#
# Replicated latents ask the same query at every step. So what step `t` sees of the
# inputs is what step `t - 1` saw, merged with the tokens of step `t`.
#
# **Claim:** `prefix_attend`, which is that scan, equals attention under the mask, with
# the queries written out once for every step.

# %%
STEPS, TOKENS, LATENTS, HEADS = 16, 3, 2, 2
latents = jr.normal(jr.key(3), (LATENTS, HEADS, DIM))
tokens = jr.normal(jr.key(4), (2, STEPS, TOKENS, HEADS, DIM))

scanned, after = pqx.prefix_attend(latents, *tokens)
replicated = jnp.tile(latents, (STEPS, 1, 1))
mask = pqx.StepMask(STEPS, STEPS, LATENTS, TOKENS)
flat = tokens.reshape(2, STEPS * TOKENS, HEADS, DIM)
masked = pqx.attend(replicated, *flat, mask, engine="dense")
assert np.allclose(scanned.reshape(masked.shape), masked, atol=1e-5)

# %% [markdown]
# The mask has `(STEPS * LATENTS) x (STEPS * TOKENS)` cells; the scan carries one
# average for each latent and head.

# %%
carried = sum(x.size for x in jax.tree.leaves(after))
print(f"{mask.dense().size:,} cells of a mask, {carried} numbers carried")

# %% [markdown]
# ## A stream goes on where the scan ended
#
# **Claim:** cut anywhere, and carried on from `initial`, nothing changes.

# %%
for cut in (1, 7, 15):
    first, seen = pqx.prefix_attend(latents, *tokens[:, :cut])
    rest, end = pqx.prefix_attend(latents, *tokens[:, cut:], initial=seen)
    assert np.allclose(jnp.concatenate([first, rest]), scanned, atol=1e-5)
    assert np.allclose(end.value, after.value, atol=1e-5)
    assert np.allclose(end.lse, after.lse, atol=1e-5)

# %% [markdown]
# ## Attention in tiles
#
# The blockwise engine never holds more than a tile of scores: it merges the averages of
# tiles, which is what FlashAttention does with a running maximum and sum.
#
# **Claim:** written in two lines, that is the same; and so is the engine.

# %%
tiles = keys.reshape(4, 3, DIM), values.reshape(4, 3, DIM)
start = pqx.empty_average((), DIM)
flash, _ = lax.scan(
    lambda seen, tile: (pqx.merge(seen, average(*tile)), None), start, tiles
)
assert np.allclose(flash.value, whole.value, atol=1e-6)
tiled = pqx.attend(
    query[None, None], keys[:, None], values[:, None], engine="blockwise"
)
assert np.allclose(tiled[0, 0], whole.value, atol=1e-6)

# %% [markdown]
# ## Forgetting
#
# With `rate`, a token loses weight with every step of age; in the algebra that takes
# `rate` off the log-sum-exp between two merges.
#
# **Claim:** at a rate of `log 2 / n`, a token of `n` steps ago has half the weight of a
# like one now.

# %%
like = jnp.zeros((2, STEPS, 1, 1, DIM)).at[1, 0].set(1.0)
for half_life, marker in (1.0, "o"), (4.0, "s"), (16.0, "^"):
    rate = jnp.full((1, 1), jnp.log(2.0) / half_life)
    seen, _ = pqx.prefix_attend(latents[:1, :1], *like, rate=rate)
    share = np.asarray(seen[:, 0, 0, 0])
    weights = 0.5 ** (np.arange(STEPS) / half_life)
    assert np.allclose(share, weights / np.cumsum(weights), atol=1e-5)
    plt.plot(share, marker=marker, label=f"half-life {half_life:g} steps")
plt.xlabel("step")
plt.ylabel("weight of the first token")
_ = plt.legend()

# %% [markdown]
# ## Millions of merges
#
# A float32 log-sum-exp would drift over a long stream: adding a small weight to a large
# one rounds it away. So an average holds it as a sum of two floats, `top + rest`.
#
# **Claim:** after a million merges of like tokens, the log of the weight is within 1e-6
# of the truth, and one float alone would not be.

# %%
COUNT = 1_000_000
one = pqx.SoftmaxAverage(jnp.zeros(()), jnp.ones(1))


@jax.jit
def many(seen):
    return lax.fori_loop(0, COUNT, lambda _, seen: pqx.merge(seen, one), seen)


@jax.jit
def naive(lse):
    return lax.fori_loop(0, COUNT, lambda _, lse: jnp.logaddexp(lse, 0.0), lse)


found = many(pqx.empty_average((), 1))
exact = np.log(COUNT)
error = abs(float(found.top) + float(found.rest) - exact)
drifted = abs(float(naive(jnp.array(-jnp.inf))) - exact)
print(f"two floats are off by {error:.1e}, one float by {drifted:.1e}")
assert error < 1e-6 < drifted
