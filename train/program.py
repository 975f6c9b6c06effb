"""What a run computes: its model, its optimizer, and a step of both, compiled."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from perceiver_eqx import ByteLM
from perceiver_eqx.mesh import make_mesh

from .config import OptimConfig, TrainConfig
from .loss import Loss, batch_bits
from .optim import adamw, muon
from .sharding import Layout, refusal_in_time, sees_all
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
    config: TrainConfig, state: TrainState, layout: Layout | None = None
) -> jax.stages.Wrapped:
    """`train_step`, to be compiled at its first call for each shape of batch, with the
    memory of the old state given to the new one.

    Args:
        state: a state of the run, or its shapes.
        layout: over devices; `None` for one.

    Returns:
        a `jax.jit` of the arrays of a state, a batch and a key, to the arrays of the
        next state and the metrics.
    """
    arrays, static = eqx.partition(state, is_array)

    def step(
        arrays: TrainState, batch: dict[str, Array], key: PRNGKeyArray
    ) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = train_step(
            eqx.combine(arrays, static),
            batch,
            key,
            loss_fn=_loss(config, layout),
            optim=_optimizer(config),
            micro_batches=config.micro_batches,
            spike_factor=config.optim.spike_factor,
        )
        return eqx.filter(state, eqx.is_array), metrics

    if layout is None:
        return jax.jit(step, donate_argnums=0)
    lie = layout.shardings(layout.specs(arrays)), layout.whole
    return jax.jit(step, donate_argnums=0, out_shardings=lie)


def compile_bits(config: TrainConfig, layout: Layout | None = None) -> Callable:
    """The bits and bytes of a batch, without dropout: what calls a `jax.jit`, of a
    model that lies as the layout says and of a batch that does not."""
    bits = eqx.filter_jit(
        lambda model, batch: _loss(config, layout)(model, batch, None)
    )
    if layout is None:
        return bits
    return lambda model, batch: bits(model, layout.put_batch(batch))


def batch_like(
    config: TrainConfig, layout: Layout | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """The largest batch that a run of this config takes, dealt out as a layout says."""
    rows, data = config.batch_size, config.data
    shapes: dict[str, tuple] = {"bytes": ((rows, data.window_bytes), jnp.uint8)}
    if layout is not None:
        run, runs = layout.runs_of(data.window_bytes)
        shapes["bytes"] = (rows, layout.in_time, runs * run), jnp.uint8
    shapes["length"] = (rows,), jnp.int32
    if config.model.use_context:
        shapes["context"] = (rows, data.context_bytes), jnp.uint8
        if layout is not None and layout.in_time > 1:
            run, runs = layout.runs_of_context(data.context_bytes)
            shapes["context"] = (rows, layout.in_time, runs, run), jnp.uint8
        shapes["context_length"] = (rows,), jnp.int32
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def layout_of(config: TrainConfig) -> Layout | None:
    """How a run lies on the devices that there are; `None` on one.

    Raises:
        ValueError: `mesh` asks for what there is not, or what the batches do not allow.
    """
    mesh = make_mesh(config.mesh or mesh_for(config))
    return Layout.of(mesh, config) if mesh.size > 1 else None


def mesh_for(config: TrainConfig, devices: int | None = None) -> str:
    """A mesh for a config that names none: along `data` as many devices as its
    sequences allow, and the rest along `time`.

    There they stay idle, as long as every process has one, where the layers do not
    allow it, and where latents see all steps in float32, for which no fused kernel goes
    round.

    Args:
        devices: how many; `None` for those there are, and of those that a CPU passes
            for one for each process.
    """
    alone = jax.process_count() == 1
    if devices is None:
        simulated = alone and jax.default_backend() == "cpu"
        devices = 1 if simulated else len(jax.devices())
    data = math.gcd(config.batch_size // config.micro_batches, devices)
    slow = sees_all(config) and config.model.dtype == "float32"
    idle = alone and (slow or refusal_in_time(config) is not None)
    return f"data={data},time={1 if idle else devices // data}"


def _loss(config: TrainConfig, layout: Layout | None) -> Loss:
    if layout is not None:
        return layout.loss
    return partial(batch_bits, chunk_steps=config.chunk_steps)


def is_array(x: Any) -> bool:
    """Whether a leaf of a state, or of its shapes, is an array."""
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    schedule = schedule_of(config.optim, config.steps)
    return optimizer_of(config.optim, schedule, config.model.dtype)
