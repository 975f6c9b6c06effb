"""A step of training over a mesh of devices: what lies where.

The sequences of a batch lie along `data` and `model`, each run of steps along `time`,
and parameters, gradients and what the optimizer keeps along `model`: each device has a
part of a large parameter, and the whole only while a layer that needs it runs. Where a
batch has too few sequences for `model`, its devices share the steps in time, too.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from perceiver_eqx import ByteLM
from perceiver_eqx.adapters.byte_context import context_piece
from perceiver_eqx.mesh import Sharded
from perceiver_eqx.time_axis import TimeAxis

from .config import ModelConfig, TrainConfig
from .loss import Loss, batch_bits


# Parameters of fewer numbers than this lie whole on every device.
LEAST_SHARDED = 1 << 12
# The parameters that may be cut: those that layers ask for as they run; and the stacks
# of their momentum that Muon keeps.
MATRICES = ("weight", "tables")
MOMENTUM = "matrices"
# What a batch has of every sequence whole, on each device that has some of its steps.
SHARED_IN_TIME: tuple[str, ...] = ("length", "context_length")

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """What of a step lies where.

    Attributes:
        mesh: of the axes `data`, `model` and `time`.
        rows: the axes along which the sequences of a batch lie.
        time: those along which their steps lie.
        chunk_steps: of a sequence, that a device has in a row.
        bytes_per_step: of the model.
        reach: how many steps before its own a layer sees, where it does not see all.
            No run is shorter, or the device before would not have them.
        context_unit, context_reach: bytes of a context that are read together, and how
            many before its own are looked at; of its runs as of those of steps.
    """

    mesh: Mesh
    rows: tuple[str, ...]
    time: tuple[str, ...]
    chunk_steps: int
    bytes_per_step: int
    reach: int = 0
    context_unit: int = 1
    context_reach: int = 0

    @classmethod
    def of(cls, mesh: Mesh, config: TrainConfig) -> "Layout":
        """The layout for the batches of a run.

        Raises:
            ValueError: they cannot be split along `data`; or layers see further back
                than a chunk, or drop out weights to all steps, over devices in time.
        """
        data, model = mesh.shape["data"], mesh.shape["model"]
        rows = config.batch_size // config.micro_batches
        if rows % data:
            raise ValueError(
                "`batch_size` / `micro_batches` must be a multiple of the devices along"
                f" data, {data}, got {rows}. Change one of them, or take fewer devices "
                "along data and more along time."
            )
        by_rows = rows % (data * model) == 0
        layout = cls(
            mesh,
            ("data", "model") if by_rows else ("data",),
            ("time",) if by_rows else ("model", "time"),
            config.chunk_steps,
            config.model.bytes_per_step,
            _reach(config.model),
            *units_of_context(config.model),
        )
        refusal = refusal_in_time(config)
        if layout.in_time > 1 and refusal is not None:
            raise ValueError(refusal)
        return layout

    @property
    def described(self) -> str:
        """For the person who watches."""
        sizes = ", ".join(f"{axis}={n}" for axis, n in self.mesh.shape.items() if n > 1)
        return f"a mesh of {self.mesh.size} devices, {sizes}"

    @property
    def in_time(self) -> int:
        """Devices that share the steps of a sequence."""
        return math.prod(self.mesh.shape[axis] for axis in self.time)

    @property
    def time_axis(self) -> TimeAxis | None:
        """Those devices, for a model; `None` if there is one."""
        return TimeAxis(self.time) if self.in_time > 1 else None

    def batch_specs(self, names: Any) -> dict[str, P]:
        """Where each array of a batch lies."""
        shared: dict[str, P] = dict.fromkeys(SHARED_IN_TIME, P(self.rows))
        if self.in_time == 1:
            shared["context"] = P(self.rows)
        return {name: shared.get(name, P(self.rows, self.time)) for name in names}

    def deal(self, batch: Batch) -> Batch:
        """A batch with its bytes dealt out (rows, devices in time, bytes of each) in
        whole runs, and zeros after the end; and so its contexts (rows, devices in time,
        runs, run), if they are to lie over devices."""
        rows, size = batch["bytes"].shape
        runs = self._dealt(batch["bytes"], *self.runs_of(size))
        dealt = {"bytes": runs.reshape(rows, self.in_time, -1)}
        if "context" in batch and self.in_time > 1:
            context = batch["context"]
            of_context = self.runs_of_context(context.shape[1])
            dealt["context"] = self._dealt(context, *of_context)
        return {**batch, **dealt}

    def _dealt(self, data: np.ndarray, run: int, runs: int) -> np.ndarray:
        (rows, size), devices = data.shape, self.in_time
        padded = np.pad(data, ((0, 0), (0, runs * devices * run - size)))
        return padded.reshape(rows, runs, devices, run).swapaxes(1, 2)

    def runs_of(self, size: int) -> tuple[int, int]:
        """Bytes that a device has in a row of a sequence of so many, and how often."""
        devices, steps = self.in_time, -(-size // self.bytes_per_step)
        # A short sequence is cut into shorter runs than a chunk, but none too short.
        least = max(-(-steps // devices), self.reach)
        run = min(self.chunk_steps, least) * self.bytes_per_step
        return run, -(-size // (devices * run))

    def runs_of_context(self, size: int) -> tuple[int, int]:
        """Bytes that a device has in a row of a context of so many, and how often."""
        devices, unit = self.in_time, self.context_unit

        def units(count: int) -> int:
            return max(-(-count // unit), 1) * unit

        run = min(units(-(-size // devices)), context_piece(unit))
        run = max(run, units(self.context_reach))
        return run, -(-size // (devices * run))

    def put_batch(self, batch: Batch) -> dict[str, Array]:
        """A batch, dealt out, on the devices."""
        dealt = self.deal(batch)
        return self.put(dealt, self.batch_specs(dealt))

    def put(self, arrays: PyTree, specs: PyTree | None = None) -> PyTree:
        """Arrays that this process knows whole, on the devices, as the specs say, or
        whole on each. Each process puts what its own devices have."""
        if specs is None:
            specs = jax.tree.map(lambda _: P(), arrays)
        return jax.tree.map(self._put, arrays, specs)

    def put_state(self, state: PyTree) -> PyTree:
        """A state, or a model, each array where its spec says."""
        arrays, static = eqx.partition(state, eqx.is_array)
        return eqx.combine(self.put(arrays, self.specs(arrays)), static)

    def local(self, state: PyTree) -> PyTree:
        """A state, or a model, that lies on the devices, whole, on one of this process.
        All processes must ask for it."""
        return jax.tree.map(lambda x: self._local(x) if eqx.is_array(x) else x, state)

    def _local(self, array: Array) -> Array:
        if not (array.is_fully_addressable or array.is_fully_replicated):
            array = jax.jit(_as_it_is, out_shardings=self.whole)(array)
        if array.is_fully_replicated:
            return array.addressable_data(0)
        return jax.device_put(array, jax.local_devices()[0])

    @property
    def whole(self) -> NamedSharding:
        """Of what lies whole on each device."""
        return NamedSharding(self.mesh, P())

    def _put(self, array: Any, spec: P) -> Array:
        where = NamedSharding(self.mesh, spec)
        if isinstance(array, jax.Array) and jnp.issubdtype(
            array.dtype, jax.dtypes.prng_key
        ):
            data = np.asarray(jr.key_data(array))
            return jr.wrap_key_data(self._put(data, spec), impl=jr.key_impl(array))
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, where, lambda at: array[at])

    def shardings(self, specs: PyTree) -> PyTree:
        """Specs as `jax.jit` takes them."""
        return jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    def specs(self, arrays: PyTree) -> PyTree:
        """Where each array of a model, its gradient, or an optimizer lies: a parameter
        and what is kept of it alike."""
        return jtu.tree_map_with_path(self._spec, arrays)

    def _spec(self, path: jtu.KeyPath, array: Any) -> P:
        model = self.mesh.shape["model"]
        names = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        cut = names[-1] in MATRICES or MOMENTUM in names
        if model == 1 or array.size < LEAST_SHARDED or not cut:
            return P()
        for axis in (array.ndim - 2, array.ndim - 1):
            if array.shape[axis] % model == 0:
                return P(*[None] * axis, "model")
        return P()

    @property
    def loss(self) -> Loss:
        """`batch_bits` of batches that are put on the devices."""
        local_bits = partial(
            batch_bits, chunk_steps=self.chunk_steps, time=self.time_axis
        )

        def loss(
            model: ByteLM, batch: dict[str, Array], key: PRNGKeyArray | None
        ) -> tuple[Array, Int[Array, ""]]:
            arrays, static = eqx.partition(model, eqx.is_array)
            specs = self.specs(arrays)
            keys = None if key is None else jr.split(key, len(batch["length"]))

            def of_device(arrays, batch, keys):
                parts = jax.tree.map(_sharded, arrays, specs)
                model = eqx.combine(parts, static, is_leaf=_is_part)
                dealt = ("bytes", "context") if self.in_time > 1 else ("bytes",)
                batch = {n: x[:, 0] if n in dealt else x for n, x in batch.items()}
                bits, _ = local_bits(model, batch, keys)
                return bits[None]

            everywhere = P(self.mesh.axis_names)
            bits = jax.shard_map(
                of_device,
                mesh=self.mesh,
                in_specs=(specs, self.batch_specs(batch), P(self.rows)),
                out_specs=everywhere,
                check_vma=False,
            )(arrays, batch, keys)
            return bits.sum(), batch["length"].sum()

        return loss


def sees_all(config: TrainConfig) -> bool:
    """Whether a layer between latents sees all steps before its own."""
    window = config.model.latent_window
    return window is None or (isinstance(window, tuple) and None in window)


def refusal_in_time(config: TrainConfig) -> str | None:
    """Why the steps of a sequence cannot lie over devices; `None` if they can."""
    reach, dropout = _reach(config.model), config.model.attention_dropout
    if reach > config.chunk_steps:
        return (
            f"`chunk_steps` must be at least {reach} where the steps of a sequence lie "
            "over devices, as far as a layer sees back (latent_window and "
            "local_window, less its own, or the longest of ngrams), got "
            f"{config.chunk_steps}."
        )
    if sees_all(config) and dropout:
        return (
            "`attention_dropout` must be 0 where a `latent_window` is None and the "
            f"steps of a sequence lie over devices, got {dropout}."
        )
    return None


def _reach(model: ModelConfig) -> int:
    """How many steps back a layer sees, but for those that see all."""

    local = -(-_local_reach(model) // model.bytes_per_step)
    return max(_furthest(model.latent_window), local)


def _local_reach(model: ModelConfig) -> int:
    """How many bytes back a local layer sees."""
    layers = model.input_layers + model.output_layers
    inside = max(_furthest(model.local_window), model.local_conv - 1) if layers else 0
    return max(inside, max(model.ngrams, default=1) - 1, 1)


def _furthest(windows: Any) -> int:
    windows = windows if isinstance(windows, tuple) else (windows,)
    return max((each - 1 for each in windows if each is not None), default=0)


def units_of_context(model: ModelConfig) -> tuple[int, int]:
    """Bytes of a context that are read together, and how many before its own are looked
    at: of the last, whose tokens give to the keys of those to come, a step."""
    unit = model.context_patch * (model.context_block if model.context_layers else 1)
    return unit, max(_local_reach(model), model.bytes_per_step)


def _as_it_is(array: Array) -> Array:
    return array


def _is_part(x: Any) -> bool:
    return x is None or isinstance(x, Sharded)


def _sharded(array: Array, spec: P) -> Array | Sharded:
    if not spec:
        return array
    return Sharded(array, axis=len(spec) - 1 - array.ndim, name=spec[-1])
