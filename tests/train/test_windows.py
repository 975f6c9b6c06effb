import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.files import cut
from train.data.stream import ByteStream
from train.data.windows import Windows, training_batches, validation_batches


WINDOW = 4


@pytest.fixture
def data(tmp_path: Path) -> tuple[ByteStream, bytes]:
    return make_stream(tmp_path, 42)


def make_stream(folder: Path, size: int) -> tuple[ByteStream, bytes]:
    """A stream in which every byte differs, so that a window tells where it was."""
    whole = bytes(range(1, size + 1))
    (folder / "data").write_bytes(whole)
    return ByteStream(cut([folder / "data"])), whole


def take(stream: ByteStream, count: int, **options) -> list[dict[str, np.ndarray]]:
    options = {"window_bytes": WINDOW, "batch_size": 3, "seed": 5} | options
    with closing(training_batches(stream, **options)) as batches:
        return list(islice(batches, count))


def windows_of(batches: list[dict[str, np.ndarray]] | Iterator) -> list[bytes]:
    return [
        row[:length].tobytes()
        for batch in batches
        for row, length in zip(batch["bytes"], batch["length"], strict=True)
    ]


def assert_equal(ours: list[dict[str, np.ndarray]], others):
    assert len(ours) == len(others)
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(one["bytes"], other["bytes"])
        np.testing.assert_array_equal(one["length"], other["length"])


@given(size=st.integers(1, 200), window_bytes=st.integers(1, 250))
def test_the_windows_hold_every_byte_once(size: int, window_bytes: int):
    with tempfile.TemporaryDirectory() as folder:
        stream, whole = make_stream(Path(folder), size)
        windows = Windows(stream, window_bytes)
        items = [windows[index] for index in range(len(windows))]
    assert b"".join(i["bytes"][: i["length"]].tobytes() for i in items) == whole
    assert all(item["bytes"].shape == (window_bytes,) for item in items)
    assert all(not item["bytes"][item["length"] :].any() for item in items)
    assert all(item["length"] == window_bytes for item in items[:-1])


@pytest.mark.parametrize("index", [-1, 11])
def test_a_window_that_does_not_exist_is_an_error(data, index):
    with pytest.raises(IndexError, match=rf"lie in \[0, 11\); got {index}"):
        Windows(data[0], WINDOW)[index]


def test_batches_have_one_shape_and_dtype(data):
    for batch in take(data[0], 8) + list(
        validation_batches(data[0], window_bytes=WINDOW, batch_size=3)
    ):
        assert batch["bytes"].shape == (3, WINDOW)
        assert batch["bytes"].dtype == np.uint8
        assert batch["length"].shape == (3,)
        assert batch["length"].dtype == np.int32


def test_each_epoch_holds_every_byte_once_in_its_own_order(data):
    stream, whole = data
    epochs = windows_of(take(stream, 33, batch_size=1))
    first, second, third = epochs[:11], epochs[11:22], epochs[22:]
    assert b"".join(sorted(first)) == whole
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second != third != first


def test_neighbouring_seeds_share_no_epoch(data):
    ours = windows_of(take(data[0], 22, batch_size=1, seed=0))
    theirs = windows_of(take(data[0], 22, batch_size=1, seed=1))
    assert ours[:11] != theirs[:11]
    assert ours[11:] != theirs[:11]


@given(
    start=st.integers(0, 5),
    batch_size=st.sampled_from([1, 3, 5]),
    threads=st.integers(0, 2),
)
def test_a_resumed_run_goes_on_exactly_as_the_unbroken_one(
    start: int, batch_size: int, threads: int
):
    with tempfile.TemporaryDirectory() as folder:
        stream, _ = make_stream(Path(folder), 42)
        whole = take(stream, 6, batch_size=batch_size, threads=0)
        rest = take(
            stream, 6 - start, batch_size=batch_size, start=start, threads=threads
        )
    assert_equal(rest, whole[start:])


def test_fewer_windows_than_a_batch_still_fill_it(data):
    counts = np.unique(windows_of(take(data[0], 1, batch_size=22)), return_counts=True)
    assert list(counts[1]) == [2] * 11


def test_a_closed_iterator_leaves_no_thread(data):
    def readers() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return [name for name in names if name.startswith("grain")]

    batches = training_batches(data[0], window_bytes=WINDOW, batch_size=3, seed=0)
    next(batches)
    assert readers()
    batches.close()
    deadline = time.monotonic() + 5
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readers()


def test_validation_reads_every_byte_once_in_order(data):
    stream, whole = data
    batches = list(validation_batches(stream, window_bytes=WINDOW, batch_size=4))
    assert b"".join(windows_of(batches)) == whole
    assert [list(b["length"]) for b in batches] == [[4] * 4, [4] * 4, [4, 4, 2, 0]]
    assert not batches[-1]["bytes"][-1].any()


def test_cut_validation_is_spread_evenly_over_the_stream(data):
    stream, whole = data
    batches = validation_batches(stream, window_bytes=2, batch_size=2, max_bytes=7)
    # The middles of three stretches of seven windows.
    middles = [whole[2 * k : 2 * k + 2] for k in (3, 10, 17)]
    assert windows_of(batches) == [*middles, b""]


@given(max_bytes=st.integers(WINDOW, 60))
def test_cut_validation_repeats_no_window(max_bytes: int):
    with tempfile.TemporaryDirectory() as folder:
        stream, _ = make_stream(Path(folder), 42)
        options = {"window_bytes": WINDOW, "batch_size": 1, "max_bytes": max_bytes}
        windows = windows_of(validation_batches(stream, **options))
    assert windows == sorted(set(windows))
    assert len(windows) == min(11, max_bytes // WINDOW)


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"window_bytes": 0}, "`window_bytes` must be at least 1; got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
        ({"start": -1}, "`start` must be at least 0; got -1"),
        ({"threads": -1}, "`threads` must be at least 0; got -1"),
    ],
)
def test_a_training_option_out_of_range_is_an_error(data, option, rule):
    with pytest.raises(ValueError, match=rule):
        take(data[0], 1, **option)


def test_a_validation_option_out_of_range_is_an_error_at_once(data):
    with pytest.raises(ValueError, match="`max_bytes` must hold one window of 4 bytes"):
        validation_batches(data[0], window_bytes=4, batch_size=1, max_bytes=3)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1; got 0"):
        validation_batches(data[0], window_bytes=4, batch_size=0)
