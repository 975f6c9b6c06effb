"""Tasks that are made up as they are asked for: to copy backwards, and to find.

Sequences may begin short and grow, at as many bytes a batch, up to `MOST_ROWS`
sequences: what is to be learnt is the same at every length, and a short one is tried
more often.
"""

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from .windows import Batch


# A line of a needle: @, a key, =, a value, and the end of the line.
KEY, VALUE = 6, 7
LINE = KEY + VALUE + 3
_A_TO_Z, _0_TO_9 = (97, 123), (48, 58)
# How much longer sequences become at once.
GROWTH = 8
# Sequences of a batch, at most.
MOST_ROWS = 128

# Makes rows of a length, of numbers that are drawn.
Make = Callable[[np.random.Generator, int, int], Batch]


def copy_backwards(rng: np.random.Generator, rows: int, length: int) -> Batch:
    """Bytes of any kind, and the same backwards.

    Source:
        Hawthorne et al., "Perceiver AR" (2022), §4.1.
    """
    context = rng.integers(0, 256, (rows, length), np.uint8)
    return _batch(np.ascontiguousarray(context[:, ::-1]), context)


class Needles(NamedTuple):
    """Lines of a key and its value, hidden in a text, and asked for in another order.

    Attributes:
        hay: the text, at least as long as a context.
        num_lines: how many lines are hidden, and asked for.
    """

    hay: np.ndarray
    num_lines: int

    def __call__(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """
        Raises:
            ValueError: so many lines have no room.
        """
        places = length // LINE
        if places <= self.num_lines or length > self.hay.size:
            raise ValueError(
                f"{self.num_lines} needles of {LINE} bytes need a context of more than "
                f"{LINE * self.num_lines} and at most {self.hay.size} bytes, got "
                f"{length}."
            )
        starts = rng.integers(0, self.hay.size - length, rows, endpoint=True)
        context = np.stack([self.hay[start : start + length] for start in starts])
        lines = np.empty((rows, self.num_lines, LINE), np.uint8)
        lines[..., 0], lines[..., KEY + 1], lines[..., -1] = b"@=\n"
        lines[..., 1 : KEY + 1] = rng.integers(*_A_TO_Z, (rows, self.num_lines, KEY))
        lines[..., KEY + 2 : -1] = rng.integers(*_0_TO_9, (rows, self.num_lines, VALUE))
        for row, of_row in zip(context, lines, strict=True):
            shift = rng.integers(0, length % LINE, endpoint=True)
            for place, line in zip(
                rng.choice(places, self.num_lines, replace=False), of_row, strict=True
            ):
                row[shift + place * LINE :][:LINE] = line
        target = np.stack([rng.permutation(of_row) for of_row in lines])
        return _batch(target.reshape(rows, -1), context)


def is_value(target_bytes: int) -> np.ndarray:
    """Which bytes of a target of `Needles` are those of the values."""
    place = np.arange(target_bytes) % LINE
    return (place > KEY + 1) & (place < LINE - 1)


def _batch(target: np.ndarray, context: np.ndarray) -> Batch:
    rows = len(target)
    return {
        "bytes": target,
        "length": np.full(rows, target.shape[1], np.int32),
        "context": context,
        "context_length": np.full(rows, context.shape[1], np.int32),
    }


def lengths_of(full: int, shortest: int | None, steps: int) -> list[tuple[int, int]]:
    """How long sequences are, and from which step on, counted from 0: the shortest
    for half of the steps.

    Args:
        full: the length in the end.
        shortest: none is shorter; `None` to begin with the full length.
    """
    lengths = [full]
    while shortest is not None and lengths[0] // GROWTH >= shortest:
        lengths.insert(0, lengths[0] // GROWTH)
    later = max(len(lengths) - 1, 1)
    begins = [0] + [steps * (later + at) // (2 * later) for at in range(later)]
    return list(zip(lengths, begins, strict=False))


def growing(
    make: Make,
    lengths: list[tuple[int, int]],
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
) -> Generator[Batch, None, None]:
    """Yields batches without end. Batch n depends on the arguments and n alone.

    Args:
        lengths: as `lengths_of` gives them.
        batch_size: sequences of the full length in a batch; of shorter ones, as many
            times more as make up for it, up to `MOST_ROWS`.
        start: number of the first batch.
    """
    full, number = lengths[-1][0], start
    while True:
        length = max(n for n, begin in lengths if begin <= number)
        rng = np.random.default_rng((seed, 0, number))
        more = min(batch_size * full // length, MOST_ROWS) // batch_size
        yield make(rng, max(more, 1) * batch_size, length)
        number += 1


def fresh(
    make: Make, length: int, *, rows: int, batch_size: int, seed: int
) -> Generator[Batch, None, None]:
    """Yields batches of sequences that no training makes, of so many rows in all or a
    few more."""
    for number in range(math.ceil(rows / batch_size)):
        yield make(np.random.default_rng((seed, 1, number)), batch_size, length)
