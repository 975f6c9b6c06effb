"""Pairs as batches of few shapes: filled up, and told how far."""

from collections.abc import Generator, Sequence

import numpy as np

from .pairs import END, Pair
from .windows import Batch


# Short pairs are not filled up to the longest: a pair is filled up to the smallest of
# these parts of the sizes that both its texts fit in. Each part compiles once.
PARTS = 4, 2, 1


class Examples:
    """Pairs as arrays of one of three shapes.

    Args:
        pairs: at least one.
        window_bytes: room for a target and the byte that ends it, a multiple of
            `per_step`.
        context_bytes: room for a source, at least 1; `None` for targets alone.
        per_step: bytes of a step of the model.
        end: what each target is to end with.

    Raises:
        ValueError: a pair finds no room; the longest is told.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        window_bytes: int,
        context_bytes: int | None,
        per_step: int,
        end: bytes = END,
    ):
        target = max(len(p.target) for p in pairs) + len(end)
        source = max(len(p.source) for p in pairs)
        for name, room, longest in (
            ("window_bytes", window_bytes, target),
            ("context_bytes", context_bytes, source),
        ):
            if room is not None and longest > room:
                raise ValueError(
                    f"`{name}` must have room for the longest text of a pair (a target "
                    f"with its end), {longest} bytes, got {room}."
                )
        self.pairs, self.end = pairs, end
        self.has_sources = context_bytes is not None
        steps, context = window_bytes // per_step, context_bytes or 0
        self.shapes = [
            (-(-steps // part) * per_step, -(-context // part)) for part in PARTS
        ]
        self.shape_of = [
            next(
                at
                for at, (target, source) in enumerate(self.shapes)
                if len(pair.target + end) <= target and len(pair.source) <= source
            )
            for pair in pairs
        ]

    def batch(self, shape: int, numbers: Sequence[int], size: int) -> Batch:
        """Some pairs of one shape, and after them as many of no length as are missing
        of `size`."""
        target_bytes, source_bytes = self.shapes[shape]
        found = {
            "bytes": np.zeros((size, target_bytes), np.uint8),
            "length": np.zeros(size, np.int32),
        }
        if self.has_sources:
            found["context"] = np.zeros((size, source_bytes), np.uint8)
            found["context_length"] = np.zeros(size, np.int32)
        for row, number in enumerate(numbers):
            pair = self.pairs[number]
            texts = {"bytes": pair.target + self.end, "context": pair.source}
            for name, length in (("bytes", "length"), ("context", "context_length")):
                if name in found:
                    text = texts[name]
                    found[name][row, : len(text)] = np.frombuffer(text, np.uint8)
                    found[length][row] = len(text)
        return found


def training_pairs(
    examples: Examples, *, batch_size: int, seed: int, start: int = 0
) -> Generator[Batch, None, None]:
    """Yields batches without end, in an order that each epoch shuffles afresh.

    Each pair comes once in an epoch, in a batch of pairs of its shape; the last batch
    of a shape is filled up with pairs of no length. Batch n depends on the pairs, the
    sizes, `seed` and n alone.

    Args:
        batch_size: pairs of a batch, at least 1.
        seed: of the order, at least 0.
        start: number of the first batch, at least 0.
    """
    per_epoch = len(_batches(examples, np.arange(len(examples.pairs)), batch_size))
    epoch, at = divmod(start, per_epoch)
    while True:
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(examples.pairs))
        batches = _batches(examples, order, batch_size)
        for number in rng.permutation(per_epoch)[at:]:
            shape, numbers = batches[number]
            yield examples.batch(shape, numbers, batch_size)
        epoch, at = epoch + 1, 0


def validation_pairs(
    examples: Examples, *, batch_size: int, max_bytes: int | None = None
) -> Generator[Batch, None, None]:
    """Yields pairs once each, of one shape after the other.

    Args:
        batch_size: pairs of a batch, at least 1.
        max_bytes: about how many bytes of targets to read, of pairs spread evenly, at
            least one; `None` for all.
    """
    count = len(examples.pairs)
    total = sum(len(pair.target + examples.end) for pair in examples.pairs)
    if max_bytes is not None and total > max_bytes:
        count = max(1, count * max_bytes // total)
    chosen = np.arange(count) * len(examples.pairs) // count
    for shape, numbers in _batches(examples, chosen, batch_size):
        yield examples.batch(shape, numbers, batch_size)


def _batches(
    examples: Examples, order: np.ndarray, batch_size: int
) -> list[tuple[int, list[int]]]:
    """The shape of each batch, and the numbers of its pairs."""
    by_shape: list[list[int]] = [[] for _ in examples.shapes]
    for number in order.tolist():
        by_shape[examples.shape_of[number]].append(number)
    return [
        (shape, numbers[first : first + batch_size])
        for shape, numbers in enumerate(by_shape)
        for first in range(0, len(numbers), batch_size)
    ]
