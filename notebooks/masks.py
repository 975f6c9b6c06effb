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
# # Masks: what an output may see, and what it does see
#
# A causal Perceiver replicates its latents over the steps and masks them twice: where
# they attend the input, and where they attend each other. The first half of this
# notebook draws those masks. The second half trusts no mask: it measures by gradient
# what the outputs depend on, and draws that over what they are allowed.

# %%
import einops
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import perceiver_eqx as pqx
from perceiver_eqx.plot import (
    attention_weights,
    dependence,
    plot_dependence,
    plot_mask,
    plot_reach,
    plot_weights,
    reached,
)


# Tiny shapes that run once: compiling them is nearly all of the time. (Not for work.)
jax.config.update("jax_disable_most_optimizations", True)

T, C, TOKENS = 6, 2, 3  # steps; latents and input tokens of each
WINDOWS = [None, 3, 1]


def panels(count, width=3.6, height=3.8):
    figure = plt.figure(figsize=(width * count, height), layout="constrained")
    return figure.subplots(1, count)


# %% [markdown]
# ## The seed's mask
#
# The recipe writes the latent mask as a triangle over steps, repeated for each pair of
# latents. `StepMask` decides the same pairs one by one, and is written out only here.
#
# **Claim:** the two are equal.

# %%
seed_mask = einops.rearrange(
    jnp.tril(jnp.ones((C, C, T, T))), "c e t1 t2 -> (t1 c) (t2 e)"
).astype(bool)
mask = pqx.StepMask(T, T, C, C)

left, right = panels(2)
plot_mask(seed_mask, ax=left, title="the seed's expression")
plot_mask(mask, ax=right, title="StepMask(T, T, C, C)")
assert np.array_equal(mask.dense(), seed_mask)

# %% [markdown]
# The latents of a step (small numbers) see each other whichever comes first: the order
# is one of steps (large numbers).
#
# ## Windows
#
# `window` bounds how many steps back a row sees, its own included. `None` is the seed's
# mask, 1 is the seed's code, in which latents see their own step only.
#
# **Claim:** a row of step `t` sees `min(t + 1, window)` steps of `C` latents.

# %%
for ax, window in zip(panels(3), WINDOWS, strict=True):
    mask = pqx.StepMask(T, T, C, C, window)
    seen = mask.dense().sum(1)
    steps_seen = np.minimum(np.arange(T) + 1, window or T)
    assert np.array_equal(seen, np.repeat(C * steps_seen, C))
    plot_mask(mask, ax=ax, title=f"window={window}")

# %% [markdown]
# Hatched is the past that a window leaves out; to the left stands a context, which all
# see.


# %%
def draw(steps=6, latents=2, window=3, context=2):
    """A window of 0 stands for all steps."""
    mask = pqx.StepMask(steps, steps, latents, latents, window or None)
    title = f"window={window or None}"
    plot_mask(mask, context=context, ax=panels(1, 5.4, 5.0), title=title)
    plt.show()


draw()

# %% [markdown]
# Draw your own: in a notebook that runs, with ipywidgets, a picture follows sliders.

# %%
try:
    from ipywidgets import IntSlider, interact
except ImportError:
    print("pip install ipywidgets")
else:
    interact(
        draw,
        steps=IntSlider(6, 1, 12, continuous_update=False),
        latents=IntSlider(2, 1, 4, continuous_update=False),
        window=IntSlider(3, 0, 12, continuous_update=False),
        context=IntSlider(2, 0, 6, continuous_update=False),
    )

# %% [markdown]
# ## Into the latents: the input cross-attention
#
# Rows are the latents, columns the input tokens. This mask has no window, whatever
# `latent_window` is: a latent sees the tokens of all steps up to its own.
#
# **Claim:** all latents of a step have the same row, so one running average per latent
# can stand for the whole mask.

# %%
mask = pqx.StepMask(T, T, C, TOKENS)
plot_mask(mask, key_name="token", ax=panels(1, 5.4), title="StepMask(T, T, C, TOKENS)")
by_step = mask.dense().reshape(T, C, T * TOKENS)
assert np.all(by_step == by_step[:, :1])

# %% [markdown]
# ## What is seen, measured
#
# Three small models that differ in their window, and one of them has a context. Every
# parameter is noise: as built, biases are zero, and a path that starts closed would
# look like one that is not there. `dependence` takes the gradient of each output step
# by each input step and by each token of the context; a darker cell is a larger one.

# %%
INPUT_DIM, CONTEXT_DIM, SOURCE, LAYERS, WIDTH = 5, 4, 4, 2, 8


def noisy_model(window, context_dim=None):
    """Built in shape only, then every parameter drawn anew."""
    shapes = eqx.filter_eval_shape(
        lambda: pqx.CausalPerceiver(
            INPUT_DIM,
            3,
            tokens_per_step=TOKENS,
            outputs_per_step=2,
            num_latents=C,
            latent_dim=WIDTH,
            num_layers=LAYERS,
            num_heads=2,
            latent_window=window,
            context_dim=context_dim,
            key=jr.key(0),
        )
    )
    noise = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.5 * noise.standard_normal(x.shape), x.dtype), shapes
    )


