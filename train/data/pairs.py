"""Pairs of a source and a target, of bytes; or targets alone."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from .files import Read, find_files, held_out_digests


# What a target ends with, for a model to know where.
END = b"\0"


class Pair(NamedTuple):
    """What is given, and what is to be made of it."""

    source: bytes
    target: bytes


def read_pairs(
    path: Path,
    target_path: Path | None = None,
    *,
    read: Read = Path.read_bytes,
    ends: bool = True,
) -> list[Pair]:
    """Reads pairs, in their order, or that of their files' names.

    Args:
        path: a `.tsv`, source and target with a tab between them; a `.jsonl`, objects
            with the texts `source` and `target`, in UTF-8; or sources alone.
        target_path: targets alone: if `path` is a file, one with as many lines; if it
            is a folder, one with files of the same names, but for their suffixes.
        read: of a file of a folder, its bytes.
        ends: whether targets end with `END`, which none may hold then. Without, they
            must be of one length.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: another kind of file, no pair, or something that is none, which is
            named.
    """
    if target_path is not None:
        _check_there(target_path)
    _check_there(path)
    if target_path is None:
        found = _of_one(path, {".tsv": _of_tsv, ".jsonl": _of_json}, "a file of pairs")
    elif path.is_dir() and target_path.is_dir():
        found = _of_folders(path, target_path, read)
    elif path.is_file() and target_path.is_file():
        found = _of_files(path, target_path)
    else:
        raise ValueError(
            f"`path` and `target_path` must be two files or two folders, got "
            f"{str(path)!r} and {str(target_path)!r}."
        )
    return _checked(found, path, ends)


def read_sequences(
    path: Path, *, read: Read = Path.read_bytes, ends: bool = True
) -> list[Pair]:
    """Reads targets alone, as pairs of no source.

    Args:
        path: a folder, of which each file is one; a `.jsonl` with a text a line; or any
            other file, each line of which is one.
        read, ends: as of `read_pairs`.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs` does.
    """
    _check_there(path)
    if path.is_dir():
        found = ((str(file), Pair(b"", read(file))) for file in find_files(path))
    else:
        line = {path.suffix: lambda line: Pair(b"", line), ".jsonl": _of_json_text}
        found = _of_one(path, line, "a file of sequences")
    return _checked(found, path, ends)


def _check_there(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder at {str(path)!r}.")


def _checked(found: Iterable[tuple[str, Pair]], path: Path, ends: bool) -> list[Pair]:
    pairs, lengths = [], {}
    for name, pair in found:
        if ends and END in pair.target:
            raise ValueError(
                f"{name}: the target holds a byte 0, which ends targets; switch `ends` "
                "off, if all are of one length."
            )
        lengths.setdefault(len(pair.target), name)
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"{str(path)!r} holds no pair.")
    if not ends and len(lengths) > 1:
        few = ", ".join(f"{n} of {name}" for n, name in list(lengths.items())[:2])
        raise ValueError(
            f"targets must be of one length where `ends` is off, got {few}."
        )
    return pairs


def _lines(path: Path) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in path.read_bytes().split(b"\n")]


def _of_one(
    path: Path, readers: dict[str, Callable[[bytes], Pair]], what: str
) -> Iterator[tuple[str, Pair]]:
    """What each line of a file that is not empty says."""
    if path.suffix not in readers or path.is_dir():
        raise ValueError(
            f"{what} must be one of {sorted(readers)}, got {str(path)!r}; sources and "
            "targets that stand apart are named by `path` and `target_path`."
        )
    for number, line in enumerate(_lines(path), 1):
        name = f"line {number} of {str(path)!r}"
        if line:
            try:
                pair = readers[path.suffix](line)
            except ValueError as error:
                raise ValueError(f"{name}: {error}.") from error
            yield name, pair


def _of_tsv(line: bytes) -> Pair:
    fields = line.split(b"\t")
    if len(fields) != 2:
        raise ValueError(
            f"a pair must be two fields with a tab between them, found {len(fields)}"
        )
    return Pair(*fields)


def _json(line: bytes):
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("a pair or a sequence must not be nested so deep") from error


def _of_json(line: bytes) -> Pair:
    found = _json(line)
    if isinstance(found, dict):
        source, target = found.get("source"), found.get("target")
        if isinstance(source, str) and isinstance(target, str):
            return Pair(source.encode(), target.encode())
    raise ValueError("a pair must be an object with the texts source and target")


def _of_json_text(line: bytes) -> Pair:
    found = _json(line)
    if not isinstance(found, str):
        raise ValueError("a sequence must be a text")
    return Pair(b"", found.encode())


def _of_files(path: Path, target_path: Path) -> Iterator[tuple[str, Pair]]:
    sources, targets = _lines(path), _lines(target_path)
    if len(sources) != len(targets):
        raise ValueError(
            f"sources and targets must have as many lines, got {len(sources)} of "
            f"{str(path)!r} and {len(targets)} of {str(target_path)!r}."
        )
    for number, pair in enumerate(map(Pair, sources, targets), 1):
        if pair != Pair(b"", b""):
            yield f"line {number} of {str(target_path)!r}", pair


def _of_folders(
    path: Path, target_path: Path, read: Read
) -> Iterator[tuple[str, Pair]]:
    sources, targets = _by_name(path), _by_name(target_path)
    if alone := sorted(sources.keys() ^ targets.keys()):
        raise ValueError(
            f"sources and targets must be files of the same names, but {len(alone)} "
            f"stand alone in {str(path)!r} or {str(target_path)!r}: "
            f"{', '.join(map(str, alone[:3]))}."
        )
    for name, source in sources.items():
        target = targets[name]
        yield str(target), Pair(read(source), read(target))


def _by_name(folder: Path) -> dict[Path, Path]:
    """The files of a folder by their names in it, without suffixes."""
    found: dict[Path, Path] = {}
    for file in find_files(folder):
        name = file.relative_to(folder).with_suffix("")
        if name in found:
            raise ValueError(
                f"files of a folder must differ in more than their suffixes, got "
                f"{str(found[name])!r} and {str(file)!r}."
            )
        found[name] = file
    return found


def split_pairs(
    pairs: Sequence[Pair], validation_fraction: float
) -> tuple[list[Pair], list[Pair]]:
    """Parts pairs by the hash of their source, so that equal sources lie on one side;
    those without a source by that of their target.

    Neither side is empty: the smallest hash is always held out, the largest never.

    Args:
        validation_fraction: the share that is held out, on average, in (0, 1).

    Returns:
        those to train on, and those held out, in their order.

    Raises:
        ValueError: there are not two different sources.
    """
    whole = [p.source or p.target for p in pairs]
    digests = [blake2b(text, digest_size=8).hexdigest() for text in whole]
    if len(set(digests)) < 2:
        raise ValueError(
            "pairs must have two different sources, one to train on and one to hold "
            f"out, got {len(pairs)} of {whole[0][:40]!r}."
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
