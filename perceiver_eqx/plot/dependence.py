"""What outputs depend on, measured, over what they may depend on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from .drawing import BLUES, ORANGES, SEEN, UNSEEN, new_axes, number


if TYPE_CHECKING:
    import matplotlib.axes


LEAK, DEAD = "leak: not allowed, depends", "dead: allowed, does not depend"


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

    Raises:
        TypeError: for inputs that have no gradient, such as bytes.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            "`inputs` must be floating-point to have a gradient, got "
            f"{inputs.dtype}. Of a model of bytes, change one and see which outputs "
            "move, or pass its `perceiver`."
        )

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
    ax = ax or new_axes()
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
    number(ax.yaxis, "output step", measured.shape[0])
    number(ax.xaxis, column_name, measured.shape[1])
    if legend:
        seen = Patch(color=SEEN, label="allowed, depends")
        unseen = Patch(color=UNSEEN, label="not allowed, does not depend")
        handles, where = [seen, unseen, cross, ring], "outside lower center"
        ax.figure.legend(handles=handles, loc=where, ncols=2, fontsize="small")
    ax.set_title(title or "")
    return ax
