from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.media_files import (
    array,
    read,
    refused,
    written,
)


@pytest.mark.parametrize(
    ("numbers", "dtype", "expected"),
    [
        ([0, 127, 255], np.uint8, "00 7f ff"),
        ([-128, -1, 0, 127], np.int8, "00 7f 80 ff"),
        ([-32768, -1, 0, 258], "<i2", "0000 7fff 8000 8102"),
        ([-32768, -1, 0, 258], ">i2", "0000 7fff 8000 8102"),
        ([True, False], np.bool_, "01 00"),
        ([[1, 2, 3], [4, 5, 6]], np.uint8, "01 02 03 04 05 06"),
        (7, np.uint8, "07"),
    ],
)
def test_numbers_are_bytes(numbers, dtype, expected):
    assert read(".npy", array(numbers, dtype)) == bytes.fromhex(expected)


@pytest.mark.parametrize(("dtype", "first"), [(np.uint8, 0), (np.int8, 128)])
def test_numbers_are_read_by_rows_however_they_lie(dtype, first):
    buffer = BytesIO()
    np.save(buffer, np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    assert read(".npy", buffer.getvalue()) == bytes(range(first, first + 6))


@given(st.binary(min_size=1, max_size=40))
def test_numbers_come_back(data):
    assert read(".npy", written(".npy", data)) == data
    assert read(".npy", array(list(data), np.uint8)) == data
    signed = np.frombuffer(data, np.uint8).astype(int) - 128
    assert read(".npy", array(signed, np.int8)) == data
    assert read(".npy", array(256 * signed, np.int16))[::2] == data


@refused(
    (array([0.5], np.float32), "uint8, int8, int16 or bool, found float32. Scale"),
    (array([1], np.uint16), "uint8, int8, int16 or bool, found uint16"),
    (array([{}], object), "be a whole .npy file of numbers, found .*objects"),
    (array([], np.uint8), r"hold at least one number, found shape \(0,\)"),
    (2 * array([1], np.uint8), "hold one array, found 129 bytes behind it"),
    (b"\x80\x04K\x01." + bytes(9), "numbers, found the magic string is not"),
)
def test_no_numbers_are_refused(content, message):
    with pytest.raises(ValueError, match=f"some.npy' must .*{message}"):
        read(".npy", content)
