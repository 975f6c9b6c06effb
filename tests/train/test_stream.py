import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.test_files import content, random_bytes, write
from train.data.files import split
from train.data.stream import ByteStream


def make_stream(folder: Path) -> tuple[ByteStream, bytes]:
    files = write(folder, {"a": random_bytes(3000), "b": random_bytes(1000, seed=1)})
    train, _ = split(files, validation_fraction=0.4, segment_bytes=256)
    return ByteStream(train), b"".join(content(train))


@given(start=st.integers(0, 5000), length=st.integers(0, 5000))
def test_the_stream_reads_like_the_joined_segments(start: int, length: int):
    with tempfile.TemporaryDirectory() as folder:
        stream, whole = make_stream(Path(folder))
        assert len(stream) == len(whole)
        start %= len(whole) + 1
        length %= len(whole) - start + 1
        read = stream.read(start, length)
    assert read.dtype == np.uint8
    assert read.tobytes() == whole[start : start + length]


def test_the_stream_survives_pickling_after_a_read(tmp_path):
    stream, whole = make_stream(tmp_path)
    stream.read(0, 1)
    copy = pickle.loads(pickle.dumps(stream))
    assert copy.read(0, len(copy)).tobytes() == whole


def test_few_files_are_open_at_once(tmp_path):
    contents = {str(i): random_bytes(300, seed=i) for i in range(100)}
    segments = sum(split(write(tmp_path, contents), validation_fraction=0.5), ())
    stream = ByteStream(segments)
    stream.read(0, len(stream))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the open maps are only known on Linux")
    assert 0 < maps.read_text().count(str(tmp_path)) <= 64


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (1, 10**6)])
def test_a_read_outside_the_stream_is_an_error(tmp_path, start, length):
    stream, _ = make_stream(tmp_path)
    with pytest.raises(ValueError, match="`start` and `length` must stay within"):
        stream.read(start, length)


@pytest.mark.parametrize("opened", [False, True])
def test_a_file_of_other_content_is_an_error_and_one_written_anew_is_none(
    tmp_path, opened
):
    stream, _ = make_stream(tmp_path)
    whole = stream.read(0, len(stream))
    if not opened:
        stream = pickle.loads(pickle.dumps(stream))
    path = tmp_path / "a"
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    assert np.array_equal(stream.read(0, len(stream)), whole)
    path.write_bytes(content[::-1])
    with pytest.raises(ValueError, match="a' changed while in use: .* bytes from "):
        stream.read(0, len(stream))


def test_a_stream_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="`segments` must not be empty"):
        ByteStream(())


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("opened", [False, True])
def test_a_file_of_another_size_than_listed_is_an_error(tmp_path, size, opened):
    stream, _ = make_stream(tmp_path)
    if opened:
        stream.read(0, len(stream))
    os.truncate(tmp_path / "a", size)
    with pytest.raises(ValueError, match=f"a' changed .* had 3000 .* now has {size}"):
        stream.read(0, len(stream))
