"""The segments of many files as one stream of bytes."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .files import (
    Read,
    Segment,
    changed,
    check_unchanged,
    cut,
    find_files,
    fingerprint,
    split,
)


_OPEN_FILES = 64


def open_split(
    path: Path | None, validation_fraction: float, read: Read | None = None
) -> tuple["ByteStream", "ByteStream", str]:
    """Opens a file or folder as two streams of bytes.

    Args:
        path: as `find_files` takes it.
        validation_fraction, read: as `split` takes them.

    Returns:
        The bytes to train on, those held out, and the fingerprint of both.

    Raises:
        FileNotFoundError, ValueError: as `find_files` and `split` raise them.
    """
    files, fraction = find_files(path), validation_fraction
    train, held_out = split(files, validation_fraction=fraction, read=read)
    name = fingerprint((*train, *held_out))
    return ByteStream(train, read), ByteStream(held_out, read), name


def open_all(path: Path | None, read: Read | None = None) -> "ByteStream":
    """Opens a file or folder as one stream of all its bytes, in the order of its files.

    Args:
        path: as `find_files` takes it.
        read: as `cut` takes it.

    Raises:
        FileNotFoundError, ValueError: as `find_files` and `cut` raise them.
    """
    return ByteStream(cut(find_files(path), read=read), read)


class ByteStream:
    """The segments' bytes end to end, as one array that is never in memory whole.

    It may be read by several threads at once, and pickled.

    Args:
        segments: at least one.
        read: as `cut` took it; `None` maps the files, others are read once they are
            needed, and the last ones kept.

    Raises:
        ValueError: there are no segments.
    """

    def __init__(self, segments: Sequence[Segment], read: Read | None = None):
        if not segments:
            raise ValueError("`segments` must not be empty; pass a side of `split`.")
        self.segments = tuple(segments)
        self._ends = list(accumulate(segment.length for segment in segments))
        opener = _memory_map if read is None else partial(_content, read)
        # When each segment's file had been written as it was last held to its hash.
        self._written = [segment.modified for segment in self.segments]
        self._read, self._open = read, lru_cache(maxsize=_OPEN_FILES)(opener)

    def __len__(self) -> int:
        return self._ends[-1]

    def __reduce__(self):
        return ByteStream, (self.segments, self._read)

    def read(self, start: int, length: int) -> UInt8[np.ndarray, " {length}"]:
        """Copies out a stretch of the stream.

        Args:
            start: offset of the first byte, in [0, len(self)].
            length: number of bytes, in [0, len(self) - start].

        Returns:
            The bytes.

        Raises:
            ValueError: the stretch leaves the stream, or a file changed.
        """
        if not (0 <= start and 0 <= length and start + length <= len(self)):
            raise ValueError(
                f"`start` and `length` must stay within the {len(self)} bytes of the "
                f"stream; got {start} and {length}."
            )
        out = np.empty(length, np.uint8)
        filled, index = 0, bisect_right(self._ends, start)
        while filled < length:
            segment = self.segments[index]
            offset = start + filled - (self._ends[index] - segment.length)
            count = min(segment.length - offset, length - filled)
            # Touching a map beyond the end of a shrunken file would kill the process.
            about = os.stat(segment.path)
            if about.st_size != segment.file_bytes:
                raise changed(segment.path, segment.file_bytes, about.st_size)
            content, begin = self._open(segment.path), segment.start + offset
            if content.size < begin + count:
                raise changed(segment.path, begin + count, content.size)
            if about.st_mtime_ns != self._written[index]:
                stop = segment.start + segment.length
                check_unchanged(segment, content[segment.start : stop])
                self._written[index] = about.st_mtime_ns
            out[filled : filled + count] = content[begin : begin + count]
            filled, index = filled + count, index + 1
        return out


def _memory_map(path: Path) -> np.memmap:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _content(read: Read, path: Path) -> UInt8[np.ndarray, " size"]:
    return np.frombuffer(read(path), np.uint8)
