"""Sound as bytes: samples of a byte, by mu-law, or of two."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from .arrays import offset_binary
from .config import MediaConfig
from .containers import check_container
from .errors import Refused, package, reading


# Samples that are held as floats at once.
_BLOCK = 1 << 20
_RATE_UNSAID = 8000
_MU = 255


def decode_audio(path: Path, media: MediaConfig) -> bytes:
    """The samples of a WAV, FLAC or Ogg file, the mean of its channels.

    What is louder than 1 is cut to it.

    Raises:
        ValueError: a broken file, another `sample_rate`, or no finite sample.
    """
    with package("soundfile"):
        import soundfile

    anew = "Convert it, such as by `ffmpeg -i FILE NEW.wav`, or leave it out."
    pieces = []
    with reading(path, "be a whole file of WAV, FLAC or Ogg", anew):
        check_container(path.read_bytes())
        with soundfile.SoundFile(path) as file:
            _check_rate(path, file.samplerate, media.sample_rate)
            while (block := file.read(_BLOCK, "float64", always_2d=True)).size:
                if not np.isfinite(block).all():
                    raise Refused(path, "have finite samples", "NaN or infinity", anew)
                pieces.append(to_bytes(block.mean(axis=1), media.audio))
    if not pieces:
        raise Refused(path, "hold at least one sample", "none", anew)
    return b"".join(pieces)


def _check_rate(path: Path, found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise Refused(
            path,
            f"have {expected} samples a second",
            str(found),
            f"Resample it, such as by `ffmpeg -i FILE -ar {expected} NEW.wav`, or set "
            "`sample_rate` to None to take any.",
        )


def encode_audio(data: bytes, media: MediaConfig) -> bytes:
    """A WAV file of 16 bits a sample.

    Raises:
        ValueError: not one whole sample.
    """
    with package("soundfile"):
        import soundfile

    samples = from_bytes(data, media.audio)
    if not samples.size:
        raise ValueError(f"`data` must hold a sample of two bytes, got {len(data)}.")
    buffer, rate = BytesIO(), media.sample_rate or _RATE_UNSAID
    soundfile.write(buffer, _int16(samples), rate, "PCM_16", format="WAV")
    return buffer.getvalue()


def to_bytes(samples: Float[np.ndarray, " samples"], form: str) -> bytes:
    """Samples between -1 and 1 as bytes.

    Args:
        samples: what is beyond is cut.
        form: as `MediaConfig.audio`.
    """
    samples = samples.clip(-1, 1)
    if form == "mu-law":
        return mu_law(samples).tobytes()
    return offset_binary(_int16(samples))


def from_bytes(data: bytes, form: str) -> Float[np.ndarray, " samples"]:
    """Samples from bytes, without half a sample at the end."""
    if form == "mu-law":
        return from_mu_law(np.frombuffer(data, np.uint8))
    return np.frombuffer(data, ">u2", len(data) // 2) / 2.0**15 - 1


def _int16(samples: Float[np.ndarray, " samples"]) -> Int[np.ndarray, " samples"]:
    return np.rint(samples * 2.0**15).clip(-(2**15), 2**15 - 1).astype(np.int16)


def mu_law(samples: Float[np.ndarray, " samples"]) -> UInt8[np.ndarray, " samples"]:
    """The nearest of 256 levels, which lie the closer the softer; 128 of silence.

    Args:
        samples: between -1 and 1.

    Source:
        ITU-T G.711, as a formula: van den Oord et al., "WaveNet" (2016), §2.2.
    """
    loudness = np.log1p(_MU * np.abs(samples)) / np.log1p(_MU)
    return np.rint((np.sign(samples) * loudness + 1) / 2 * 255).astype(np.uint8)


def from_mu_law(codes: UInt8[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """The level of each code, from -1 to 1; 0 lies between those of 127 and 128."""
    loudness = codes / 255 * 2 - 1
    return np.sign(loudness) * np.expm1(np.abs(loudness) * np.log1p(_MU)) / _MU
