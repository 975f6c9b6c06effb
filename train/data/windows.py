"""Windows of a byte stream, batched: shuffled without end, or once through in order."""

from collections.abc import Iterator

import grain
import numpy as np
from jaxtyping import UInt8

from .stream import ByteStream


Batch = dict[str, np.ndarray]

# Windows, not batches. Grain's own infinity overflows in batches of one, since it
# counts batches in floating point.
_ENDLESS = 1 << 52


class Windows:
    """A stream cut into windows of one length, by number.

    Every byte lies in exactly one window. The last window is filled up with zeros.

    Args:
        stream: the bytes.
        window_bytes: the length of each window, in bytes, at least 1.

    Raises:
        ValueError: `window_bytes` is less than 1.
    """

    def __init__(self, stream: ByteStream, window_bytes: int):
        if window_bytes < 1:
            raise ValueError(f"`window_bytes` must be at least 1; got {window_bytes}.")
        self.stream = stream
        self.window_bytes = window_bytes

    def __len__(self) -> int:
        return -(-len(self.stream) // self.window_bytes)

    def __getitem__(self, index: int) -> Batch:
        """Reads one window.

        Args:
            index: its number, in [0, len(self)).

        Returns:
            `bytes`, the window, and `length`, how many of its bytes are data.

        Raises:
            IndexError: there is no such window.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must lie in [0, {len(self)}); got {index}.")
        start = index * self.window_bytes
        data = self.stream.read(start, min(self.window_bytes, len(self.stream) - start))
        return _window(data, self.window_bytes)


def _window(data: UInt8[np.ndarray, " length"], window_bytes: int) -> Batch:
    filled = np.zeros(window_bytes, np.uint8)
    filled[: len(data)] = data
    return {"bytes": filled, "length": np.asarray(len(data), np.int32)}


def training_batches(
    stream: ByteStream,
    *,
    window_bytes: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    threads: int = 2,
) -> grain.DatasetIterator[Batch]:
    """Yields batches without end, in an order that each epoch shuffles afresh.

    Batch n depends on the stream, the sizes, `seed` and n alone, so that a run resumes
    exactly where it was by passing the number of its next batch. A batch may span
    epochs; each window comes once in every epoch.

    Args:
        stream: the bytes to train on.
        window_bytes: the length of each window, in bytes, at least 1.
        batch_size: windows a batch, at least 1.
        seed: of the order, at least 0.
        start: number of the first batch, at least 0.
        threads: how many read ahead, two batches each; 0 reads when asked.

    Returns:
        An iterator over `bytes` (batch_size, window_bytes) and `length` (batch_size,).
        Call its `close()` when done.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_batch_size(batch_size)
    for name, value in {"seed": seed, "start": start, "threads": threads}.items():
        if value < 0:
            raise ValueError(f"`{name}` must be at least 0; got {value}.")
    windows = grain.MapDataset.source(Windows(stream, window_bytes))
    order = windows.seed(seed).shuffle().repeat()
    batches = order[start * batch_size : _ENDLESS].batch(batch_size)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batches.to_iter_dataset(ahead))


def validation_batches(
    stream: ByteStream,
    *,
    window_bytes: int,
    batch_size: int,
    max_bytes: int | None = None,
) -> Iterator[Batch]:
    """Yields windows once each, in order, in batches of one shape.

    Args:
        stream: the held-out bytes.
        window_bytes: the length of each window, in bytes, at least 1.
        batch_size: windows a batch, at least 1. The last batch is filled up with
            windows of length 0.
        max_bytes: about how many bytes to read, at least one window; a longer stream
            is sampled by windows spread evenly over it. `None` reads everything.

    Returns:
        An iterator over `bytes` (batch_size, window_bytes) and `length` (batch_size,).

    Raises:
        ValueError: an argument is out of range.
    """
    _check_batch_size(batch_size)
    windows = Windows(stream, window_bytes)
    if max_bytes is not None and max_bytes < window_bytes:
        raise ValueError(
            f"`max_bytes` must hold one window of {window_bytes} bytes; got "
            f"{max_bytes}. Pass None to read everything."
        )
    total = len(windows)
    count = total if max_bytes is None else min(total, max_bytes // window_bytes)
    # The middles of `count` equal stretches.
    chosen = [(2 * i + 1) * total // (2 * count) for i in range(count)]
    blank = _window(np.empty(0, np.uint8), window_bytes)

    def batches() -> Iterator[Batch]:
        for first in range(0, count, batch_size):
            items = [windows[index] for index in chosen[first : first + batch_size]]
            items += [blank] * (batch_size - len(items))
            yield {key: np.stack([item[key] for item in items]) for key in blank}

    return batches()


def _check_batch_size(batch_size: int):
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
