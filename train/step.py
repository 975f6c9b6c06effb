"""One optimizer step, as a pure function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from perceiver_eqx import ByteLM

from .guard import Guard, kept_unless
from .loss import Loss


class TrainState(eqx.Module):
    """All that a run carries from step to step."""

    model: ByteLM
    opt_state: PyTree
    step: Int[Array, ""]
    guard: Guard


def init_train_state(model: ByteLM, optim: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    return TrainState(model, opt_state, jnp.zeros((), jnp.int32), Guard.new())


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    key: PRNGKeyArray,
    *,
    loss_fn: Loss,
    optim: optax.GradientTransformation,
    micro_batches: int = 1,
    spike_factor: float | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one optimizer step, unless its loss or its gradient is not finite: then
    parameters and all that the optimizer keeps stay as they are.

    Args:
        state: before the step.
        batch: arrays that share a leading axis, a multiple of `micro_batches`.
        key: for dropout.
        loss_fn: `(model, batch, key)` to the bits and the bytes of a batch, summed.
        micro_batches: parts of the batch whose gradients are added up one after the
            other; the step is the same, the memory that of one part.
        spike_factor: as in `Guard.judge`.

    Returns:
        The state after the step, and metrics: `bits_per_byte` and `gradient_norm`
        before it, `num_bytes`, and how many steps were `skipped`, and of the last ones
        `skipped_in_a_row`.
    """

    def add_part(sums, of_part):
        part, key = of_part

        def bits(model):
            return loss_fn(model, part, key)

        (value, num_bytes), gradient = eqx.filter_value_and_grad(bits, has_aux=True)(
            state.model
        )
        return jax.tree.map(jnp.add, sums, (value, num_bytes, gradient)), None

    def parted(x: Array) -> Array:
        # Each part takes some rows of every device that has rows.
        return x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1)

    parts = jax.tree.map(parted, batch)
    params = eqx.filter(state.model, eqx.is_inexact_array)
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = jnp.zeros(()), jnp.zeros((), jnp.int32), zeros
    (total, num_bytes, gradient), _ = lax.scan(
        add_part, start, (parts, jr.split(key, micro_batches))
    )
    gradient = jax.tree.map(lambda g: g / num_bytes, gradient)
    norm = optax.tree.norm(gradient)
    takes, guard = state.guard.judge(total, norm, spike_factor)
    with jax.named_scope("train.update"):
        updates, opt_state = optim.update(gradient, state.opt_state, params)
        updated = eqx.apply_updates(params, updates)
        params = kept_unless(takes, updated, params)
        opt_state = kept_unless(takes, opt_state, state.opt_state)
    metrics = {
        "bits_per_byte": total / num_bytes,
        "gradient_norm": norm,
        "num_bytes": num_bytes,
        "skipped": guard.skipped,
        "skipped_in_a_row": guard.in_a_row,
    }
    static = eqx.filter(state.model, eqx.is_inexact_array, inverse=True)
    model = eqx.combine(params, static)
    return TrainState(model, opt_state, state.step + 1, guard), metrics
