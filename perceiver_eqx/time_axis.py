"""Time over devices: how steps lie on the devices of a mesh, and what these tell each
other of the past."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree


Arrays = TypeVar("Arrays")


@dataclass(frozen=True)
class TimeAxis:
    """Devices that share the steps of a sequence, seen from one of them inside
    `jax.shard_map`.

    Steps are dealt out in runs, like cards: the first device has the first run, the
    next one that after it, and after the last device the first has the next run.

    Attributes:
        names: the axes of the mesh, of which the last turns fastest.
        runs: how many runs a device has in a call, one after the other.
    """

    names: tuple[str, ...]
    runs: int = 1

    @property
    def size(self) -> int:
        """How many devices there are."""
        return lax.axis_size(self.names)

    @property
    def index(self) -> Int[Array, ""]:
        """Which of them this one is."""
        return lax.axis_index(self.names)

    def run_of(self, steps: int) -> int:
        """How many of the steps of a device make a run.

        Raises:
            ValueError: its runs are not of one length.
        """
        if steps % self.runs:
            raise ValueError(
                f"the steps of a device must be a multiple of its `runs` = {self.runs}"
                f", got {steps}."
            )
        return steps // self.runs

    def firsts(self, steps: int) -> Int[Array, " runs"]:
        """Where the runs of this device, which has so many steps, begin among the steps
        of all."""
        return (jnp.arange(self.runs) * self.size + self.index) * self.run_of(steps)

    def places(self, steps: int) -> Int[Array, " steps"]:
        """Where the steps of this device stand among those of all."""
        return (self.firsts(steps)[:, None] + jnp.arange(self.run_of(steps))).ravel()

    def check_one_run(self) -> None:
        """Refuse several runs, where what is carried from run to run is made by one.

        Raises:
            ValueError: a device has several runs.
        """
        if self.runs != 1:
            raise ValueError(
                f"`runs` must be 1 where steps are taken one after the other, got "
                f"{self.runs}: take each run with a call of its own."
            )

    def before(self, own: Arrays, carried: Arrays) -> tuple[Arrays, Arrays]:
        """What there was before the run of this device, if it has one.

        Args:
            own: what its run leaves behind: arrays.
            carried: what was left behind before the run of the first device, which
                alone knows it.

        Returns:
            what was left behind before the run of this device; and what the run of the
            last one left behind, to carry on, which the first one knows.

        Raises:
            ValueError: a device has several runs.
        """
        self.check_one_run()
        before, after = self.before_runs(jax.tree.map(lambda x: x[None], own), carried)
        return jax.tree.map(lambda x: x[0], before), after

    def before_runs(
        self, own: PyTree[Array], carried: PyTree[Array]
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """`before`, for devices of several runs, which are the first axis of `own` and
        of what was before."""
        first = self.index == 0

        def left_before(own: Array, carried: Array) -> tuple[Array, Array]:
            if own.size == 0:
                return own, carried
            received = self.to_next(own)
            # The last device's are of the run before, to the first one.
            later = jnp.concatenate([carried[None].astype(own.dtype), received[:-1]])
            return jnp.where(first, later, received), received[-1]

        found = jax.tree.map(left_before, own, carried)
        return jax.tree.transpose(jax.tree.structure(own), None, found)

    def to_next(self, own: Arrays) -> Arrays:
        """What the device before has; the first one gets what the last one has."""
        size = self.size
        ring = [(i, (i + 1) % size) for i in range(size)]
        return lax.ppermute(own, self.names, ring)

    def of_all(self, own: PyTree[Array]) -> PyTree[Array]:
        """What each device has, in their order along a new first axis."""
        return lax.all_gather(own, self.names)


def devices_in(time: TimeAxis | None) -> int:
    """How many devices steps lie over."""
    return 1 if time is None else time.size


def steps_of(x: Array, time: TimeAxis | None) -> Int[Array, " steps"]:
    """Where the rows of an array of steps stand among those of all devices, if they lie
    over several."""
    return jnp.arange(x.shape[0]) if time is None else time.places(x.shape[0])


def last_of(x: Array, count: int) -> Array:
    """The last rows of a run, which the next one needs.

    Raises:
        ValueError: the run has fewer.
    """
    if x.shape[0] < count:
        raise ValueError(
            f"a device must have at least {count} rows in a run, which those after it "
            f"see, got {x.shape[0]}: take longer runs (a larger `chunk_steps`), or "
            "fewer devices along time."
        )
    return x[x.shape[0] - count :]
