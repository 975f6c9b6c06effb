"""A diagram of a model, made from the model itself: its parts, what they hold."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import equinox as eqx
import jax


if TYPE_CHECKING:
    import matplotlib.axes


LINE, INDENT = 1.0, 0.35
FILLS = ("#f7fbff", "#deebf7", "#c6dbef")


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: of the field that holds it, or what it was called.
        kind: the name of its class.
        parameters: how many numbers it has.
        shapes: the shapes of its own arrays, by name.
        parts: those that it is made of.
    """

    name: str
    kind: str
    parameters: int
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


def parts_of(model: eqx.Module, depth: int = 2, name: str = "") -> Part:
    """A model as a tree of its parts, in the order of their fields.

    Args:
        model: any module; shapes in place of arrays will do.
        depth: how deep to look: 0 for the whole alone.
        name: what to call it.
    """
    held = {field.name: getattr(model, field.name, None) for field in fields(model)}
    arrays = {
        name: x.shape for name, x in held.items() if x is not None and _is_array(x)
    }
    modules = {name: x for name, x in held.items() if isinstance(x, eqx.Module)}
    return Part(
        name,
        type(model).__name__,
        sum(x.size for x in jax.tree.leaves(model) if _is_array(x)),
        arrays,
        tuple(parts_of(x, depth - 1, name) for name, x in modules.items())
        if depth
        else (),
    )


def diagram(
    model: eqx.Module,
    *,
    depth: int = 2,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw a model as boxes in boxes, each with its number of parameters and the shapes
    of its own arrays, from where data comes in to where it goes out.

    Args:
        model, depth: as of `parts_of`.
        ax: where to draw; `None` for a new figure of the right height.

    Returns:
        the axes drawn on.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    boxes = list(_boxes(parts_of(model, depth), 0.0, 0))
    bottom = max(top + height for _, top, height, _ in boxes)
    if ax is None:
        figure = plt.figure(figsize=(8, 0.34 * bottom + 0.2), layout="constrained")
        ax = figure.subplots()
    for part, top, height, level in boxes:
        left = INDENT * level
        box = FancyBboxPatch(
            (left, top),
            12 - 2 * left,
            height,
            boxstyle="round,pad=0,rounding_size=0.15",
            facecolor=FILLS[level % len(FILLS)],
            edgecolor="#08306b",
        )
        ax.add_patch(box)
        row = {"y": top + LINE / 2, "va": "center", "fontsize": "small"}
        ax.text(x=left + 0.2, s=part.title, **row)
        ax.text(x=8.9, s=part.told_shapes, ha="right", color="0.35", **row)
        count = (
            f"{part.parameters:,} parameters" if level == 0 else f"{part.parameters:,}"
        )
        ax.text(x=11.8 - left, s=count, ha="right", **row)
    ax.set_xlim(-0.1, 12.1)
    ax.set_ylim(bottom + 0.1, -0.1)
    ax.set_axis_off()
    return ax


def _boxes(
    part: Part, top: float, level: int
) -> Iterator[tuple[Part, float, float, int]]:
    """The box of a part and those in it: where it begins, how high it is, how deep it
    lies."""
    inner, below = [], top + LINE
    for each in part.parts:
        found = list(_boxes(each, below, level + 1))
        inner += found
        below += found[0][2] + 0.2
    height = below - top + (0.1 if part.parts else 0.0)
    yield part, top, height, level
    yield from inner


def _is_array(x) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)
