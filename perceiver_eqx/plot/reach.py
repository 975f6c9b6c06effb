"""How far back the outputs of a step reach through the windows of all layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from .drawing import SEEN, UNSEEN, new_axes, number


if TYPE_CHECKING:
    import matplotlib.axes


def reached(
    windows: Sequence[int | None], steps: int
) -> Bool[np.ndarray, "depths steps"]:
    """Which steps' latents the outputs of the last one depend on, at every depth.

    Args:
        windows: of the layers, the first one first, each at least 1 or `None` for all.
        steps: of the sequence, at least 1.

    Returns:
        in row `l`, those before layer `l`; in the last row, the last step alone.
    """
    found = [np.arange(steps) == steps - 1]
    age = np.subtract.outer(np.arange(steps), np.arange(steps))
    for window in reversed(windows):
        seen = (age >= 0) & (age < (steps if window is None else window))
        found.append(seen[found[-1]].any(0))
    return np.stack(found[::-1])


def plot_reach(
    windows: Sequence[int | None],
    steps: int,
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw `reached`, the outputs on top.

    Args:
        windows, steps: as of `reached`.
        ax, title: where to draw, `None` for a new figure; what to write above.

    Returns:
        the axes drawn on.
    """
    from matplotlib.colors import ListedColormap

    ax = ax or new_axes()
    found = reached(windows, steps)
    ax.imshow(
        found,
        cmap=ListedColormap([UNSEEN, SEEN]),
        vmin=0,
        vmax=1,
        origin="lower",
        aspect="auto",
    )
    names = [
        f"into layer {layer}, which sees {'all' if window is None else window}"
        for layer, window in enumerate(windows)
    ]
    ax.set_yticks(range(len(found)), [*names, "outputs of the last step"])
    ax.hlines(np.arange(len(windows)) + 0.5, -0.5, steps - 0.5, color="w", linewidth=2)
    number(ax.xaxis, "step", steps)
    ax.set_title(title or "")
    return ax
