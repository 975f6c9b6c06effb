"""This library's own model files: one safetensors file, with the model's arguments as
readable JSON in its header. Loading runs no code."""

import json
import os
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from safetensors import SafetensorError, safe_open
from safetensors.flax import save as serialize

from ..adapters.byte_lm import ByteLM
from ..perceiver_ar import PerceiverAR
from .settings import MOST, MOST_LAYERS
from .tensors import write_whole


Model = ByteLM | PerceiverAR
# By what stands in a file for them.
MODELS = {"perceiver_eqx.ByteLM": ByteLM, "perceiver_eqx.PerceiverAR": PerceiverAR}
# What a model had before there were arguments of these names.
BEFORE_ARGUMENTS = {"perceiver_eqx.ByteLM": {"local_conv": 0}}


def save(path: str | os.PathLike, model: Model) -> None:
    """Write a model to one file, whole or not at all.

    Args:
        path: the file, `.safetensors` by custom. One that exists is replaced.
        model: its parameters and the arguments that it was built with.

    Raises:
        TypeError: for a model that is neither a `ByteLM` nor a `PerceiverAR`. Tasks of
            transformers' kinds are written by `pretrained.huggingface.save`.
        ValueError: the model's arrays are not those that its arguments describe.
        FileNotFoundError, IsADirectoryError: the path's folder is missing, or the path
            is a folder.
    """
    path = Path(path)
    kind = next((kind for kind, of in MODELS.items() if type(model) is of), None)
    if kind is None:
        raise TypeError(
            "`model` must be a ByteLM or a PerceiverAR, got "
            f"{type(model).__name__}; `pretrained.huggingface.save` writes the tasks."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`path` must lie in a folder that exists, {str(path.parent)!r} does not."
        )
    if path.is_dir():
        raise IsADirectoryError(f"`path` must be a file, {str(path)!r} is a folder.")
    arrays = _named_arrays(model)
    _check_arrays("`model`", _named_arrays(_built(kind, model.hyperparameters)), arrays)
    # One entry, since the file's order of several is not the same every time.
    header = {kind: json.dumps(model.hyperparameters)}
    write_whole(path, serialize(arrays, metadata=header))


def load(path: str | os.PathLike) -> Model:
    """Read a model back, bit for bit.

    Args:
        path: a file that `save` wrote.

    Returns:
        The model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a model of this library, or its arrays are not
            those of the model that its header describes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file at {str(path)!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}
            model = _describe(path, header)
            expected = _named_arrays(model)
            _check_arrays(repr(str(path)), expected, slices)
            found = {name: jnp.asarray(file.get_tensor(name)) for name in expected}
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is not a whole safetensors file: {error}."
        ) from error
    arrays, static = eqx.partition(model, _is_array)
    arrays = jtu.tree_map_with_path(lambda where, _: found[_name(where)], arrays)
    return eqx.combine(arrays, static)


def _describe(path: Path, header: dict[str, str]) -> Model:
    """The model that a header describes, with shapes in the place of arrays."""
    kinds = sorted(header.keys() & MODELS)
    if len(kinds) != 1:
        raise ValueError(
            f"{str(path)!r} must describe one of {sorted(MODELS)} in its header, found "
            f"{sorted(header)}."
        )
    (kind,) = kinds
    try:
        arguments = json.loads(header[kind])
        for name, value in arguments.items():
            most = MOST_LAYERS if "layers" in name else MOST
            if isinstance(value, int) and value > most:
                raise ValueError(f"`{name}` must be at most {most}, got {value}")
        return _built(kind, BEFORE_ARGUMENTS.get(kind, {}) | arguments)
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"the header of {str(path)!r} does not describe a model: {error}."
        ) from error


def _built(kind: str, arguments: dict) -> Model:
    """The model of these arguments, with shapes in the place of arrays."""
    return eqx.filter_eval_shape(lambda: MODELS[kind](**arguments, key=jr.key(0)))


def _check_arrays(where: str, expected: dict, found: dict) -> None:
    for name in sorted(expected.keys() | found.keys()):
        want = _shape(expected[name]) if name in expected else "nothing"
        have = _shape(found[name]) if name in found else "nothing"
        if want != have:
            raise ValueError(
                f"{where} must hold {want} under {name!r}, as its arguments say, found "
                f"{have}."
            )


def _shape(array) -> tuple[tuple[int, ...], str]:
    """Of an array, or of one in a file that is not read yet."""
    if hasattr(array, "get_shape"):
        return tuple(array.get_shape()), array.get_dtype()
    kinds = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}
    return tuple(array.shape), kinds.get(str(array.dtype), str(array.dtype))


def _named_arrays(model: Model) -> dict:
    leaves, _ = jtu.tree_flatten_with_path(eqx.filter(model, _is_array))
    return {_name(path): leaf for path, leaf in leaves}


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or hasattr(leaf, "shape")


def _name(path: jtu.KeyPath) -> str:
    return jtu.keystr(path, simple=True, separator=".")
