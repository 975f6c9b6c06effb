"""A manifest: what files a folder holds, and a hash of each, to notice any change."""

import json
import os
import stat
from hashlib import blake2b, file_digest
from pathlib import Path


NAME = "manifest.json"
VERSION = 1


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder as it is, whole or not at all.

    Raises:
        ValueError: the folder holds something that is no plain file.
    """
    files = {name: [size, _hash(folder / name)] for name, size in _sizes(folder)}
    text = json.dumps({"version": VERSION, "files": files}, indent=1)
    draft = folder / f"{NAME}.tmp"
    with draft.open("w", encoding="utf-8") as file:
        file.write(f"{text}\n{_hash_of(text.encode())}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / NAME)


def has_manifest(folder: Path) -> bool:
    """Whether there is one, right or wrong."""
    return (folder / NAME).exists()


def check_manifest(folder: Path) -> None:
    """Holds a folder to its manifest, and reads nothing else of it but to hash it.

    Raises:
        ValueError: the manifest is damaged or of another version; or a file is missing,
            was not there, has another size or other bytes, or is a link or no file. The
            file is named.
    """
    if folder.is_symlink():
        raise ValueError("it is a link")
    sizes = dict(_sizes(folder))
    files = _read(folder / NAME)
    missing, added = sorted(files.keys() - sizes), sorted(sizes.keys() - files)
    if missing or added:
        told = [f"`{name}` is missing" for name in missing]
        told += [f"`{name}` was not there" for name in added]
        raise ValueError("; ".join(told[:4]) + "; ..." * (len(told) > 4))
    for name, (size, digest) in files.items():
        if sizes[name] != size:
            raise ValueError(f"`{name}` has {sizes[name]} bytes, not {size}")
        if _hash(folder / name) != digest:
            raise ValueError(f"`{name}` holds other bytes than were saved")


def _read(path: Path) -> dict[str, tuple[int, str]]:
    try:
        text, digest, end = path.read_text(encoding="utf-8").rsplit("\n", 2)
    except ValueError as error:
        raise ValueError(f"`{NAME}` is cut short or no text") from error
    if end or _hash_of(text.encode()) != digest:
        raise ValueError(f"`{NAME}` holds other bytes than were saved")
    try:
        found = json.loads(text)
        version = found["version"]
        files = {
            str(name): (int(size), str(digest))
            for name, (size, digest) in found["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"`{NAME}` is no manifest") from error
    if version != VERSION:
        raise ValueError(
            f"`{NAME}` is of version {version!r}, and this reads {VERSION}"
        )
    return files


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """All files but the manifest, below a folder, with a slash between names."""
    found = []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            mode, inside = path.lstat(), path.relative_to(folder).as_posix()
            if stat.S_ISREG(mode.st_mode):
                if inside not in (NAME, f"{NAME}.tmp"):
                    found.append((inside, mode.st_size))
            elif not stat.S_ISDIR(mode.st_mode):
                raise ValueError(f"`{inside}` is a link, or no file")
    return sorted(found)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _hash_of(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
