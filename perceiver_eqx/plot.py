"""Pictures of masks: what may be seen, and what is. Only drawing needs matplotlib."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from .attention.masks import StepMask


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis


# Blue and orange are told apart by all kinds of colour vision; marks say it again.
SEEN, UNSEEN = "#08306b", "#e6e6e6"
BLUES, ORANGES = ("#c6dbef", SEEN), ("#fee6ce", "#e6550d")
LEAK, DEAD = "leak: not allowed, depends", "dead: allowed, does not depend"
MOST_LABELS = 12  # of an axis: more do not fit


def plot_mask(
    mask: StepMask | Bool[Array | np.ndarray, "q_len kv_len"],
    *,
    query_name: str = "latent",
    key_name: str = "latent",
    ax: "matplotlib.axes.Axes | None" = None,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a mask written out: a dark cell where the row may see the column.

    Args:
        mask: a `StepMask`, drawn with its steps, or an array, true where allowed.
        query_name, key_name: what a row and a column of a `StepMask` are.
        ax, title: where to draw, `None` for a new figure; what to write above.

    Returns:
        the axes drawn on.
    """
    from matplotlib.colors import ListedColormap

    ax = ax or _new_axes()
    dense = np.asarray(mask.dense() if isinstance(mask, StepMask) else mask)
    rows, columns = dense.shape
    ax.imshow(dense, cmap=ListedColormap([UNSEEN, SEEN]), vmin=0, vmax=1)
    if isinstance(mask, StepMask):
        height, width = mask.queries_per_step, mask.keys_per_step
        first = int(mask.query_start)
        _number(ax.yaxis, f"query: step, {query_name}", rows, height, first)
        _number(ax.xaxis, f"key: step, {key_name}", columns, width)
        line = {"color": "0.6", "linewidth": 0.6}
        ax.hlines(np.arange(height, rows, height) - 0.5, -0.5, columns - 0.5, **line)
        ax.vlines(np.arange(width, columns, width) - 0.5, -0.5, rows - 0.5, **line)
    else:
        _number(ax.yaxis, "query", rows)
        _number(ax.xaxis, "key", columns)
    ax.set_title(title or "")
    return ax


@eqx.filter_jit
def dependence(
    model: Callable[..., Array],
    inputs: Float[Array, "steps tokens input_dim"],
    context: Float[Array, "source context_dim"] | None = None,
) -> tuple[Float[Array, "steps steps"], Float[Array, "steps source"] | None]:
    """By gradient: how much the outputs of each step depend on each step of the inputs
    and on each token of the context.

    Each step's outputs are projected to one number, by weights that are random but the
    same for all steps. The absolute values of its gradient are summed.

    Args:
        model: a `CausalPerceiver`, or a function of inputs and context like it.
        inputs: where the gradient is taken.
        context: tokens that every step sees; `None` for none.

    Returns:
        by output and input step; by output step and context token, if there are any.
    """

    def outputs_of(inputs, context):
        outputs = model(inputs, context)
        weights = jr.normal(jr.key(0), outputs.shape[1:], outputs.dtype)
        return jnp.sum(outputs * weights, (1, 2))

    by_input, by_context = jax.jacrev(outputs_of, (0, 1))(inputs, context)
    by_context = None if context is None else jnp.abs(by_context).sum(2)
    return jnp.abs(by_input).sum((2, 3)), by_context


def plot_dependence(
    measured: Float[Array | np.ndarray, "steps columns"],
    allowed: Bool[Array | np.ndarray, "steps columns"],
    *,
    column_name: str = "input step",
    legend: bool = True,
    ax: "matplotlib.axes.Axes | None" = None,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw measured dependence over the mask that allows it, so that a leak (measured,
    not allowed) and a dead path (allowed, not measured) stand out.

    Args:
        measured: as `dependence` returns it, at least 0. Drawn on a log scale.
        allowed: true where the step may depend on the column.
        column_name, legend: what a column is; whether to explain marks below.
        ax, title: where to draw, `None` for a new figure; what to write above.

    Returns:
        the axes drawn on.

    Raises:
        ValueError: for shapes that differ, or a value negative or not finite.
    """
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap, LogNorm
    from matplotlib.patches import Patch

    measured, allowed = np.asarray(measured, np.float64), np.asarray(allowed)
    if measured.shape != allowed.shape:
        shapes = f"{measured.shape} and {allowed.shape}"
        raise ValueError(f"`measured` and `allowed` must match in shape, got {shapes}.")
    if not np.all(np.isfinite(measured) & (measured >= 0)):
        raise ValueError("`measured` must be finite and at least 0 in every cell.")
    ax = ax or _new_axes()
    there = measured > 0
    leaks, dead = there & ~allowed, allowed & ~there
    ax.imshow(allowed, cmap=ListedColormap([UNSEEN, "white"]), vmin=0, vmax=1)
    strengths = measured[there] if there.any() else np.ones(1)
    scale = LogNorm(strengths.min() / 1.5, strengths.max() * 1.5)
    for colours, hidden in ((ORANGES, ~leaks), (BLUES, ~there | leaks)):
        cmap = LinearSegmentedColormap.from_list("", colours)
        image = ax.imshow(np.ma.array(measured, mask=hidden), cmap=cmap, norm=scale)
    ax.figure.colorbar(image, ax=ax, label="dependence", fraction=0.046, pad=0.04)
    cross = ax.scatter(*np.nonzero(leaks.T), marker="x", color="black", label=LEAK)
    ring = ax.scatter(*np.nonzero(dead.T), fc="none", ec="black", label=DEAD)
    _number(ax.yaxis, "output step", measured.shape[0])
    _number(ax.xaxis, column_name, measured.shape[1])
    if legend:
        seen = Patch(color=SEEN, label="allowed, depends")
        unseen = Patch(color=UNSEEN, label="not allowed, does not depend")
        handles, where = [seen, unseen, cross, ring], "outside lower center"
        ax.figure.legend(handles=handles, loc=where, ncols=2, fontsize="small")
    ax.set_title(title or "")
    return ax


def _new_axes() -> "matplotlib.axes.Axes":
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").subplots()


def _number(axis: "matplotlib.axis.Axis", text: str, length, per_step=1, first=0):
    """Number the steps of an axis and, where they fit, the rows or columns in each."""
    steps = np.arange(0, length // per_step, -(-length // per_step // MOST_LABELS))
    axis.set_label_text(text)
    axis.set_ticks((steps + 0.5) * per_step - 0.5, [str(first + t) for t in steps])
    if 1 < per_step and length <= 3 * MOST_LABELS:
        axis.remove_overlapping_locs = False
        inside = [str(i % per_step) for i in range(length)]
        axis.set_ticks(np.arange(length), inside, minor=True)
        axis.set_tick_params(which="minor", length=0, labelsize="x-small")
        axis.set_tick_params(which="major", length=0, pad=14)
