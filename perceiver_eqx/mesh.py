"""A mesh of devices, and parameters that lie over some of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike


AXES = ("data", "model", "time")


def make_mesh(
    sizes: str | Mapping[str, int] = "", devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh whose axes are what a step of training is split along: `data`, the
    sequences of a batch; `model`, the parameters and what the optimizer keeps; `time`,
    the steps of each sequence.

    Args:
        sizes: devices along each axis, as in `"data=2,time=4"` or `{"data": 2}`; 1
            along those that are not named. If none is, all devices lie along `data`.
        devices: to use, the first ones; `None` for all there are.

    Raises:
        ValueError: for an axis that there is not or is named twice, a size that is no
            whole number of at least 1, more devices than there are, or so few that a
            process has none.
    """
    devices = jax.devices() if devices is None else list(devices)
    named = parse_mesh(sizes)
    named = named or {"data": len(devices)}
    shape = tuple(named.get(axis, 1) for axis in AXES)
    count = math.prod(shape)
    taken = {device.process_index for device in devices[:count]}
    if count > len(devices) or len(taken) < jax.process_count():
        asked = " * ".join(f"{axis}={n}" for axis, n in zip(AXES, shape, strict=True))
        raise ValueError(
            f"`mesh` must take devices that there are, some of every process, got "
            f"{asked} = {count} of {len(devices)} devices of {jax.process_count()} "
            "processes. Change a size."
        )
    return Mesh(np.array(devices[:count]).reshape(shape), AXES)


def devices_of(sizes: str | Mapping[str, int]) -> int:
    """How many devices the axes that are named take."""
    return math.prod(parse_mesh(sizes).values())


def parse_mesh(sizes: str | Mapping[str, int]) -> dict[str, int]:
    """The sizes of the axes that are named.

    Raises:
        ValueError: as `make_mesh` does.
    """
    pairs = list(sizes.items()) if isinstance(sizes, Mapping) else _pairs(sizes)
    named = {}
    for axis, size in pairs:
        if axis not in AXES or [name for name, _ in pairs].count(axis) > 1:
            raise ValueError(
                f"`mesh` must name the axes {', '.join(AXES)} at most once each, got "
                f"{sizes!r}. Write it as data=2,time=4."
            )
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f"`mesh` must have at least 1 device along {axis}, got {size!r} in "
                f"{sizes!r}. Write it as data=2,time=4."
            )
        named[axis] = size
    return named


def _pairs(text: str) -> list[tuple[str, int | str]]:
    pairs = []
    for part in filter(None, text.replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        pairs.append((axis, int(size) if size.isdecimal() else size))
    return pairs


class Sharded(eqx.Module):
    """A parameter of which this device has a part, inside `jax.shard_map`.

    It stands in a model where the whole array would, until a layer that needs it asks
    for it (`gathered`).

    Attributes:
        part: of this device.
        axis: along which the array is cut, counted from the last (-1).
        name: the axis of the mesh over which its parts lie.
    """

    part: Array
    axis: int = eqx.field(static=True)
    name: str = eqx.field(static=True)

    @property
    def dtype(self) -> np.dtype:
        """That of the whole array."""
        return self.part.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole array."""
        sizes = list(self.part.shape)
        sizes[self.axis] *= lax.axis_size(self.name)
        return tuple(sizes)


def gathered(
    parameter: Array | Sharded, x: Array, dtype: DTypeLike
) -> tuple[Array, Array]:
    """A parameter, whole, in the dtype that a layer computes in, and what it computes
    with.

    The devices send each other the parts in that dtype, as late as `x` is known: XLA
    would else gather all layers' before the first runs. Its gradient is summed over
    them, and each keeps its part.
    """
    if not isinstance(parameter, Sharded):
        return parameter.astype(dtype), x
    part, x = lax.optimization_barrier((parameter.part, x))
    axis = part.ndim + parameter.axis
    part = part.astype(dtype)
    return lax.all_gather(part, parameter.name, axis=axis, tiled=True), x
