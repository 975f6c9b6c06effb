"""What the devices of a mesh tell each other in a compiled program, by reading it."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh


KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        kind: what XLA calls it.
        axes: of the mesh, along which devices exchange; all of them for other groups.
        group: how many devices exchange with each other.
        reach: how many devices in a row, in the order of the mesh, a group lies over.
        result_bytes: of what a device has after it.
        times: how often it runs, in the loops that it stands in.
        name: the operation that it is for, as JAX calls it.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    reach: int
    result_bytes: int
    times: int
    name: str

    @property
    def sent_bytes(self) -> int:
        """What each device sends each time, by the best known algorithm: around a ring
        for those of many devices."""
        others = self.group - 1
        if self.kind == "collective-permute":
            return self.result_bytes
        if self.kind == "reduce-scatter":
            return self.result_bytes * others
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.result_bytes * others // self.group


def collectives(compiled: Any, mesh: Mesh) -> list[Collective]:
    """All exchanges of a compiled program (`jax.stages.Compiled`) between more than one
    device."""
    computations = dict(_computations(compiled.as_text()))
    times: dict[str, int] = defaultdict(int)
    _count(computations, next(iter(computations)), 1, times)
    found = []
    for name, lines in computations.items():
        for line in lines:
            exchange = _exchange(line, mesh, times[name])
            if exchange is not None and exchange.group > 1 and exchange.times:
                found.append(exchange)
    return found


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of each computation, those of the entry first."""
    found: list[tuple[bool, str, list[str]]] = []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            found.append((head[1] is None, head[2], []))
        elif found and line.startswith("  "):
            found[-1][2].append(line)
    for _, name, lines in sorted(found, key=lambda each: each[0]):
        yield name, lines


def _count(
    computations: dict[str, list[str]], name: str, passes: int, times: dict[str, int]
) -> None:
    """Adds how often each computation runs, if this one does so many times."""
    times[name] += passes
    for line in computations.get(name, ()):
        loop = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        rounds = int(loop[1]) if loop and " while(" in line else 1
        called = re.findall(
            r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)",
            line,
        )
        for some in re.findall(r"(?:branch|called)_computations=\{([^}]*)\}", line):
            called += re.findall(r"%?([\w.\-]+)", some)
        for inner in called:
            _count(computations, inner, passes * rounds, times)


def _exchange(line: str, mesh: Mesh, times: int) -> Collective | None:
    kinds = "|".join(KINDS)
    found = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
    if found is None:
        return None
    kind, starts = found[2], found[3] is not None
    shapes = [_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1])]
    if starts and kind in ("all-gather", "collective-permute"):
        # Operands stand before results, and what is read besides after them.
        shapes = shapes[len(shapes) // 2 :] if kind == "all-gather" else shapes[1:2]
    groups = _groups(line)
    told = re.search(r'op_name="([^"]*)"', line)
    return Collective(
        kind,
        _axes(groups, mesh),
        max(map(len, groups), default=mesh.size),
        max((max(each) - min(each) + 1 for each in groups), default=mesh.size),
        sum(shapes),
        times,
        told[1] if told else "",
    )


def _bytes(dtype: str, sizes: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = BITS.get(dtype) or int(digits[0] if digits else 8)
    return int(np.prod([int(n) for n in sizes.split(",") if n], dtype=np.int64)) * (
        -(-bits // 8)
    )


def _groups(line: str) -> list[list[int]]:
    """Which devices exchange with each other; none for all of them."""
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", line)
    if pairs:
        found = re.findall(r"(\d+),(\d+)", pairs[1])
        return _rings([(int(source), int(target)) for source, target in found])
    counted = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](T\(([\d,]+)\))?", line
    )
    if counted:
        shape, dims = ([int(n) for n in counted[i].split(",")] for i in (1, 2))
        ids = np.arange(np.prod(dims)).reshape(dims)
        if counted[4]:
            ids = ids.transpose([int(n) for n in counted[4].split(",")])
        return ids.reshape(shape).tolist()
    listed = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
    if listed:
        return [
            [int(n) for n in group.split(",") if n]
            for group in re.findall(r"\{([\d,]*)\}", listed[1])
        ]
    return []


def _rings(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """The devices that are joined by pairs of a source and a target."""
    group = {device: {device} for pair in pairs for device in pair}
    for one, other in pairs:
        joined = group[one] | group[other]
        for device in joined:
            group[device] = joined
    return [sorted(each) for each in {frozenset(each) for each in group.values()}]


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The axes along which the devices of a group differ."""
    # XLA counts devices in the order of the mesh.
    order = list(np.ndindex(mesh.devices.shape))
    differ = set()
    for group in groups or [list(range(mesh.size))]:
        at = np.array([order[member] for member in group])
        differ |= {
            axis
            for axis, column in zip(mesh.axis_names, at.T, strict=True)
            if len(set(column.tolist())) > 1
        }
    return tuple(axis for axis in mesh.axis_names if axis in differ)
