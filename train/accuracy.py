"""How many bytes a model says right, each from its context and the bytes before it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from matplotlib.figure import Figure

from perceiver_eqx import ByteLM

from .data.windows import Batch


class Accuracy(NamedTuple):
    """Shares of what is right.

    Attributes:
        bytes: of the bytes that count.
        rows: of the sequences, all of whose bytes that count are.
        sequences: how many there were.
    """

    bytes: float
    rows: float
    sequences: int


def accuracy(
    model: ByteLM,
    batches: Iterable[Batch],
    counts: Callable[[int], np.ndarray] | None = None,
) -> Accuracy:
    """The likeliest bytes beside the true ones.

    Args:
        batches: sequences with their contexts.
        counts: which bytes count, of a target of so many; `None` for all.

    Raises:
        ValueError: there is no byte that counts.
    """
    right = eqx.filter_jit(jax.vmap(_right, (None, 0, 0, 0)))
    shares, rows, weights = [], [], []
    for batch in batches:
        given = (batch[name] for name in ("bytes", "context", "context_length"))
        found = np.asarray(right(model, *map(jnp.asarray, given)))
        places = np.arange(found.shape[1])
        which = places < batch["length"][:, None]
        if counts is not None:
            which &= counts(found.shape[1])
        for row, of_row in zip(found, which, strict=True):
            if of_row.any():
                shares.append(row[of_row].mean())
                rows.append(row[of_row].all())
                weights.append(of_row.sum())
    if not weights:
        raise ValueError("`batches` must hold at least one byte that counts, got none.")
    return Accuracy(
        float(np.average(shares, weights=weights)), float(np.mean(rows)), len(rows)
    )


def _right(model: ByteLM, data, context, length) -> Bool[Array, " bytes"]:
    tokens = data.reshape(-1, model.bytes_per_step)
    logits = model(tokens, context, context_length=length)
    return logits.argmax(-1).ravel() == data


def plot_accuracy(found: Mapping[int, Accuracy], task: str, picture: Path) -> None:
    """Draws what is right of each length of a context.

    Args:
        picture: the file, of a kind that matplotlib knows by its suffix.
    """
    figure = Figure(figsize=(6, 3.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    lengths = sorted(found)
    axes.plot(lengths, [found[n].bytes for n in lengths], "o-", label="bytes")
    axes.plot(lengths, [found[n].rows for n in lengths], "s--", label="sequences")
    axes.set(xlabel="bytes of the context", ylabel="share that is right", title=task)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.02, 1.02)
    axes.legend()
    figure.savefig(picture)
