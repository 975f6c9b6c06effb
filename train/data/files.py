"""Any file or folder of files as bytes, and split by content.

Files are cut into segments, and the hash of a segment's own bytes decides whether
it is trained on or held out. Equal content therefore never lies on both sides, and
renaming, moving or adding files leaves the content that was there on its side.
"""

import os
import stat
import sysconfig
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


_NOT_LIBRARY_CODE = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_CHUNK_BYTES = 1 << 20

# From a file to what a model reads of it.
Read = Callable[[Path], bytes]

# One segment of two is a poor validation set, so that little data is cut finer, down
# to a size below which a segment says nothing about the rest.
_ENOUGH_SEGMENTS = 32
_SMALLEST_SEGMENT = 256


@dataclass(frozen=True)
class Segment:
    """A stretch of a file whose bytes are known by their hash.

    Args:
        path: the file.
        start: the first byte's offset in what is read of the file.
        length: number of bytes, at least 1.
        file_bytes, modified: the size of the whole file when it was hashed, and when it
            had been written, in nanoseconds.
        digest: the hash of the bytes, in hexadecimal.
    """

    path: Path
    start: int
    length: int
    file_bytes: int
    modified: int
    digest: str


def find_files(path: Path | None) -> list[Path]:
    """Lists the files to read, in sorted order.

    Args:
        path: a file, or a folder that is walked to the bottom. Left out are empty
            files, hidden files and folders, and symbolic links. `None` stands for the
            sources of Python's own standard library, which every machine has.

    Returns:
        At least one file that holds at least one byte.

    Raises:
        FileNotFoundError: `path` does not exist.
        PermissionError: a file or folder may not be read.
        ValueError: no file is left.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if path is None else path
    if not root.exists():
        raise FileNotFoundError(
            f"`path`: there is no file or folder {str(root)!r}. Check the spelling, or "
            "pass None for the sources of Python's standard library."
        )
    if path is None:
        files = [f for f in _walk(root, _NOT_LIBRARY_CODE) if f.suffix == ".py"]
    else:
        files = list(_walk(root, skip=())) if root.is_dir() else [root]
    files = sorted(file for file in files if file.stat().st_size > 0)
    if not files:
        raise ValueError(
            f"`path` must hold at least one byte, but {str(root)!r} is empty or has "
            "only empty files, hidden files and symbolic links. Pass a file, or the "
            "folder that holds the files themselves."
        )
    for file in files:
        if not os.access(file, os.R_OK):
            raise PermissionError(
                f"The file {str(file)!r} may not be read. Change its permissions, or "
                "move it out of the folder."
            )
    return files


def _walk(root: Path, skip: Collection[str]) -> Iterator[Path]:
    def fail(error: OSError):
        # os.walk would leave the folder out in silence.
        raise PermissionError(
            f"The folder {error.filename!r} may not be listed ({error.strerror}). "
            "Change its permissions, or move it away."
        ) from error

    for folder, names, files in os.walk(root, onerror=fail):
        names[:] = [n for n in names if not n.startswith(".") and n not in skip]
        for name in files:
            file = Path(folder, name)
            if not name.startswith(".") and stat.S_ISREG(file.lstat().st_mode):
                yield file


def split(
    files: Sequence[Path],
    *,
    validation_fraction: float,
    segment_bytes: int = 1 << 20,
    read: Read | None = None,
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Cuts files into segments and parts them by the hash of their content.

    Each side is in the order of `files`. Neither is ever empty: the content with the
    smallest hash is always held out, and that with the largest always trained on. Only
    this, and the finer cut of little data, depends on the other files.

    Args:
        files: as `find_files` gives them.
        validation_fraction: the share of the content that is held out, on average; in
            (0, 1).
        segment_bytes: the length of all segments but the last of each file, in bytes,
            at least 1. It is halved, to no less than 256, until there are 32 segments.
        read: what to cut of a file; `None` for its bytes as they are.

    Returns:
        The segments to train on, and those that are held out.

    Raises:
        ValueError: an argument is out of range, there are not two segments of
            different content, or a file shrank while it was read.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            "`validation_fraction` must lie in (0, 1), such as 0.05; got "
            f"{validation_fraction}."
        )
    if segment_bytes < 1:
        raise ValueError(f"`segment_bytes` must be at least 1; got {segment_bytes}.")
    sizes = [len(read(file)) if read else file.stat().st_size for file in files]
    while (
        segment_bytes // 2 >= _SMALLEST_SEGMENT
        and sum(-(-size // segment_bytes) for size in sizes) < _ENOUGH_SEGMENTS
    ):
        segment_bytes //= 2

    segments = cut(files, segment_bytes, read)
    digests = {segment.digest for segment in segments}
    if len(digests) < 2:
        raise ValueError(
            "`files` must hold two segments of different content, one to train on and "
            f"one to hold out; {sum(sizes)} bytes in {len(sizes)} file(s), cut every "
            f"{segment_bytes} bytes, hold {len(digests)}. Add data, or cut it finer."
        )
    held_out = held_out_digests(digests, validation_fraction)
    return (
        tuple(segment for segment in segments if segment.digest not in held_out),
        tuple(segment for segment in segments if segment.digest in held_out),
    )


def cut(
    files: Sequence[Path], segment_bytes: int = 1 << 20, read: Read | None = None
) -> tuple[Segment, ...]:
    """Cuts files into segments, and keeps them all.

    Args:
        files: as `find_files` gives them.
        segment_bytes, read: as in `split`.

    Raises:
        ValueError: a file shrank while it was read.
    """
    return tuple(
        segment for file in files for segment in _segments(file, segment_bytes, read)
    )


def _segments(file: Path, segment_bytes: int, read: Read | None) -> Iterator[Segment]:
    about = file.stat()
    size = about.st_size
    opener = partial(file.open, "rb")
    if read is not None:
        content = read(file)
        opener, size = partial(BytesIO, content), len(content)
    with opener() as opened:
        for start in range(0, size, segment_bytes):
            length = min(segment_bytes, size - start)
            hasher, left = blake2b(digest_size=16), length
            while left:
                chunk = opened.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise changed(file, size, opened.tell())
                hasher.update(chunk)
                left -= len(chunk)
            listed = about.st_size, about.st_mtime_ns
            yield Segment(file, start, length, *listed, hasher.hexdigest())


def held_out_digests(digests: set[str], validation_fraction: float) -> set[str]:
    """Those below the share, and at any rate the smallest, but not the largest."""
    low = {digest for digest in digests if _share(digest) < validation_fraction}
    return (low | {min(digests)}) - {max(digests)}


def _share(digest: str) -> float:
    return int(digest, 16) / 16 ** len(digest)


def changed(file: Path, expected: int, found: int) -> ValueError:
    return ValueError(
        f"The file {str(file)!r} changed while in use: it had {expected} bytes when it "
        f"was listed and now has {found}. Start again with files that stay as they are."
    )


def check_unchanged(segment: Segment, content: UInt8[np.ndarray, " length"]) -> None:
    """
    Args:
        content: what is read of the segment now.

    Raises:
        ValueError: it is not what was hashed.
    """
    if blake2b(content.tobytes(), digest_size=16).hexdigest() != segment.digest:
        raise ValueError(
            f"The file {str(segment.path)!r} changed while in use: {segment.length} "
            f"bytes from {segment.start} on are not what they were when it was listed. "
            "Start again with files that stay as they are."
        )


def fingerprint(segments: Sequence[Segment]) -> str:
    """Names content in order by 16 hexadecimal digits, whatever its files are called.

    Args:
        segments: one side of `split`.

    Returns:
        The name, to be kept with a checkpoint: other data or order has another.
    """
    hasher = blake2b(digest_size=8)
    for segment in segments:
        hasher.update(f"{segment.length}:{segment.digest};".encode())
    return hasher.hexdigest()
