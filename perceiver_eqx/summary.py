"""What a model or a state is: told in a line; in a notebook, as a tree that opens."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from html import escape
from typing import Any, ClassVar

import equinox as eqx
import jax


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: of the field that holds it, or what it was called.
        kind: the name of its class.
        numbers: how many it has in its arrays.
        shapes: the shapes of its own arrays, by name.
        parts: those that it is made of.
    """

    name: str
    kind: str
    numbers: int
    shapes: dict[str, tuple[int, ...]]
    parts: tuple["Part", ...]

    @property
    def title(self) -> str:
        """What it is called, and what it is."""
        return f"{self.name}: {self.kind}" if self.name else self.kind

    @property
    def told_shapes(self) -> str:
        """Its own arrays, in a line."""
        return ", ".join(
            f"{name} {' × '.join(map(str, shape)) or 'one number'}"
            for name, shape in self.shapes.items()
        )


def parts_of(module: eqx.Module, depth: int = 2, name: str = "") -> Part:
    """A module as a tree of its parts, in the order of their fields.

    Args:
        module: any; shapes in place of arrays will do.
        depth: how deep to look: 0 for the whole alone.
        name: what to call it.
    """
    held = {field.name: getattr(module, field.name, None) for field in fields(module)}
    there = {name: x for name, x in held.items() if x is not None}
    arrays = {name: x.shape for name, x in there.items() if _is_array(x)}
    parts = []
    if depth:
        for name_of, value in there.items():
            for called, part in _modules(name_of, value):
                parts.append(parts_of(part, depth - 1, called))
    total = sum(x.size for x in jax.tree.leaves(module) if _is_array(x))
    return Part(name, type(module).__name__, total, arrays, tuple(parts))


def as_html(part: Part, counted: str = "") -> str:
    """A tree whose branches open, the first one open.

    Args:
        counted: what its numbers are.
    """
    return f'<div style="font-family: monospace">{_tree(part, counted, True)}</div>'


class Told(eqx.Module):
    """Modules that say what they are in a line; `eqx.tree_pprint` of a field tells all
    of it."""

    counted: ClassVar[str] = "parameters"

    def __repr__(self) -> str:
        whole = parts_of(self, 1)
        line = f"{whole.kind}: {whole.numbers:,} {self.counted}"
        own = [f"{part.name} {part.numbers:,}" for part in whole.parts if part.numbers]
        return f"{line}: {', '.join(own)}" if own else line

    def _repr_html_(self) -> str:
        return as_html(parts_of(self, 3), self.counted)


def _modules(name: str, value: Any) -> Iterator[tuple[str, eqx.Module]]:
    """The modules of a field: itself, or those in a tuple or dictionary."""
    if isinstance(value, eqx.Module):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _modules(f"{name}[{key!r}]", each)
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from _modules(f"{name}[{index}]", each)


def _tree(part: Part, counted: str, opened: bool) -> str:
    line = f"{escape(part.title)} <b>{part.numbers:,}</b> {escape(counted)}"
    if part.shapes:
        line += f' <span style="opacity: 0.7">{escape(part.told_shapes)}</span>'
    if not part.parts:
        return f'<div style="margin-left: 1em">{line}</div>'
    inner = "".join(_tree(each, "", False) for each in part.parts)
    how = " open" if opened else ""
    return (
        f'<details{how} style="margin-left: 1em"><summary>{line}</summary>'
        f"{inner}</details>"
    )


def _is_array(x: Any) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)
