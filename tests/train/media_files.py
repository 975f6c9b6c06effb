"""Small files of sound, pictures, music and arrays, for tests."""

import struct
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import mido
import numpy as np
import PIL.Image
import pytest
import soundfile

from train.data.media import MediaConfig, decode, encode


def read(suffix: str, content: bytes, **config) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"some{suffix}")
        path.write_bytes(content)
        return decode(path, MediaConfig(**config))


def written(suffix: str, data: bytes, **config) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"some{suffix}")
        encode(data, path, MediaConfig(**config))
        return path.read_bytes()


def wav(
    samples: list[int], channels: int = 1, rate: int = 8000, form: int = 1
) -> bytes:
    data = struct.pack(f"<{len(samples)}h", *samples)
    of_sample = 2 * channels
    about = struct.pack(
        "<HHIIHH", form, channels, rate, rate * of_sample, of_sample, 16
    )
    chunks = b"WAVEfmt " + struct.pack("<I", len(about)) + about
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def sound(samples, form: str, kind: str, rate: int = 8000) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, np.asarray(samples), rate, kind, format=form)
    return buffer.getvalue()


def picture(pixels, form: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    if not isinstance(pixels, PIL.Image.Image):
        pixels = PIL.Image.fromarray(np.array(pixels, np.uint8))
    pixels.save(buffer, form, **options)
    return buffer.getvalue()


def music(*tracks: list[tuple], ticks: int = 4, form: int = 1) -> bytes:
    """Of events: ticks since the one before, on or off, note, and channel if not 0."""
    made = mido.MidiFile(type=form, ticks_per_beat=ticks)
    for track in tracks:
        made.add_track().extend(
            mido.Message(f"note_{kind}", note=note, time=wait, channel=sum(channel))
            for wait, kind, note, *channel in track
        )
    buffer = BytesIO()
    made.save(file=buffer)
    return buffer.getvalue()


def array(numbers, dtype) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.array(numbers, dtype))
    return buffer.getvalue()


TONE = 0.5 * np.sin(np.arange(400) / 9)
RED_AND_GREEN = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 2, 3]]]
CHORD = [(0, "on", 60), (0, "on", 64), (4, "off", 60), (4, "off", 64)]
WHOLE = {
    ".wav": wav([0, 1000, -1000, 9, 8, 7]),
    ".flac": sound(TONE, "FLAC", "PCM_16"),
    ".ogg": sound(TONE, "OGG", "VORBIS"),
    ".opus.ogg": sound(TONE, "OGG", "OPUS"),
    ".png": picture(RED_AND_GREEN),
    ".jpg": picture(np.arange(768).reshape(16, 16, 3), "JPEG"),
    ".jpeg": picture(np.arange(768).reshape(16, 16, 3), "JPEG", progressive=True),
    ".mid": music(CHORD, CHORD),
    ".npy": array(range(9), np.int16),
}
whole = pytest.mark.parametrize("suffix", WHOLE)
checked = pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus.ogg", ".png"])


def refused(*cases: tuple[bytes, str]):
    """Contents and what is said of them, which names the tests: an Ogg file has a
    random number in it, and names must be the same in all workers."""
    names = [message for _, message in cases]
    return pytest.mark.parametrize(("content", "message"), cases, ids=names)
