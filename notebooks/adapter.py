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
# # Write your own adapter
#
# A model of streams takes and predicts anything that an adapter can turn into tokens,
# or that a distribution can be read from. An adapter is any object with the members of
# `StreamInput` or `StreamOutput`: no base class, no registration. Here a robot's two
# joints go round angles, which are neither numbers on a line nor symbols.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.scipy.special import i0e

import perceiver_eqx as pqx


# Tiny shapes: compiling them is most of the time. (Not for work.)
jax.config.update("jax_disable_most_optimizations", True)

JOINTS, STEPS = 2, 96

# %% [markdown]
# ## On the way in
#
# The tokens of a step, each by itself: `(steps, tokens_per_step, dim)`. An angle is
# seen by its sine and cosine, so that 359 degrees are beside 1.


# %%
class AngleInput(eqx.Module):
    tokens_per_step: int = eqx.field(static=True, default=JOINTS)
    dim: int = eqx.field(static=True, default=2)

    def __call__(self, angles):
        return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)


# %% [markdown]
# ## On the way out
#
# What is read at the places of a step, `(steps, outputs_per_step, dim)`, is made into a
# distribution; `log_prob` tells how likely a step is, in nats, and `sample` draws one.
# Here each joint has a von Mises distribution: a bell on a circle.


# %%
class AngleOutput(eqx.Module):
    outputs_per_step: int = eqx.field(static=True, default=JOINTS)
    dim: int = eqx.field(static=True, default=2)

    def __call__(self, readout):
        # A vector for each joint: where it points, and how surely.
        return {
            "angle": jnp.arctan2(readout[..., 0], readout[..., 1] + 1e-6),
            "sureness": jnp.sum(readout**2, -1) + 1e-3,
        }

    def log_prob(self, prediction, angles):
        sureness = prediction["sureness"]
        away = jnp.cos(angles - prediction["angle"]) - 1
        scale = jnp.log(2 * jnp.pi * i0e(sureness))
        return jnp.sum(sureness * away - scale, -1)

    def sample(self, prediction, key):
        # Of a fine circle, by its probabilities.
        circle = jnp.linspace(-jnp.pi, jnp.pi, 256, endpoint=False)
        away = jnp.cos(circle - prediction["angle"][..., None])
        drawn = jr.categorical(key, prediction["sureness"][..., None] * away)
        return circle[drawn]


assert isinstance(AngleInput(), pqx.StreamInput)
assert isinstance(AngleOutput(), pqx.StreamOutput)

# %% [markdown]
# **Claim:** the distribution is one: its probabilities sum to 1.

# %%
circle = np.linspace(-np.pi, np.pi, 1000, endpoint=False)
of_one = AngleOutput(1)
told = of_one(jr.normal(jr.key(0), (1, 1, 2)) * 2)
density = [float(of_one.log_prob(told, jnp.full((1, 1), x))[0]) for x in circle[::10]]
assert np.isclose(np.exp(density).mean() * 2 * np.pi, 1, atol=1e-4)

# %% [markdown]
# ## A model between them
#
# The joints turn at speeds that a knob sets. The knob is seen at once, the joints one
# step late, since they are predicted.


# %%
def record(seed):
    rng = np.random.default_rng(seed)
    knob = np.repeat(rng.integers(0, 3, STEPS // 8), 8)
    speed = np.array([0.1, 0.5, -0.3])[knob]
    first = np.cumsum(speed) + 0.05 * rng.standard_normal(STEPS)
    angles = np.stack([first, 2 * first], -1)
    wrapped = np.arctan2(np.sin(angles), np.cos(angles))
    return {
        "knob": jnp.asarray(knob[:, None]),
        "joints": jnp.asarray(wrapped, jnp.float32),
    }


model = pqx.StreamModel(
    inputs={"knob": pqx.SymbolInput(3, 8, key=jr.key(1)), "joints": AngleInput()},
    outputs={"joints": AngleOutput()},
    num_latents=2,
    latent_dim=32,
    num_layers=1,
    num_heads=2,
    latent_window=8,
    key=jr.key(2),
)
records = jax.tree.map(lambda *x: jnp.stack(x), *map(record, range(8)))
unseen = record(100)


@eqx.filter_jit
def score(model, streams):
    return model.log_prob(streams) / STEPS


@eqx.filter_value_and_grad
def loss(model):
    return -jnp.mean(jax.vmap(lambda streams: score(model, streams))(records))


@eqx.filter_jit
def step(model, state):
    value, slopes = loss(model)
    updates, state = optim.update(slopes, state)
    return eqx.apply_updates(model, updates), state, value


before = float(score(model, unseen))
optim = optax.adam(optax.cosine_decay_schedule(1e-2, 150))
state, losses = optim.init(eqx.filter(model, eqx.is_inexact_array)), []
for _ in range(150):
    model, state, value = step(model, state)
    losses.append(float(value))
after = float(score(model, unseen))
print(f"nats a step of a record that was not seen: {before:.2f}, then {after:.2f}")

# %% [markdown]
# **Claim:** it learned, and it is causal: what is predicted of a step depends on the
# knob up to that step, and on the joints before it.

# %%
assert after > before + 1.5


def predicted(streams):
    state = model.init_state()
    _, told = model.advance(state, streams)
    joints = told["joints"]
    return jnp.concatenate([joints["angle"], joints["sureness"]], -1)


predicted = eqx.filter_jit(predicted)
found = predicted(unseen)
for name, reach in {"knob": 40, "joints": 41}.items():
    changed = dict(unseen)
    other = (unseen[name][40] + 1) % 3 if name == "knob" else unseen[name][40] + 1
    changed[name] = unseen[name].at[40].set(other)
    moved = np.abs(predicted(changed) - found).max(1) > 0
    assert moved.argmax() == reach, (name, moved.argmax())

# %%
drawn = pqx.sample_steps(model, STEPS, {"knob": unseen["knob"]}, key=jr.key(3))
left, right = plt.figure(figsize=(9, 3.2), layout="constrained").subplots(1, 2)
left.plot(losses)
left.set_xlabel("step of training")
left.set_ylabel("nats a step")
right.plot(unseen["joints"][:, 0], ".", label="a record")
right.plot(drawn["joints"][:, 0], ".", label="drawn, of its knob alone")
right.set_xlabel("step")
right.set_ylabel("angle of the first joint")
right.set_ylim(-3.4, 4.6)  # room for what it says
_ = right.legend(loc="upper center", ncols=2)
