"""Is a file of sound whole? Decoders go silently on where one is cut or damaged.

Source:
    RFC 3533 (Ogg), §6; Microsoft and IBM, "Multimedia Programming Interface and Data
    Specifications 1.0" (RIFF).
"""

import zlib


_OGG_HEADER, _OGG_END = 27, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_container(data: bytes) -> None:
    """Holds a file to the lengths and checksums that it states itself.

    FLAC's are seen to by its decoder.

    Raises:
        ValueError: what does not hold, or another container.
    """
    if data[:4] == b"RIFF":
        _check_riff(data)
    elif data[:4] == b"OggS":
        _check_ogg(data)
    elif data[:4] != b"fLaC":
        raise ValueError(f"a file that begins with {data[:4]!r}")


def _check_riff(data: bytes) -> None:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError(f"{len(data)} bytes of the {end} that its header states")
    at = 12
    while at < end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    # Some count the byte that makes the last chunk even, some do not.
    if at > end + 1:
        raise ValueError(f"a chunk up to byte {at} of the {end} that its header states")


def _check_ogg(data: bytes) -> None:
    at, flags, following = 0, 0, {}
    while at < len(data):
        header = data[at : at + _OGG_HEADER]
        if header[:4] != b"OggS" or len(header) < _OGG_HEADER:
            raise ValueError(f"no page of Ogg at byte {at}")
        flags, stream, segments = header[5], header[14:18], header[26]
        number = int.from_bytes(header[18:22], "little")
        body = at + _OGG_HEADER + segments
        end = body + sum(data[body - segments : body])
        page = data[at : at + 22] + bytes(4) + data[at + 26 : end]
        if end > len(data) or _ogg_checksum(page) != header[22:26]:
            raise ValueError(f"a damaged page of Ogg at byte {at}")
        if following.setdefault(stream, number) != number:
            raise ValueError(f"a page of Ogg missing before byte {at}")
        following[stream] = number + 1
        at = end
    if not flags & _OGG_END:
        raise ValueError("a last page of Ogg that is not the end")


def _ogg_checksum(page: bytes) -> bytes:
    # zlib's polynomial, but of bits in the other order, and not inverted.
    checksum = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(_REVERSED)
