"""The processes of a run: each has some of the devices, and the first alone writes."""

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from .config import AUTO, TrainConfig
from .memory import is_out_of_memory


# The axis of a mesh of one device of each process, by which they agree.
AXIS = "processes"
# Seconds without a sign of life after which a process counts as lost.
LOST_AFTER = 60
# Seconds that processes wait for each other where they end.
END_TOGETHER = 30
# Seconds that the first process, without which the others are ended, ends later.
LATER = 3.0
# After how many questions an answer is read: that of the step before the one that runs.
READ_AFTER = 2
# Of a collective whose partner is gone, JAX raises one error or another.
_LOST = "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "


class ProcessLost(RuntimeError):
    """The processes of a run could not go on together."""


class FirstFailed(RuntimeError):
    """The first process could not write what it was to write."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        index: of this one.
        count: of all.
        mesh: a device of each; `None` where there is one process.
    """

    index: int = 0
    count: int = 1
    mesh: Mesh | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    def agreed(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """What tells all at the same time whether any was asked to stop. All call it
        equally often. What it tells was so two calls before, so that nobody waits for
        the step that runs."""
        if self.mesh is None:
            return asked
        mesh, count = self.mesh, self.count
        largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
        answers: deque[Array] = deque()
        known = False

        def told() -> bool:
            nonlocal known
            if not known:
                mine = jnp.full(1, int(asked()), jnp.int32)
                of_each = NamedSharding(mesh, P(AXIS))
                answers.append(
                    largest(
                        jax.make_array_from_single_device_arrays(
                            (count,), of_each, [mine]
                        )
                    )
                )
                if len(answers) > READ_AFTER:
                    known = bool(answers.popleft())
            return known

        return told

    def by_first(self, call: Callable[[], None]) -> None:
        """Calls in the first process, for which the others wait.

        Raises:
            FirstFailed: in the others, where the call raises in the first.
        """
        if self.mesh is None:
            call()
            return
        error = None
        if self.first:
            try:
                call()
            except Exception as raised:
                error = raised
        said, *_ = self._gathered("" if error is None else f"{error!s} ")
        if error is not None:
            raise error
        if said:
            raise FirstFailed(f"the first process ended: {said.strip()}")

    def check_alike(self, facts: dict[str, Any]) -> None:
        """Compares what all processes must have alike.

        Args:
            facts: whatever JSON can hold, by name; that of `process_id` is left out.

        Raises:
            ValueError: the processes differ; what does is named, with two values.
        """
        if self.mesh is None:
            return
        mine = {name: fact for name, fact in facts.items() if name != "process_id"}
        first, *others = map(json.loads, self._gathered(json.dumps(mine)))
        for index, other in enumerate(others, start=1):
            for name in sorted(first.keys() | other.keys()):
                one, two = first.get(name), other.get(name)
                if one != two:
                    raise ValueError(
                        f"`{name}` must be the same in all processes, got {one!r} in "
                        f"process 0 and {two!r} in process {index}. Start the same "
                        "command in each, but for --process-id, where all see the "
                        "same data and the same `out`."
                    )

    def _gathered(self, text: str) -> list[str]:
        """A text of each process."""
        data = np.frombuffer(text.encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.int32(data.size))
        room = np.zeros(max(sizes.max(), 1), np.uint8)
        room[: data.size] = data
        rows = multihost_utils.process_allgather(room)
        return [
            row[:size].tobytes().decode()
            for row, size in zip(np.asarray(rows), sizes, strict=True)
        ]


@contextmanager
def processes(config: TrainConfig) -> Iterator[Processes]:
    """Waits until all processes of a run are there.

    Raises:
        ProcessLost: they are not, or not any more.
        ValueError: JAX knows of another number of processes.
    """
    index, count = config.process_id, config.num_processes
    if config.coordinator is None:
        yield Processes()
        return
    try:
        _initialize(config)
        if config.coordinator == AUTO:
            index, count = jax.process_index(), jax.process_count()
        if (jax.process_index(), jax.process_count()) != (index, count):
            raise ValueError(
                f"`process_id` of `num_processes` must be what JAX was initialized "
                f"with, {jax.process_index()} of {jax.process_count()}, got {index} "
                f"of {count}. Leave that to the run."
            )
        devices = [jax.local_devices(process_index=i)[0] for i in range(count)]
        yield Processes(index, count, Mesh(np.array(devices), (AXIS,)))
    except KeyboardInterrupt:
        # Python's own way out would wait for the others.
        end(130)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        text = str(error)
        lost = isinstance(error, jax.errors.JaxRuntimeError) or re.match(_LOST, text)
        if is_out_of_memory(error) or not lost:
            raise
        raise ProcessLost(
            f"process {index} of {count} at `coordinator` = {config.coordinator} "
            f"cannot go on without the others: {text.splitlines()[0]} If another told "
            "an error before, that is the cause. The checkpoints are as they were: "
            "start the same commands again."
        ) from error


def _initialize(config: TrainConfig) -> None:
    if jax.distributed.is_initialized():
        return
    # It would hear SIGTERM in the place of the run.
    jax.config.update("jax_enable_preemption_service", False)
    where: dict[str, Any] = {}
    if config.coordinator != AUTO:
        where = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            "cluster_detection_method": "deactivate",
        }
    jax.distributed.initialize(
        **where,
        heartbeat_timeout_seconds=LOST_AFTER,
        shutdown_timeout_seconds=END_TOGETHER,
    )


def end(status: int) -> NoReturn:
    """Ends this process after an error that it told. One of several does not wait for
    the others, which may wait for it."""
    if not jax.distributed.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(LATER)
    os._exit(status)
