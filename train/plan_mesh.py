"""What a run over a mesh of devices would take: memory of each, what they send each
other, and time, from the program compiled for as many simulated devices."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from perceiver_eqx.adapters.byte_context import context_piece
from perceiver_eqx.mesh import devices_of, make_mesh

from .collectives import Collective, collectives
from .config import TrainConfig
from .loss import passes_forward
from .memory import bytes_of
from .metrics import amount, duration
from .program import batch_like, compile_step, is_array, new_state
from .sharding import Layout, sees_all, units_of_context


# What is taken for granted: devices of the kind of an NVIDIA H100, eight to a host.
PER_HOST = 8
FLOPS_PER_SECOND = {"bfloat16": 790e12, "float16": 790e12}
OTHER_FLOPS_PER_SECOND = 300e12
# Of the seconds that a chunk takes besides its operations, those that a piece of a
# context takes: steps with a million bytes of context to a device are told within a
# twelfth by this, on one H100 (0.438 s) and on two (0.386 s).
PIECE = 0.15
# Bytes a second that a device sends within a host, and to other hosts, and seconds
# until the first arrives.
WITHIN, BETWEEN, LATENCY = 300e9, 40e9, 2e-5


class Work(NamedTuple):
    """The operations of a step.

    Attributes:
        shared: useful ones that the devices share.
        alone: those that each does, of the optimizer.
        reached: the share of a device's fastest products that is reached, and seconds
            that each chunk takes besides.
    """

    shared: int
    alone: int
    reached: tuple[float, float]


@dataclass(frozen=True)
class MeshPlan:
    """What each device of a mesh would take.

    Attributes:
        state_bytes: of parameters, what the optimizer keeps, and the batch.
        step_bytes: of a whole step, the state included, by the compiler.
        exchanges: all in a step.
        compute_seconds, within_seconds, between_seconds: of a step: of its operations,
            and of what is sent within hosts and between them, one after the other.
    """

    state_bytes: int
    step_bytes: int
    exchanges: tuple[Collective, ...]
    compute_seconds: float
    within_seconds: float
    between_seconds: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.compute_seconds + self.within_seconds + self.between_seconds


def plan_mesh(
    config: TrainConfig, work: Work, report: Callable[[str], None]
) -> MeshPlan:
    """Compiles a step over the mesh of a run, and runs none.

    Args:
        report: takes each line for the person who watches.

    Raises:
        ValueError: the mesh, or the batches, do not allow it.
    """
    count = devices_of(config.mesh)
    if len(jax.devices()) >= count:
        found = _compiled(config, work)
    else:
        with _simulated(count) as elsewhere:
            found = elsewhere(_compiled, config, work)
    for line in _lines(config, found, count):
        report(line)
    return found


def _compiled(config: TrainConfig, work: Work) -> MeshPlan:
    mesh = make_mesh(config.mesh, jax.devices()[: devices_of(config.mesh)])
    layout = Layout.of(mesh, config)
    return estimate(config, layout, compile_over(config, layout), work)


def estimate(
    config: TrainConfig, layout: Layout, compiled: jax.stages.Compiled, work: Work
) -> MeshPlan:
    """The plan of a step that is compiled."""
    exchanges = tuple(collectives(compiled, layout.mesh))
    _, runs = layout.runs_of(config.data.window_bytes)
    ceiling = FLOPS_PER_SECOND.get(config.model.dtype, OTHER_FLOPS_PER_SECOND)
    devices = layout.mesh.size
    compute = compute_seconds(config, work, devices, runs, ceiling, layout)
    times = {
        far: sum(
            exchange.times * (exchange.sent_bytes / speed + LATENCY)
            for exchange in exchanges
            if (exchange.reach > PER_HOST) == far
        )
        for far, speed in ((False, WITHIN), (True, BETWEEN))
    }
    return MeshPlan(*bytes_of(compiled), exchanges, compute, times[False], times[True])


@contextmanager
def _simulated(count: int) -> Iterator[Callable]:
    """What calls a function in a process whose processor passes for so many devices."""
    told = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield lambda call, *arguments: pool.submit(call, *arguments).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def compute_seconds(
    config: TrainConfig,
    work: Work,
    devices: int,
    chunks: int,
    ceiling: float,
    layout: Layout | None = None,
) -> float:
    """Of a step, but for what is sent.

    Args:
        chunks: that a device has of a sequence, one after the other.
        ceiling: operations a second of a device's fastest products.
        layout: over devices; `None` for one.
    """
    share, of_chunk = work.reached
    loops = chunks + PIECE * _pieces(config, layout)
    again = 0 if sees_all(config) else passes_forward(chunks) - 1
    # A third of the operations are those of a pass forward.
    operations = work.shared / devices * (1 + again / 3) + work.alone
    return operations / (ceiling * share) + config.micro_batches * loops * of_chunk


def _pieces(config: TrainConfig, layout: Layout | None) -> int:
    """How many pieces of a context a device reads, one after the other."""
    if not config.model.use_context:
        return 0
    size = config.data.context_bytes
    if layout is not None and layout.in_time > 1:
        return layout.runs_of_context(size)[1]
    unit, _ = units_of_context(config.model)
    return -(-size // context_piece(unit))


def compile_over(config: TrainConfig, layout: Layout) -> jax.stages.Compiled:
    """A step over a mesh, compiled for the shapes of a run; nothing is put anywhere."""
    state = eqx.filter_eval_shape(partial(new_state, config), jr.key(0))
    arrays = eqx.filter(state, is_array)

    def placed(shapes: PyTree, specs: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(layout.mesh, spec)
            ),
            shapes,
            specs,
        )

    batch = batch_like(config, layout)
    key = placed(jax.eval_shape(lambda: jr.key(0)), P())
    step = compile_step(config, state, layout)
    given = (
        placed(arrays, layout.specs(arrays)),
        placed(batch, layout.batch_specs(batch)),
    )
    return step.lower(*given, key).compile()


def _lines(config: TrainConfig, plan: MeshPlan, count: int) -> Iterator[str]:
    state, step = (
        amount(float(x)).strip() for x in (plan.state_bytes, plan.step_bytes)
    )
    yield (
        f"{config.mesh}: each of {count} devices takes {step} by the compiler, of "
        f"which {state} are its part of the parameters, of what the optimizer keeps, "
        "and of the batch"
    )
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for exchange in plan.exchanges:
        total = sums[(" and ".join(exchange.axes), exchange.kind)]
        total[0] += exchange.times
        total[1] += exchange.times * exchange.sent_bytes
        total[2] = max(total[2], exchange.sent_bytes)
    yield "along            what                times a step   sent a step   at most"
    for (axes, kind), (times, sent, most) in sorted(sums.items()):
        told = (amount(float(x)) for x in (sent, most))
        yield f"{axes:16} {kind:18} {times:13,} {'  '.join(f'{x:>12}' for x in told)}"
    parts = {
        "operations": plan.compute_seconds,
        "what is sent within a host": plan.within_seconds,
        "what is sent between hosts": plan.between_seconds,
    }
    each = ", ".join(f"{seconds:.3g} s of {what}" for what, seconds in parts.items())
    yield (
        f"a step takes about {plan.seconds:.3g} s: {each}; {config.steps:,} steps "
        f"{duration(config.steps * plan.seconds).strip()}"
    )
    yield (
        f"most of it of {max(parts, key=lambda what: parts[what])}, if devices are "
        f"like an H100, {PER_HOST} to a host, and send {WITHIN / 1e9:.0f} GB a second "
        f"within a host and {BETWEEN / 1e9:.0f} to another"
    )
