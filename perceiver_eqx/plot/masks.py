"""Masks: of any `StepMask`, of any Boolean array, of a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Bool

from ..attention.masks import StepMask
from ..model import CausalPerceiver
from .drawing import CONTEXT, PAST, SEEN, UNSEEN, new_axes, number


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def plot_mask(
    mask: StepMask | Bool[Array | np.ndarray, "q_len kv_len"],
    *,
    query_name: str = "latent",
    key_name: str = "latent",
    context: int = 0,
    ax: "matplotlib.axes.Axes | None" = None,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a mask written out: a dark cell where the row may see the column, and a
    hatched one where only a window keeps it from doing so.

    Args:
        mask: a `StepMask`, drawn with its steps, or an array, true where allowed.
        query_name, key_name: what a row and a column of a `StepMask` are.
        context: tokens that all rows see besides, drawn to the left.
        ax, title: where to draw, `None` for a new figure; what to write above.

    Returns:
        the axes drawn on.
    """
    from matplotlib.colors import ListedColormap

    ax = ax or new_axes()
    dense = np.asarray(mask.dense() if isinstance(mask, StepMask) else mask)
    rows, columns = dense.shape
    ax.imshow(dense, cmap=ListedColormap([UNSEEN, SEEN]), vmin=0, vmax=1)
    if isinstance(mask, StepMask):
        _hatch_past(ax, mask, dense)
        height, width = mask.queries_per_step, mask.keys_per_step
        first = int(mask.query_start)
        number(ax.yaxis, f"query: step, {query_name}", rows, height, first)
        number(ax.xaxis, f"key: step, {key_name}", columns, width)
        line = {"color": "0.6", "linewidth": 0.6}
        ax.hlines(np.arange(height, rows, height) - 0.5, -0.5, columns - 0.5, **line)
        ax.vlines(np.arange(width, columns, width) - 0.5, -0.5, rows - 0.5, **line)
    else:
        number(ax.yaxis, "query", rows)
        number(ax.xaxis, "key", columns)
    if context:
        # Beside the keys, a column of space between them.
        left, right = -context - 1.5, -1.5
        edges = (left, right, rows - 0.5, -0.5)
        everything = np.ones((rows, context))
        ax.imshow(everything, cmap=ListedColormap([CONTEXT]), extent=edges)
        ax.set_xlim(left, columns - 0.5)
        middle = (left + right) / 2
        ax.text(middle, -0.8, "context", ha="center", va="bottom", fontsize="small")
    ax.set_title(title or "", pad=18 if context else None)
    return ax


def _hatch_past(
    ax: "matplotlib.axes.Axes", mask: StepMask, dense: Bool[np.ndarray, "q_len kv_len"]
) -> None:
    """Marks what a window leaves out of the past, a bar for each run of columns."""
    if mask.window is None:
        return
    whole = StepMask(
        mask.query_steps,
        mask.key_steps,
        mask.queries_per_step,
        mask.keys_per_step,
        None,
        mask.query_start,
        mask.key_start,
    )
    left_out = np.asarray(whole.dense()) & ~dense
    widths = left_out.sum(1)
    first = left_out.argmax(1)
    some = np.nonzero(widths)[0]
    bars = ax.barh(some, widths[some], 1.0, first[some] - 0.5, color=PAST, lw=0)
    for bar in bars:
        bar.set_hatch("////")
        bar.set_edgecolor("white")


def plot_masks(
    masks: "Mapping[str, StepMask | Bool[Array | np.ndarray, 'q_len kv_len']]",
    *,
    key_names: Sequence[str] | None = None,
    **options,
) -> "matplotlib.figure.Figure":
    """Draw masks side by side, each below its name, and explain their colours.

    Args:
        masks: by name, at least one.
        key_names: what a column of each is; `None` for latents.
        options: others of `plot_mask`, for all.

    Raises:
        ValueError: for no mask, or another number of names.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    key_names = ["latent"] * len(masks) if key_names is None else key_names
    if not masks or len(key_names) != len(masks):
        raise ValueError(
            "`masks` must hold at least one mask, and `key_names` a name for each, got "
            f"{len(masks)} and {len(key_names)}."
        )
    figure = plt.figure(figsize=(3.8 * len(masks), 4.4), layout="constrained")
    axes = figure.subplots(1, len(masks), squeeze=False)[0]
    for ax, name, key_name in zip(axes, masks, key_names, strict=True):
        plot_mask(masks[name], ax=ax, title=name, key_name=key_name, **options)
    handles = [Patch(color=SEEN, label="seen"), Patch(color=UNSEEN, label="not seen")]
    if any(getattr(mask, "window", None) is not None for mask in masks.values()):
        past = Patch(
            facecolor=PAST, edgecolor="white", label="past, outside the window"
        )
        past.set_hatch("////")
        handles.insert(1, past)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, borderaxespad=0.1
    )
    return figure


def model_masks(model: CausalPerceiver, steps: int) -> dict[str, StepMask]:
    """The masks of a model for a sequence of so many steps, at least 1: that of its
    latents to the inputs, and one for each window between latents."""
    encoder, windows = model.encoder, model.processor.windows
    latents = encoder.latents.shape[0]
    found = {
        "latents to inputs": StepMask(steps, steps, latents, encoder.tokens_per_step)
    }
    for window in dict.fromkeys(windows):
        reach = "all steps" if window is None else f"a window of {window}"
        name = f"latents to latents, {reach}"
        found[name] = StepMask(steps, steps, latents, latents, window)
    return found


def plot_model_masks(model: CausalPerceiver, steps: int) -> "matplotlib.figure.Figure":
    """Draw `model_masks`, side by side."""
    masks = model_masks(model, steps)
    key_names = ["token", *["latent"] * (len(masks) - 1)]
    return plot_masks(masks, key_names=key_names)
