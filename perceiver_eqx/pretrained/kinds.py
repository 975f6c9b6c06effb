"""One `load` for every kind of file."""

import os
from pathlib import Path

from ..adapters.byte_lm import ByteLM
from . import huggingface, native
from .huggingface import Task
from .tensors import read_json


def load(path: str | os.PathLike) -> ByteLM | Task:
    """The model in a file or a folder, of whatever kind it is.

    No code in the files is run, no link followed; names, shapes and dtypes of all
    tensors are compared to the model's before any of them is read.

    Args:
        path: a file that `save` wrote, for a `ByteLM`; or a folder with the
            `config.json` and the tensors of one of transformers' Perceiver models, for
            the task of `perceiver_eqx.tasks` that it was made for.

    Raises:
        FileNotFoundError: there is no such file, or one is missing in the folder.
        ValueError: for files of another kind, links, and tensors that are not those of
            the model that the configuration describes.
    """
    path = Path(path)
    if not path.is_dir():
        return native.load(path)
    kind = read_json(path, "config.json").get("model_type")
    if kind != "perceiver":
        raise ValueError(
            f"`model_type` in the config.json of {str(path)!r} must be 'perceiver', "
            f"got {kind!r}."
        )
    return huggingface.load(path)
