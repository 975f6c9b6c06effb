"""Curves: how inputs lose weight with age, and what bytes cost by their place."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from ..model import CausalPerceiver
from .drawing import SEEN, new_axes


if TYPE_CHECKING:
    import matplotlib.axes


def plot_rates(
    model: CausalPerceiver, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Draw the half-lives of a model's latents and heads: after how many steps an input
    has half the weight that it had when it came, all else alike.

    Args:
        model: with `recency`.
        ax: where to draw; `None` for a new figure.

    Returns:
        the axes drawn on.

    Raises:
        ValueError: the model has no rates.
    """
    rate = model.encoder.rate
    if rate is None:
        raise ValueError("`model` must have rates: build it with `recency=True`.")
    ax = ax or new_axes()
    half_lives = np.log(2) / np.asarray(rate, np.float64)
    latents, heads = half_lives.shape
    places = np.arange(latents * heads)
    ax.bar(places, half_lives.ravel(), color=SEEN, width=0.8)
    ax.set_yscale("log")
    ax.set_ylabel("half-life in steps")
    ax.set_xlabel("head" if latents == 1 else "latent, head")
    ax.set_xticks(places, [str(place % heads) for place in places])
    if latents > 1:
        middles = np.arange(latents) * heads + (heads - 1) / 2
        ax.set_xticks(middles, [str(latent) for latent in range(latents)], minor=True)
        ax.tick_params(axis="x", which="minor", length=0, pad=16)
        borders = np.arange(1, latents) * heads - 0.5
        ax.vlines(borders, *ax.get_ylim(), color="0.6", linewidth=0.6)
    return ax


def plot_bits(
    bits: Float[Array | np.ndarray, " positions"],
    *,
    bins: int = 40,
    ax: "matplotlib.axes.Axes | None" = None,
    label: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw what bytes cost by their place in a sequence, averaged over places whose
    number grows by the same factor from point to point.

    Args:
        bits: of each byte, or the mean of many sequences, in order; at least one.
        bins: how many points at most, at least 1.
        ax, label: where to draw, `None` for a new figure; what the curve is called.

    Returns:
        the axes drawn on.

    Raises:
        ValueError: for no byte at all, or no bin.
    """
    bits = np.asarray(bits, np.float64)
    if bits.size == 0 or bins < 1:
        raise ValueError(
            f"`bits` must hold at least one byte and `bins` be at least 1, got "
            f"{bits.size} and {bins}."
        )
    ax = ax or new_axes()
    edges = np.unique(np.geomspace(1, bits.size + 1, bins + 1).round().astype(int)) - 1
    sums = np.add.reduceat(bits, edges[:-1])
    middles = np.sqrt((edges[:-1] + 1.0) * edges[1:])
    ax.plot(middles, sums / np.diff(edges), marker=".", label=label)
    ax.set_xscale("log")
    ax.set_xlabel("place of the byte, the first is 1")
    ax.set_ylabel("bits per byte")
    if label is not None:
        ax.legend()
    return ax