inputs = jr.normal(jr.key(2), (T, TOKENS, INPUT_DIM))
context = jr.normal(jr.key(3), (SOURCE, CONTEXT_DIM))
models = {None: noisy_model(None), 3: noisy_model(3, CONTEXT_DIM), 1: noisy_model(1)}
by_inputs = {window: dependence(models[window], inputs)[0] for window in (None, 1)}
by_inputs[3], by_context = dependence(models[3], inputs, context)

# %% [markdown]
# **Claim:** above the diagonal the dependence is exactly zero, not merely small; on it
# and below it is above zero, for every `latent_window`. The window narrows the paths
# between latents; the input cross-attention still brings every past input to every
# step.

# %%
allowed = np.tril(np.ones((T, T), bool))
axes = panels(3)
for ax, window in zip(axes, WINDOWS, strict=True):
    by_input = by_inputs[window]
    assert np.all(by_input[~allowed] == 0)
    assert np.all(by_input[allowed] > 0)
    title = f"latent_window={window}"
    plot_dependence(by_input, allowed, ax=ax, title=title, legend=ax is axes[1])

# %% [markdown]
# ## The context
#
# The tokens of the context belong to no step.
#
# **Claim:** every output step depends on every one of them.

# %%
assert by_context.shape == (T, SOURCE)
assert np.all(by_context > 0)
_ = plot_dependence(
    by_context,
    np.ones((T, SOURCE), bool),
    column_name="context token",
    legend=False,
    ax=panels(1, 4.0),
    title="latent_window=3",
)

# %% [markdown]
# ## What the window does
#
# Past the encoder, latents see other steps through self-attention alone, and there the
# window shows.
#
# **Claim:** `L` layers of a window of `W` steps reach exactly `L (W - 1)` steps back,
# and those without a window everything before.


# %%
def processor_of(model):
    caches = model.processor.empty_caches(C, jnp.float32, 0)
    start = jnp.zeros((), jnp.int32)
    return lambda latents, context: model.processor(latents, caches, start)[0]


latents = jr.normal(jr.key(4), (T, C, WIDTH))
for ax, window in zip(panels(2), (None, 3), strict=True):
    reach = None if window is None else 1 + LAYERS * (window - 1)
    within = np.asarray(pqx.StepMask(T, T, 1, 1, reach).dense())
    by_latents, _ = dependence(processor_of(models[window]), latents)
    assert np.array_equal(by_latents > 0, within)
    plot_dependence(
        by_latents,
        within,
        column_name="step of the latents going in",
        legend=False,
        ax=ax,
        title=f"latent_window={window}",
    )

# %% [markdown]
# The same, told by the windows alone, for deeper models: how far the outputs of the
# last step reach, layer by layer. Windows may differ from layer to layer, in turn.
#
# **Claim:** every layer of a window `W` reaches `W - 1` steps further back.

# %%
for ax, windows in zip(panels(2, 6.4), [(3, 3, 3, 3), (2, 6, 2, 6)], strict=True):
    reach = reached(windows, 24).sum(1)
    further = -np.diff(reach)
    assert np.array_equal(further, [window - 1 for window in windows])
    plot_reach(windows, 24, ax=ax, title=f"windows {windows}: {reach[0]} steps")

# %% [markdown]
# ## Where attention goes
#
# A mask says what may be seen; weights say how much of it is. Here those of the model
# with a window of 3: a row of pictures for each layer, one for each head.
#
# **Claim:** each step's weights sum to 1, and lie within the window.

# %%
weights = attention_weights(models[3], inputs, context)
within = np.asarray(pqx.StepMask(T, T, 1, 1, 3).dense())
assert np.allclose(weights.sum(-1), 1)
assert np.all((np.asarray(weights) > 0) == within)
_ = plot_weights(weights)

# %% [markdown]
# ## What a leak looks like
#
# This model is wrong on purpose: it reads its inputs one step early.
#
# **Claim:** the measurement finds the leak, at exactly the step after each output, and
# that no output sees the first input any more.


# %%
def reads_early(inputs, _):
    early = jnp.concatenate([inputs[1:], jnp.zeros_like(inputs[:1])])
    return models[1](early)


by_input, _ = dependence(reads_early, inputs)
plot_dependence(by_input, allowed, ax=panels(1, 5.0, 5.0), title="reads one step early")
leaks = ~allowed & np.asarray(by_input > 0)
dead = allowed & np.asarray(by_input == 0)
assert np.array_equal(leaks, np.eye(T, k=1, dtype=bool))
assert np.array_equal(np.argwhere(dead), [(step, 0) for step in range(T)])
