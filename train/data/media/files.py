"""A file as bytes that a model reads, and such bytes as a file, by its suffix."""

from collections.abc import Callable
from pathlib import Path

from .arrays import decode_array, encode_array
from .audio import decode_audio, encode_audio
from .config import MediaConfig
from .errors import Refused
from .image import decode_image, encode_image
from .midi import decode_midi, encode_midi


_READERS: dict[str, Callable[[Path, MediaConfig], bytes]] = {
    **dict.fromkeys((".wav", ".flac", ".ogg"), decode_audio),
    **dict.fromkeys((".png", ".jpg", ".jpeg"), decode_image),
    **dict.fromkeys((".mid", ".midi"), decode_midi),
    ".npy": lambda path, _: decode_array(path),
}
_WRITERS: dict[str, Callable[[bytes, MediaConfig], bytes]] = {
    ".wav": encode_audio,
    ".png": encode_image,
    **dict.fromkeys((".mid", ".midi"), encode_midi),
    ".npy": lambda data, _: encode_array(data),
}


def decode(path: Path, media: MediaConfig) -> bytes:
    """Reads a file as bytes, by its suffix, in capitals or not.

    - `.wav`, `.flac`, `.ogg`: samples, the mean of the channels, of a byte or two.
    - `.png`, `.jpg`, `.jpeg`: pixels, rows from the top, of one byte or three.
    - `.mid`, `.midi`: steps of `voices` notes, from the highest to the lowest.
    - `.npy`: uint8 and bool as they are, int8 and int16 with their least at 0.
    - all others: the bytes of the file.

    WAV, JPEG, MIDI and arrays have no checksums: damage that leaves such a file in its
    form and its length is read as it stands.

    Args:
        path: the file.
        media: what its bytes are.

    Returns:
        At least one byte.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: the file is empty, broken, cut short, or of a form that is not read;
            or a package that reads it is missing.
    """
    # Opened here, so that what may not be read is no broken file to a library.
    with path.open("rb") as file:
        empty = not file.read(1)
    if empty:
        anew = "Write it anew, or leave it out."
        raise Refused(path, "hold at least one byte", "none", anew)
    reader = _READERS.get(path.suffix.lower())
    return reader(path, media) if reader else path.read_bytes()


def encode(data: bytes, path: Path, media: MediaConfig) -> None:
    """Writes bytes, as `decode` gives them, as a file of the kind that its suffix says.

    - `.wav`: 16 bits a sample; half a sample at the end is left out.
    - `.png`: a picture of `image_size`, or up to 8 x 8 of them, row by row; what is
      missing of the last is black, and what follows the 64th is left out.
    - `.mid`, `.midi`: 120 quarters a minute; a note of neighbouring steps is held, and
      bytes that are no note, 2 to 127, are left out.
    - `.npy`: uint8.
    - all others that `decode` takes as they are: the bytes.

    Args:
        data: at least one byte.
        path: the file, which is overwritten.
        media: what the bytes are.

    Raises:
        OSError: the file may not be written.
        ValueError: `data` is empty; `decode` reads files of this suffix, but none can
            be written; a picture is to be of no `image_size`; or a package is missing.
    """
    if not data:
        raise ValueError(
            f"`data` must hold at least one byte to write {str(path)!r}, got none."
        )
    suffix = path.suffix.lower()
    if suffix in _READERS and suffix not in _WRITERS:
        raise ValueError(
            f"`path` must have a suffix that can be written, one of {list(_WRITERS)} "
            f"or one of no media, got {str(path)!r}."
        )
    writer = _WRITERS.get(suffix)
    path.write_bytes(writer(data, media) if writer else data)
