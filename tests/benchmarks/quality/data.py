"""The texts: fixed splits told by hashes, and one order of windows for every model."""

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from train.data.files import find_files


GCIDE_SHA256 = "802beb667e1fb666203e750f1faea60d5c202ac5430c2083c4180494609f10a7"
HELD_OUT_BYTES = 2 << 20

Text = UInt8[np.ndarray, " bytes"]


@dataclass(frozen=True)
class Splits:
    """A text in five stretches: train, validation, train, test, train.

    Attributes:
        train: the three pieces to train on, in the order of the text.
        validation, test: contiguous, since loss by position needs long stretches.
        hashes: of each split and of the whole, 16 hexadecimal digits.
    """

    train: tuple[Text, Text, Text]
    validation: Text
    test: Text
    hashes: dict[str, str] = field(default_factory=dict)

    def held_out(self, test: bool = False) -> tuple[Text, Text]:
        """A split to score, and the text before it, to be read and not scored."""
        return (self.test, self.train[1]) if test else (self.validation, self.train[0])


def load(name: str, path: Path | None = None, limit: int | None = None) -> Splits:
    """The splits of a text.

    Args:
        name: `"gcide"`, a dictionary of English; `"stdlib"`, Python's own sources; or
            `"sources"`, those of a Python package, which its hashes tell.
        path: the file `gcide.dict.dz`, or the folder of the package; not used for
            `"stdlib"`.
        limit: take only so many bytes, from the first on: for trials.

    Raises:
        ValueError: for an unknown name, or a file that is not the known one.
        FileNotFoundError: if there is no such file or folder.
    """
    if name == "gcide":
        text = _gcide(path)
    elif name == "stdlib":
        text = _joined(find_files(None))
    elif name == "sources" and path is not None:
        text = _joined(file for file in find_files(path) if file.suffix == ".py")
    else:
        raise ValueError(
            f"`name` must be 'gcide', 'stdlib' or 'sources', the last with a folder, "
            f"got {name!r}. Pass --data sources=FOLDER."
        )
    return cut(np.frombuffer(text, np.uint8)[:limit])


def cut(text: Text) -> Splits:
    """Validation from the middle on, test from three quarters on, 2 MiB each; of a
    small text a sixth each: loss by position needs some million bytes."""
    held_out = min(HELD_OUT_BYTES, text.size // 6)
    half, late = text.size // 2, 3 * text.size // 4
    train = text[:half], text[half + held_out : late], text[late + held_out :]
    validation, test = text[half:][:held_out], text[late:][:held_out]
    hashes = {
        "text": _hash(text),
        "train": _hash(np.concatenate(train)),
        "validation": _hash(validation),
        "test": _hash(test),
    }
    return Splits(train, validation, test, hashes)


@dataclass(frozen=True)
class Windows:
    """Windows of the text in an order that depends on the seed alone.

    Each epoch cuts every piece at an offset of its own and shuffles the windows.

    Args:
        pieces: texts that no window crosses the end of.
        window: bytes of a window, at least 1.
        seed: of offsets and order.

    Raises:
        ValueError: if no piece is certain to hold a window.
    """

    pieces: tuple[Text, ...]
    window: int = 32_768
    seed: int = 0

    def __post_init__(self):
        longest = max(piece.size for piece in self.pieces)
        if longest < 2 * self.window:
            raise ValueError(
                f"`window` must be at most half of the longest piece, got "
                f"{self.window} bytes of {longest}. Pass a smaller --window."
            )

    def epoch(self, number: int) -> list[Text]:
        """All windows of an epoch, in order."""
        rng = np.random.default_rng([self.seed, number])
        windows = []
        for piece in self.pieces:
            offset = int(rng.integers(self.window))
            starts = range(offset, piece.size - self.window + 1, self.window)
            windows += [piece[start : start + self.window] for start in starts]
        return [windows[place] for place in rng.permutation(len(windows))]

    def batches(
        self, batch_rows: int, context: int
    ) -> Iterator[UInt8[np.ndarray, "rows context"]]:
        """Batches without end. Each window is cut into rows of the context, so that
        models of different contexts see the same bytes in the same order.

        Raises:
            ValueError: if the context does not divide the window.
        """
        if self.window % context:
            raise ValueError(
                f"`context` must divide the window, got {context} for a window of "
                f"{self.window}. Pass another --window."
            )
        windows = chain.from_iterable(map(self.epoch, count()))
        rows = (row for window in windows for row in window.reshape(-1, context))
        while True:
            yield np.stack(list(islice(rows, batch_rows)))


def _joined(files: Iterable[Path]) -> bytes:
    return b"".join(file.read_bytes() for file in files)


def _gcide(path: Path | None) -> bytes:
    how = (
        "Get it by `apt-get download dict-gcide=0.48.5+nmu2` and `dpkg -x`, and pass "
        "--data gcide=PATH of gcide.dict.dz."
    )
    if path is None or not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}. {how}")
    text = gzip.decompress(path.read_bytes())
    found = sha256(text).hexdigest()
    if found != GCIDE_SHA256:
        raise ValueError(
            f"{str(path)!r} must decompress to 39,952,321 bytes of SHA-256 "
            f"{GCIDE_SHA256}, found {len(text):,} of {found}. {how}"
        )
    return text


def _hash(text: Text) -> str:
    return sha256(text.tobytes()).hexdigest()[:16]
