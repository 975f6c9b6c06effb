"""What a run computes: its model, its optimizer, and a step of both, compiled."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from perceiver_eqx import ByteLM

from .config import OptimConfig, TrainConfig
from .distributed import AXIS, of_own_rows, split, with_own_arrays
from .loss import batch_bits
from .optim import adamw, muon
from .step import TrainState, init_train_state, train_step


def schedule_of(optim: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step of so many."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optim.learning_rate,
        warmup_steps=optim.warmup_steps,
        decay_steps=steps,
        end_value=optim.learning_rate * optim.final_share,
    )


def optimizer_of(
    optim: OptimConfig, schedule: optax.Schedule, dtype: str
) -> optax.GradientTransformation:
    """The optimizer of a run, for a model that computes in `dtype`."""
    options = {
        "b1": optim.b1,
        "b2": optim.b2,
        "weight_decay": optim.weight_decay,
        "clip_norm": optim.clip_norm,
    }
    if optim.name == "adamw":
        return adamw(schedule, **options)
    return muon(schedule, **options, dtype=dtype)


def new_state(config: TrainConfig, key: PRNGKeyArray) -> TrainState:
    """The state before the first step, its parameters drawn by the key."""
    return init_train_state(ByteLM(**vars(config.model), key=key), _optimizer(config))


def compile_step(
    config: TrainConfig, static: TrainState, mesh: Mesh | None = None
) -> Callable:
    """`train_step`, to be compiled at its first call for each shape of batch, with the
    memory of the old state given to the new one.

    Args:
        static: a state without its arrays.
        mesh: over which the rows of a batch are split; `None` for one device.

    Returns:
        a `jax.jit` (over a mesh, what calls one) of the arrays of a state, a batch
        and a key, to the arrays of the next state and the metrics.
    """

    loss_fn = partial(batch_bits, chunk_steps=config.chunk_steps)

    def step(
        arrays: TrainState, batch: dict[str, Array], key: PRNGKeyArray
    ) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = train_step(
            eqx.combine(arrays, static),
            batch,
            key,
            loss_fn=loss_fn if mesh is None else of_own_rows(loss_fn),
            optim=_optimizer(config),
            micro_batches=config.micro_batches,
            spike_factor=config.optim.spike_factor,
            sum_over=None if mesh is None else AXIS,
        )
        return eqx.filter(state, eqx.is_array), metrics

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    return with_own_arrays(split(step, mesh), mesh)


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    schedule = schedule_of(config.optim, config.steps)
    return optimizer_of(config.optim, schedule, config.model.dtype)
