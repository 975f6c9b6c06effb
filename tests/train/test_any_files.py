"""Whatever files there are: every byte is sampled as often as any other, and what is
held out is never trained on."""

import os
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.files import cut, find_files
from train.data.pairs import read_sequences
from train.data.stream import ByteStream, open_split
from train.data.windows import training_batches, validation_batches


# Bytes of a name that are no UTF-8, a name of a line's end, and names hidden from all.
NAMES = [b"a", b"b.txt", b"\xff\xfe.bin", "ü ß".encode(), b"new\nline", b"-dash"]
HIDDEN = [b".hidden"]
FOLDERS = [b"", b"one", b"one/two", b"\xffdeep/er/and/er", b".git/objects"]
SIZES = [0, 1, 2, 255, 256, 257, 3000]


@st.composite
def file_sets(draw) -> dict[bytes, bytes]:
    """Paths and contents, without a byte 0, which ends targets."""
    paths = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES + HIDDEN))
    chosen = draw(st.lists(paths, min_size=1, max_size=9, unique=True))
    sizes = [draw(st.sampled_from(SIZES)) for _ in chosen]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return {
        os.path.join(folder, name): rng.integers(
            1, 256, size=size, dtype=np.uint8
        ).tobytes()
        for (folder, name), size in zip(chosen, sizes, strict=True)
    }


def written(root: bytes, files: dict[bytes, bytes]) -> None:
    """The files, and links to them, out of the folder and around in it."""
    outside = root + b"-outside"
    with open(outside, "wb") as file:
        file.write(b"SECRET" * 100)
    for path, content in files.items():
        place = os.path.join(root, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)
    os.makedirs(root, exist_ok=True)
    os.symlink(outside, os.path.join(root, b"link"))
    os.symlink(root, os.path.join(root, b"around"))
    os.symlink(b"nowhere", os.path.join(root, b"dangling"))


def seen(files: dict[bytes, bytes]) -> list[bytes]:
    """The contents that are to be found, in the order of their paths."""
    shown = [
        path
        for path, content in files.items()
        if content and not any(part.startswith(b".") for part in path.split(b"/"))
    ]
    return [files[path] for path in sorted(shown, key=lambda p: Path(os.fsdecode(p)))]


def rows_of(batches) -> list[bytes]:
    return [
        row[:length].tobytes()
        for batch in batches
        for row, length in zip(batch["bytes"], batch["length"], strict=True)
        if length
    ]


def segment_contents(contents: list[bytes]) -> set[bytes]:
    """What can be told apart of so little: pieces of 256 bytes."""
    return {
        content[at : at + 256]
        for content in contents
        for at in range(0, len(content), 256)
    }


@given(file_sets())
def test_all_that_is_not_hidden_is_read_and_nothing_else(files):
    with TemporaryDirectory() as folder:
        root = os.path.join(os.fsencode(folder), b"data")
        written(root, files)
        path, expected = Path(os.fsdecode(root)), seen(files)
        if not expected:
            with pytest.raises(ValueError, match="must hold at least one byte"):
                find_files(path)
            return
        stream = ByteStream(cut(find_files(path)))
        assert stream.read(0, len(stream)).tobytes() == b"".join(expected)
        found = read_sequences(path)
        assert [pair.target for pair in found] == expected


@given(file_sets(), st.sampled_from([1, 7, 64, 1000]), st.integers(1, 5), st.data())
def test_in_an_epoch_every_byte_is_sampled_once_and_no_side_knows_the_other(
    files, window_bytes, batch_size, data
):
    with TemporaryDirectory() as folder:
        root = os.path.join(os.fsencode(folder), b"data")
        written(root, files)
        path, total = Path(os.fsdecode(root)), sum(map(len, seen(files)))
        fraction = data.draw(st.sampled_from([0.05, 0.5]))
        if len(segment_contents(seen(files))) < 2:
            with pytest.raises(ValueError, match="must hold"):
                open_split(path, fraction)
            return
        train, held_out, _ = open_split(path, fraction)
        assert len(train) + len(held_out) == total
        sides = [stream.read(0, len(stream)).tobytes() for stream in (train, held_out)]
        pieces = [
            sides[0][at : at + window_bytes]
            for at in range(0, len(train), window_bytes)
        ]
        count, sizes = len(pieces), {"window_bytes": window_bytes}
        sizes["batch_size"] = batch_size
        with closing(training_batches(train, **sizes, seed=3)) as batches:
            rows = rows_of(islice(batches, -(-2 * count // batch_size)))
        # A batch may span epochs.
        for epoch in (rows[:count], rows[count : 2 * count]):
            assert Counter(epoch) == Counter(pieces)
        read = rows_of(validation_batches(held_out, **sizes))
        assert b"".join(read) == sides[1]
        digests = [
            {segment.digest for segment in stream.segments}
            for stream in (train, held_out)
        ]
        assert not digests[0] & digests[1]
        for stream in (train, held_out):
            assert b"SECRET" not in stream.read(0, len(stream)).tobytes()
