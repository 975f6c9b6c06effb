"""What a run would take, told without running it: parameters, operations, memory by the
compiler, the largest batch that fits, and time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .config import TrainConfig
from .flops import muon_flops, num_parameters, train_step_flops
from .memory import bytes_of, device_memory, is_out_of_memory
from .metrics import amount, duration
from .plan_mesh import MeshPlan, Work, compute_seconds, plan_mesh
from .program import (
    batch_like,
    compile_step,
    is_array,
    layout_of,
    mesh_for,
    new_state,
)


# Which share of a device's fastest products the products of training reach, and seconds
# that each chunk takes besides. Steps of `small` (0.0415 s) and `verses` (0.0256 s at
# half its length) on an H100 are told within a tenth by these (commit c5ae937), and one
# of a million bytes on an H200 (0.495 s); small models reach less.
REACHED = {"cpu": (0.3, 0.0), "gpu": (0.35, 0.01)}
# Rows and columns of the products by which that is measured.
CEILING_SIZE = {"cpu": 1024, "gpu": 8192}
MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        parameters: how many.
        step_flops: useful operations of an optimizer step.
        state_bytes: of parameters and what the optimizer keeps.
        step_bytes: of a whole step, the state included, by the compiler.
        device_bytes: what there is.
        largest_batch: that fits, a multiple of `micro_batches`; 0 for none.
        flops_per_second: of the fastest products of this device, measured.
        fewest_seconds: of all steps, if all were as fast as these.
        seconds: of all steps, about.
    """

    parameters: int
    step_flops: int
    state_bytes: int
    step_bytes: int
    device_bytes: int
    largest_batch: int
    flops_per_second: float
    fewest_seconds: float
    seconds: float


def plan(
    config: TrainConfig, *, report: Callable[[str], None] = print
) -> Plan | MeshPlan:
    """Compiles steps of a run for this machine, and runs none, of one process if there
    are several; or for a mesh, of devices that need not be there. No data is read.

    Args:
        report: takes each line for the person who watches.

    Raises:
        ValueError: as a model of this config does.
    """
    if config.num_processes > 1 and not config.mesh:
        count = config.num_processes
        alone = {"num_processes": 1, "process_id": 0, "coordinator": None}
        share = max(config.batch_size // count, 1)
        config = replace(config, batch_size=share, **alone)
        report(f"each of {count} processes, with its share of the batch:")
    elif not config.mesh and layout_of(config) is not None:
        config = replace(config, mesh=mesh_for(config))
    state = eqx.filter_eval_shape(partial(new_state, config), jr.key(0))
    params = num_parameters(state.model)
    flops, of_update = step_flops(config, state.model)
    report(
        f"{params:,} parameters; a step of {config.batch_size} sequences of "
        f"{config.data.window_bytes:,} bytes is {_operations(flops)} operations, and "
        f"{_operations(of_update)} more for the update"
    )
    if config.mesh:
        work = Work(flops, of_update, REACHED["gpu"])
        return plan_mesh(config, work, report)
    room, begun = device_memory(), time.perf_counter()
    state_bytes, step_bytes = step_memory(config)
    device = jax.devices()[0]
    told = map(float, (step_bytes, state_bytes, room))
    whole, held, free = (amount(count).strip() for count in told)
    report(
        f"{whole} by the compiler, of which {held} are parameters and what the "
        f"optimizer keeps; {device.device_kind} has {free} free (compiled in "
        f"{time.perf_counter() - begun:.0f} s)"
    )
    largest = largest_batch(config, step_bytes, room)
    fits = "it fits" if step_bytes <= room else "it does not fit"
    most = f"the largest batch that does is of {largest:,} sequences"
    if not largest:
        most = "nor does any batch: lower `chunk_steps`, `window_bytes` or the model"
    report(f"{fits}; {most}")
    ceiling = measured_ceiling(config.model.dtype)
    chunk_bytes = config.chunk_steps * config.model.bytes_per_step
    chunks = -(-config.data.window_bytes // chunk_bytes)
    reached = REACHED.get(device.platform, REACHED["gpu"])
    least = config.steps * (flops + of_update) / ceiling
    work = Work(flops, of_update, reached)
    about = config.steps * compute_seconds(config, work, 1, chunks, ceiling)
    report(
        f"{_operations(ceiling)} operations a second in large products, measured; "
        f"{config.steps:,} steps take {duration(least).strip()} at least, and about "
        f"{duration(about).strip()}, without compilation, evaluation and samples"
    )
    return Plan(
        params,
        flops + of_update,
        state_bytes,
        step_bytes,
        room,
        largest,
        ceiling,
        least,
        about,
    )


def step_flops(config: TrainConfig, model) -> tuple[int, int]:
    """Useful operations of a step of the whole batch, and of the update after it."""
    data = config.data
    context = data.context_bytes if config.model.use_context else 0
    of_one = train_step_flops(model, data.window_bytes, context_bytes=context)
    muon = config.optim.name == "muon"
    return config.batch_size * of_one, muon_flops(model) if muon else 0


def step_memory(config: TrainConfig) -> tuple[int, int]:
    """Bytes of the state, and of all of a step, by the compiler's own analysis."""
    state = eqx.filter_eval_shape(partial(new_state, config), jr.key(0))
    arrays = eqx.filter(state, is_array)
    step: Any = compile_step(config, state)
    compiled = step.lower(arrays, batch_like(config), jr.key(0)).compile()
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
    return held, bytes_of(compiled)[1]


def largest_batch(config: TrainConfig, step_bytes: int, room: int) -> int:
    """The largest multiple of `micro_batches`, up to `MOST_ROWS`, that compiles to at
    most so many bytes; 0 for none.

    Args:
        step_bytes: of the config's own batch.
    """
    unit, batch = config.micro_batches, config.batch_size

    def memory(batch: int) -> float:
        try:
            return float(step_memory(replace(config, batch_size=batch))[1])
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return np.inf

    # It grows by as much with every sequence, but for what the compiler does otherwise
    # at another size: so the guess is looked at.
    of_one = (memory(2 * batch) - step_bytes) / batch
    if not 0 < of_one < np.inf:
        of_one = step_bytes / batch
    guess = min(batch + (room - step_bytes) / of_one, MOST_ROWS)
    while guess >= unit:
        fits = int(guess) // unit * unit
        found = step_bytes if fits == batch else memory(fits)
        if found <= room:
            return fits
        guess = min(0.95 * fits, fits - 1)
    return 0


def measured_ceiling(dtype: str, repeats: int = 5) -> float:
    """Operations a second of large products of matrices on this device: the median of
    so many."""
    backend = jax.default_backend()
    size = CEILING_SIZE.get(backend, CEILING_SIZE["gpu"])
    x = jr.normal(jr.key(0), (size, size), jnp.dtype(dtype))
    product = jax.jit(lambda x: x @ x)
    seconds = []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        jax.block_until_ready(product(x))
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / float(np.median(seconds[1:]))


def _operations(count: int | float) -> str:
    power = min(int(np.log10(max(count, 1)) // 3), 6)
    return f"{count / 1000**power:.3g}{['', ' k', ' M', ' G', ' T', ' P', ' E'][power]}"
