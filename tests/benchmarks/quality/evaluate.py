"""The bits of each byte of a held-out text, each scored once."""

import numpy as np
from jaxtyping import Float, UInt8

from .data import Text
from .models import Model
from .programs import Programs


def bits_of_text(
    programs: Programs, carried, text: Text, before: Text, stride: int
) -> Float[np.ndarray, " bytes"]:
    """Bits of each byte, by rows of the model's context that end a stride apart. Of a
    row, the last `stride` bytes count; they have `context - stride` or more before.

    Args:
        programs, carried: the model.
        text: to score.
        before: the text that stands before it, which the first rows read.
        stride: bytes from row to row, at most the model's targets.

    Raises:
        ValueError: for a longer stride, or too little text before.
    """
    context = programs.context
    lead = context - stride
    if not 1 <= stride <= programs.targets:
        raise ValueError(
            f"`stride` must be 1 to {programs.targets} (targets), got {stride}."
        )
    check_before(programs, before, stride)
    count = -(-text.size // stride)
    whole = np.concatenate([before[before.size - lead :], text])
    # Bytes after the end are seen by none before it.
    whole = np.pad(whole, (0, count * stride - text.size))
    rows = np.lib.stride_tricks.sliding_window_view(whole, context)[::stride]
    bits = score_rows(programs, carried, rows)
    return bits[:, -stride:].reshape(-1)[: text.size]


def check_before(programs: Programs, before: Text, stride: int) -> None:
    """Refuse to score a text that has less before it than the first row reads.

    Raises:
        ValueError: with how much it must be.
    """
    lead = programs.context - stride
    if before.size < lead:
        raise ValueError(
            f"`before` must hold at least {lead} bytes, got {before.size}; of a larger "
            "--limit it holds more."
        )


def bits_restarted(
    programs: Programs, carried, text: Text, every: int
) -> Float[np.ndarray, " bytes"]:
    """Bits of each byte with no more before it than since the last multiple of `every`,
    at most the context of a model whose bytes are all targets."""
    count = -(-text.size // every)
    rows = np.pad(text, (0, count * every - text.size)).reshape(count, every)
    rows = np.pad(rows, ((0, 0), (0, programs.context - every)))
    return score_rows(programs, carried, rows)[:, :every].reshape(-1)[: text.size]


def stride_of(model: Programs | Model) -> int:
    """The stride of the scores that are compared: every byte of every model has at
    least 7/8 of the model's context before it."""
    return min(model.targets, max(1, model.context // 8))


def score_rows(
    programs: Programs, carried, rows: UInt8[np.ndarray, "rows context"]
) -> Float[np.ndarray, "rows targets"]:
    """The bits of the targets of any number of rows, some at a time."""
    found, at_once = [], programs.score_rows
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        padded = np.pad(some, ((0, at_once - len(some)), (0, 0)))
        # Read when all are on their way.
        found.append((programs.score(carried, padded), len(some)))
    return np.concatenate([np.asarray(bits)[:count] for bits, count in found])


def mean(bits: Float[np.ndarray, " bytes"]) -> float:
    """Bits per byte; infinite for what is no number, to be the worst of all."""
    value = float(bits.mean(dtype=np.float64))
    return value if np.isfinite(value) else float("inf")
