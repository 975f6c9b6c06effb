"""One `load` for every kind of file."""

import os
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path

from ..adapters.byte_lm import ByteLM
from ..perceiver_ar import PerceiverAR
from . import huggingface, krasserm, native
from .huggingface import Task
from .settings import read_json
from .tensors import TENSOR_FILES, find


def load(
    path: str | os.PathLike, *, sha256: Mapping[str, str] | None = None
) -> ByteLM | Task | PerceiverAR:
    """The model in a file or a folder, of whatever kind it is.

    No code in the files is run, no link in a folder followed; names, shapes and dtypes
    of all tensors are compared to the model's before any of them is read.

    Args:
        path: a file that `save` wrote, for a `ByteLM` or a `PerceiverAR`; or a folder
            with the `config.json` and the tensors of one of transformers' Perceiver
            models, or of the library perceiver-io 0.11, for a `PerceiverAR` or the task
            of `perceiver_eqx.tasks` that it was made for.
        sha256: of files, by name, the hash of what they must hold, in hexadecimal, as
            the page of a published model tells it. Without it a flipped bit in a
            number is not noticed: safetensors have no sums of their own.

    Raises:
        FileNotFoundError: there is no such file, or one is missing in the folder.
        ValueError: for files of another kind or with other contents, links, and tensors
            that are not those of the model that the configuration describes.
    """
    path = Path(path)
    if sha256 is not None:
        _check_hashes(path, sha256)
    if path.suffix in (".pickle", ".pkl") and path.is_file():
        raise ValueError(
            f"a pickle such as {str(path)!r} does not tell its model; pass it to "
            "`pretrained.deepmind.load`, with a configuration."
        )
    if not path.is_dir():
        return native.load(path)
    config = read_json(path, "config.json")
    kind = config.get("model_type")
    if kind == "perceiver":
        return huggingface.load(path)
    if isinstance(kind, str) and kind in krasserm.KINDS:
        return krasserm.load(path, config)
    raise ValueError(
        f"`model_type` in the config.json of {str(path)!r} must be one of "
        f"{sorted(['perceiver', *krasserm.KINDS])}, got {kind!r}."
    )


def _check_hashes(path: Path, sha256: Mapping[str, str]) -> None:
    """Of a file, or of all files in a folder that are named, that of the tensors among
    them."""
    read = path if not path.is_dir() else find(path, *TENSOR_FILES)
    if read is not None and read.name not in sha256:
        raise ValueError(
            f"`sha256` must name {read.name!r}, which is what is read, got "
            f"{sorted(sha256)}."
        )
    for name, expected in sha256.items():
        _check_hash(path, name, expected)


def _check_hash(path: Path, name: str, expected: str) -> None:
    folder = path if path.is_dir() else path.parent
    file = find(folder, Path(name).name)
    if file is None or Path(name).name != name:
        raise FileNotFoundError(
            f"there is no {name!r} in {str(folder)!r}, as `sha256` says."
        )
    with file.open("rb") as opened:
        found = file_digest(opened, "sha256").hexdigest()
    if found != expected.lower():
        raise ValueError(
            f"{str(file)!r} must have the SHA-256 {expected}, found {found}: it is "
            "another file, or was damaged. Get it again."
        )
