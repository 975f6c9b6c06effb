"""Pairs of a source and a target, of bytes, from a file of one a line."""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from .files import held_out_digests


# What a target ends with, for a model to know where.
END = b"\0"


class Pair(NamedTuple):
    """What is given, and what is to be made of it."""

    source: bytes
    target: bytes


def read_pairs(path: Path) -> list[Pair]:
    """Reads a file of pairs, without its empty lines.

    Args:
        path: a `.tsv`, source and target with a tab between them; or a `.jsonl`,
            objects with the texts `source` and `target`. In UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, no pair in it, or a line that is none, which
            is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of pairs at {str(path)!r}.")
    readers = {".tsv": _of_tsv, ".jsonl": _of_json}
    if path.suffix not in readers:
        raise ValueError(
            f"a file of pairs must be one of {sorted(readers)}, got {str(path)!r}."
        )
    read, pairs = readers[path.suffix], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        try:
            pair = read(line)
            if END in pair.target:
                raise ValueError("its target holds a byte 0, which ends targets")
        except ValueError as error:
            raise ValueError(f"line {number} of {str(path)!r}: {error}.") from error
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"{str(path)!r} holds no pair.")
    return pairs


def _of_tsv(line: bytes) -> Pair:
    fields = line.split(b"\t")
    if len(fields) != 2:
        raise ValueError(
            f"a pair must be two fields with a tab between them, found {len(fields)}"
        )
    return Pair(*fields)


def _of_json(line: bytes) -> Pair:
    found = json.loads(line)
    if isinstance(found, dict):
        source, target = found.get("source"), found.get("target")
        if isinstance(source, str) and isinstance(target, str):
            return Pair(source.encode(), target.encode())
    raise ValueError("a pair must be an object with the texts source and target")


def split_pairs(
    pairs: Sequence[Pair], validation_fraction: float
) -> tuple[list[Pair], list[Pair]]:
    """Parts pairs by the hash of their source, so that equal sources lie on one side.

    Neither side is empty: the smallest hash is always held out, the largest never.

    Args:
        validation_fraction: the share that is held out, on average, in (0, 1).

    Returns:
        those to train on, and those held out, in their order.

    Raises:
        ValueError: there are not two different sources.
    """
    digests = [blake2b(p.source, digest_size=8).hexdigest() for p in pairs]
    if len(set(digests)) < 2:
        raise ValueError(
            "pairs must have two different sources, one to train on and one to hold "
            f"out, got {len(pairs)} of {pairs[0].source[:40]!r}."
        )
    held_out = held_out_digests(set(digests), validation_fraction)
    parts = ([], [])
    for pair, digest in zip(pairs, digests, strict=True):
        parts[digest in held_out].append(pair)
    return parts


def fingerprint_of_pairs(pairs: Iterable[Pair]) -> str:
    """Names pairs in order by 16 hexadecimal digits: others have another name."""
    hasher = blake2b(digest_size=8)
    for pair in pairs:
        for text in pair:
            hasher.update(f"{len(text)}:".encode() + text)
    return hasher.hexdigest()
