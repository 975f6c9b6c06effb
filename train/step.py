"""One optimizer step, as a pure function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from perceiver_eqx import ByteLM

from .loss import Loss


class TrainState(eqx.Module):
    """All that a run carries from step to step."""

    model: ByteLM
    opt_state: PyTree
    step: Int[Array, ""]


def init_train_state(model: ByteLM, optim: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    return TrainState(model, opt_state, jnp.zeros((), jnp.int32))


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    key: PRNGKeyArray,
    *,
    loss_fn: Loss,
    optim: optax.GradientTransformation,
    micro_batches: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one optimizer step.

    Args:
        state: before the step.
        batch: arrays that share a leading axis, a multiple of `micro_batches`.
        key: for dropout.
        loss_fn: `(model, batch, key)` to the bits and the bytes of a batch, summed.
        micro_batches: parts of the batch whose gradients are added up one after the
            other; the step is the same, the memory that of one part.

    Returns:
        The state after the step, and metrics: `bits_per_byte` and `gradient_norm`
        before it, and `num_bytes`.
    """

    def add_part(sums, of_part):
        part, key = of_part

        def bits(model):
            return loss_fn(model, part, key)

        (value, num_bytes), gradient = eqx.filter_value_and_grad(bits, has_aux=True)(
            state.model
        )
        return jax.tree.map(jnp.add, sums, (value, num_bytes, gradient)), None

    parts = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
    params = eqx.filter(state.model, eqx.is_inexact_array)
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = jnp.zeros(()), jnp.zeros((), jnp.int32), zeros
    (total, num_bytes, gradient), _ = lax.scan(
        add_part, start, (parts, jr.split(key, micro_batches))
    )
    gradient = jax.tree.map(lambda g: g / num_bytes, gradient)
    with jax.named_scope("train.update"):
        updates, opt_state = optim.update(gradient, state.opt_state, params)
    metrics = {
        "bits_per_byte": total / num_bytes,
        "gradient_norm": optax.tree.norm(gradient),
        "num_bytes": num_bytes,
    }
    model = eqx.apply_updates(state.model, updates)
    return TrainState(model, opt_state, state.step + 1), metrics
