"""Files of tensors, read without running any code: safetensors, and PyTorch's zips.

A file is opened, the names, shapes and dtypes of its tensors are told, and nothing else
is read until a tensor is asked for.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open


FLOATS = "float64", "float32", "float16", "bfloat16"
# A pickle that only describes tensors is some hundred bytes for each of them.
MOST_PICKLED = 64 << 20

_OF_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file that is not read yet.

    Args:
        shape: of it.
        dtype: as NumPy calls it, or else as the file does.
        read: reads it.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def find(folder: Path, *names: str) -> Path | None:
    """The first of some files that lies in a folder.

    Raises:
        ValueError: if it is a link, or no file.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise ValueError(
                f"{str(path)!r} is a symbolic link, which is not followed: it may lead "
                "anywhere. Copy the file itself into the folder."
            )
        if path.exists():
            if not path.is_file():
                raise ValueError(f"{str(path)!r} must be a file.")
            return path
    return None


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote.

    Raises:
        ValueError: the file is neither, not whole, or asks for anything but tensors.
    """
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return _open_torch(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            told = {
                name: (tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is not a whole safetensors file: {error}."
        ) from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with safe_open(path, framework="numpy") as file:
                return file.get_tensor(name)

        return read

    return {
        name: Tensor(shape, _OF_SAFETENSORS.get(str(dtype), str(dtype)), reader(name))
        for name, (shape, dtype) in told.items()
    }


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclass(frozen=True)
class _Storage:
    """Numbers in a file of the zip."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class _View:
    """A tensor, as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, *_) -> _View:
    return data


class SafeUnpickler(pickle._Unpickler):
    """Reads what a pickle says. It knows the few functions of `KNOWN`, none of which is
    the pickle's: whatever else a file names is refused.

    In Python and not in C, where a pickle of a few bytes can ask for gigabytes to
    remember things in.
    """

    KNOWN: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is not needed to describe tensors"
            )
        return self.KNOWN[module, name]


class _Describer(SafeUnpickler):
    KNOWN = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    } | {("torch", name): dtype for name, dtype in _STORAGES.items()}

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size = pid
        well_formed = (
            kind == "storage"
            and dtype in _STORAGES.values()
            and isinstance(key, str)
            and isinstance(size, int)
        )
        if not well_formed:
            raise pickle.UnpicklingError(f"it refers to {pid!r}")
        return _Storage(dtype, key, size)


def _open_torch(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as file:
            described = [n for n in file.namelist() if n.endswith("/data.pkl")]
            if len(described) != 1:
                raise ValueError(f"it holds {len(described)} descriptions, not one")
            root = described[0].removesuffix("/data.pkl")
            _check_stored(file, described[0], MOST_PICKLED)
            views = _Describer(io.BytesIO(file.read(described[0]))).load()
            if isinstance(views, dict) and isinstance(views.get("state_dict"), dict):
                views = views["state_dict"]
            if not isinstance(views, dict):
                raise ValueError(f"it describes a {type(views).__name__}")
            return {
                str(name): _tensor(path, file, root, str(name), view)
                for name, view in views.items()
            }
    except Exception as error:
        # A hostile file can fail in any way, and this is the only thing to say of it.
        raise ValueError(
            f"{str(path)!r} is not a file of tensors that `torch.save` of PyTorch 1.6 "
            f"or later wrote, or not a whole one: {error}. Nothing in it was run. Save "
            "the model's state_dict anew, best as safetensors."
        ) from error


def _check_stored(file: zipfile.ZipFile, name: str, most: int) -> None:
    """Refuse what would be larger when read than it is in the file, or is too large."""
    info = file.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name!r} is compressed, which PyTorch does not do")
    if info.file_size > most:
        raise ValueError(f"{name!r} has {info.file_size} bytes, more than {most}")


def _tensor(
    path: Path, file: zipfile.ZipFile, root: str, name: str, view: Any
) -> Tensor:
    if not isinstance(view, _View) or not isinstance(view.storage, _Storage):
        raise ValueError(f"{name!r} is a {type(view).__name__} and no tensor")
    numbers = (view.offset, *view.shape, *view.strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{name!r} has no shape of whole numbers")
    dtype = np.dtype(
        ml_dtypes.bfloat16 if view.storage.dtype == "bfloat16" else view.storage.dtype
    )
    stored = f"{root}/data/{view.storage.key}"
    size = file.getinfo(stored).file_size
    _check_stored(file, stored, size)
    last = view.offset + sum(
        (length - 1) * stride
        for length, stride in zip(view.shape, view.strides, strict=True)
    )
    if math.prod(view.shape) > 0 and (last + 1) * dtype.itemsize > size:
        raise ValueError(
            f"{name!r} of shape {view.shape} is larger than the {size} bytes that are "
            "stored for it"
        )

    def read() -> np.ndarray:
        with zipfile.ZipFile(path) as again:
            flat = np.frombuffer(again.read(stored), dtype)
        strides = [stride * dtype.itemsize for stride in view.strides]
        return np.lib.stride_tricks.as_strided(
            flat[view.offset :], view.shape, strides, writeable=False
        ).copy()

    return Tensor(view.shape, view.storage.dtype, read)
