"""The models of M. Krasser's PyTorch library perceiver-io, version 0.11: Perceiver AR
of text and of symbolic audio; Perceiver IO for masked language and classification.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr

from ..perceiver_ar import PerceiverAR
from ..tasks import Classifier, MaskedLM
from .krasserm_ar import build_causal, places_of_causal
from .krasserm_io import (
    OF_IMAGES,
    OF_TEXT,
    build_classifier,
    build_masked,
    places_of_io,
)
from .places import Places, fill
from .tensors import TENSOR_FILES, Tensor, find, open_tensors


Model = PerceiverAR | MaskedLM | Classifier

# What is computed anew.
UNUSED = ".inv_freq", ".position_encoding.position_encoding"
# Of transformers' files, and of Lightning's checkpoints.
PREFIXES = "backend_model.", "model."


def load(folder: Path, config: dict[str, Any]) -> Model:
    """The model in a folder that its `save_pretrained` wrote.

    Args:
        config: the contents of its `config.json`.

    Raises:
        FileNotFoundError: the tensors are not there.
        ValueError: for a configuration of another model, links, and tensors that are
            not those that it describes.
    """
    path = find(folder, *TENSOR_FILES)
    if path is None:
        raise FileNotFoundError(
            f"there is neither model.safetensors nor pytorch_model.bin in "
            f"{str(folder)!r}."
        )
    settings = config.get("model_config")
    if not isinstance(settings, dict):
        raise ValueError(
            f"the config.json in {str(folder)!r} must hold a `model_config`, got "
            f"{settings!r}."
        )
    return load_tensors(path, config["model_type"], settings)


def load_tensors(path: str | os.PathLike, kind: str, settings: dict[str, Any]) -> Model:
    """The model in a file of tensors, such as a checkpoint of Lightning.

    Args:
        path: the file.
        kind: one of `KINDS`.
        settings: by the names of its configuration classes; what is left out is as it
            is there by default.

    Raises:
        ValueError: for settings of another kind of value, and tensors that are not
            those that they describe.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {sorted(KINDS)}, got {kind!r}.")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    build, places_of = KINDS[kind]
    shapes = eqx.filter_eval_shape(build, settings, key=jr.key(0))
    tensors = _without_prefix(open_tensors(path))
    return fill(shapes, places_of(settings), tensors, repr(str(path)))


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    used = {n: t for n, t in tensors.items() if not n.endswith(UNUSED)}
    for prefix in PREFIXES:
        if used and all(name.startswith(prefix) for name in used):
            return {name.removeprefix(prefix): t for name, t in used.items()}
    return used


KINDS: dict[str, tuple[Callable[..., Model], Callable[[dict[str, Any]], Places]]] = {
    "perceiver-ar-causal-language-model": (build_causal, places_of_causal),
    "perceiver-ar-symbolic-audio-model": (build_causal, places_of_causal),
    "perceiver-io-masked-language-model": (
        build_masked,
        places_of_io(OF_TEXT, "queries"),
    ),
    "perceiver-io-text-classifier": (
        build_classifier(OF_TEXT),
        places_of_io(OF_TEXT, "query"),
    ),
    "perceiver-io-image-classifier": (
        build_classifier(OF_IMAGES),
        places_of_io(OF_IMAGES, "query"),
    ),
}
