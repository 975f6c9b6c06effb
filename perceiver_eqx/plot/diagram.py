"""A diagram of a model, made from the model itself: its parts, what they hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import equinox as eqx

from ..summary import Part, parts_of


if TYPE_CHECKING:
    import matplotlib.axes


LINE, INDENT = 1.0, 0.35
FILLS = ("#f7fbff", "#deebf7", "#c6dbef")


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
        count = f"{part.numbers:,} parameters" if level == 0 else f"{part.numbers:,}"
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
