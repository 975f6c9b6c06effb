"""Arrays of small numbers as bytes."""

from io import BytesIO
from pathlib import Path

import numpy as np

from .errors import Refused, reading


def decode_array(path: Path) -> bytes:
    """The numbers of a `.npy`, row by row, each as a byte, or two of an int16.

    What is signed is moved up by half its range, so that bytes keep its order.

    Raises:
        ValueError: a broken file, more than one array, none in it, or other numbers.
    """
    anew = "Write it anew with `numpy.save`, or leave it out."
    with reading(path, "be a whole .npy file of numbers", anew):
        # Mapped and not loaded: a header that lies takes no memory, and no pickle runs.
        array = np.lib.format.open_memmap(path, mode="r")
        rest = path.stat().st_size - array.offset - array.nbytes
    if rest:
        raise Refused(path, "hold one array", f"{rest} bytes behind it", anew)
    if not array.size:
        raise Refused(path, "hold at least one number", f"shape {array.shape}", anew)
    if array.dtype in (np.uint8, np.bool_):
        return array.tobytes()
    if array.dtype == np.int8:
        return (array.view(np.uint8) ^ 0x80).tobytes()
    if array.dtype in (np.dtype("<i2"), np.dtype(">i2")):
        return offset_binary(array)
    raise Refused(
        path,
        "be of uint8, int8, int16 or bool",
        str(array.dtype),
        "Scale and round it first, such as `(255 * x).round().astype(numpy.uint8)` of "
        "numbers between 0 and 1.",
    )


def offset_binary(numbers: np.ndarray) -> bytes:
    """int16 as two bytes each, the higher first, 0x80 0x00 of 0."""
    return (numbers.astype(np.int32) + 2**15).astype(">u2").tobytes()


def encode_array(data: bytes) -> bytes:
    """A `.npy` of uint8."""
    buffer = BytesIO()
    np.save(buffer, np.frombuffer(data, np.uint8))
    return buffer.getvalue()
