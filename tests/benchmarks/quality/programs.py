"""The compiled functions of a row: to begin, to take a step, to score."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, UInt8

from .flops import training_flops
from .models import Model
from .optimizer import Name, optimizer
from .rows import Row


AXIS = "rows"  # of the devices over which those of a batch are split
ALIKE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


@dataclass(frozen=True)
class Programs:
    """A row, compiled. What it carries from step to step is a PyTree of arrays only.

    Attributes:
        init: from a key, what is carried before the first step.
        step: from what is carried (donated), a batch, the number of the step, the
            number of all steps, the peak of the learning rate and a key: what is
            carried then, and the mean bits of the batch.
        score: from what is carried and some rows, the bits of each target byte.
        model_of: the model in what is carried.
        step_flops: useful operations of a step.
        temp_bytes: what a step takes beside what is carried, by the compiler's count,
            on each device.
    """

    row: Row
    init: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, Array]]
    score: Callable[..., Array]
    model_of: Callable[[PyTree], Any]
    context: int
    targets: int
    num_parameters: int
    step_flops: int
    compile_seconds: float
    temp_bytes: int | None
    score_rows: int


def compile_row(row: Row, optimizer_name: Name, final_share: float = 0.1) -> Programs:
    """Compiles what a row needs. May run in a thread beside training.

    Raises:
        ValueError: if the context does not divide the batch, or devices are missing.
    """
    start = time.perf_counter()
    key = jax.eval_shape(lambda: jr.key(0))
    carried, static = eqx.partition(
        eqx.filter_eval_shape(_begin, row, optimizer_name, key), _is_array
    )
    model, _ = eqx.combine(carried, static)
    rows = _rows_of(row, model.context)

    def begin(key):
        return eqx.filter(_begin(row, optimizer_name, key), eqx.is_array)

    def step(carried, batch, number, steps, peak, key):
        model, opt_state = eqx.combine(carried, static)
        optim = optimizer(
            optimizer_name, steps, peak, final_share, row.weight_decay, row.dtype
        )
        key = jr.fold_in(jr.fold_in(key, number), lax.axis_index(AXIS))
        bits, gradient = lax.pmean(
            _bits_and_gradient(model, batch, key, row.micro_batches), AXIS
        )
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optim.update(gradient, opt_state, params)
        model = eqx.apply_updates(model, updates)
        return eqx.filter((model, opt_state), eqx.is_array), bits

    def score(carried, rows):
        return jax.vmap(eqx.combine(carried, static)[0].bits)(rows)

    mesh = Mesh(np.array(jax.devices()[: row.devices]), (AXIS,))

    def compiled(function, takes, gives, *shapes, **options):
        """The function, run on all devices, each with its part of what is split."""
        places = {spec: NamedSharding(mesh, spec) for spec in (ALIKE, SPLIT)}
        return (
            jax.jit(
                jax.shard_map(
                    function,
                    mesh=mesh,
                    in_specs=takes,
                    out_specs=gives,
                    check_vma=False,
                ),
                in_shardings=tuple(places[spec] for spec in takes),
                out_shardings=places[gives],
                **options,
            )
            .lower(*shapes)
            .compile()
        )

    def model_of(carried):
        carried = jax.tree.map(lambda x: x.addressable_data(0), carried)
        return eqx.combine(carried, static)[0]

    batch = jax.ShapeDtypeStruct((rows, model.context), jnp.uint8)
    whole, real = (jax.ShapeDtypeStruct((), kind) for kind in (jnp.int32, jnp.float32))
    compiled_step = compiled(
        step,
        (ALIKE, SPLIT, ALIKE, ALIKE, ALIKE, ALIKE),
        ALIKE,
        *(carried, batch, whole, whole, real, key),
        donate_argnums=0,
    )
    sizes = [x.size for x in jax.tree.leaves(carried[0])]
    return Programs(
        row,
        init=compiled(begin, (ALIKE,), ALIKE, key),
        step=compiled_step,
        score=compiled(score, (ALIKE, SPLIT), SPLIT, carried, batch),
        model_of=model_of,
        context=model.context,
        targets=model.targets,
        num_parameters=sum(sizes),
        step_flops=rows * training_flops(model, model.context),
        compile_seconds=time.perf_counter() - start,
        temp_bytes=getattr(compiled_step.memory_analysis(), "temp_size_in_bytes", None),
        score_rows=rows,
    )


def _begin(row: Row, optimizer_name: Name, key) -> tuple[Model, PyTree]:
    """The model and the state of the optimizer, whose shapes no schedule changes."""
    model = row.build(key)
    optim = optimizer(optimizer_name, 1, 0.0, dtype=row.dtype)
    return model, optim.init(eqx.filter(model, eqx.is_inexact_array))


def _bits_and_gradient(
    model: Model, batch: UInt8[Array, "rows context"], key, micro_batches: int
) -> tuple[Float[Array, ""], PyTree]:
    """Mean bits of a target byte, and their gradient, part by part of the batch."""

    @eqx.filter_value_and_grad
    def mean_bits(model, rows, key):
        keys = jr.split(key, rows.shape[0])
        return jax.vmap(lambda row, key: model.bits(row, key=key))(rows, keys).mean()

    if micro_batches == 1:
        return mean_bits(model, batch, key)

    def add_part(sums, of_part):
        return jax.tree.map(jnp.add, sums, mean_bits(model, *of_part)), None

    params = eqx.filter(model, eqx.is_inexact_array)
    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    parts = batch.reshape(micro_batches, -1, batch.shape[1])
    sums, _ = lax.scan(add_part, zeros, (parts, jr.split(key, micro_batches)))
    return jax.tree.map(lambda x: x / micro_batches, sums)


def _rows_of(row: Row, context: int) -> int:
    if row.devices > len(jax.devices()):
        raise ValueError(
            f"`devices` must be at most the {len(jax.devices())} that are here, got "
            f"{row.devices} for {row.name}."
        )
    if row.batch_bytes % (context * row.micro_batches * row.devices):
        raise ValueError(
            f"`batch_bytes` must be a multiple of {context} bytes of context times "
            f"{row.micro_batches} parts on {row.devices} devices, got "
            f"{row.batch_bytes} for {row.name}."
        )
    return row.batch_bytes // context


def _is_array(x) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct | jax.Array | np.ndarray)
