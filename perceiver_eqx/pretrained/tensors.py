"""Files of tensors, read without running any code: safetensors, and PyTorch's zips.

A file is opened, the names, shapes and dtypes of its tensors are told, and nothing else
is read until a tensor is asked for.
"""

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open


# Of a folder, the first that is there.
TENSOR_FILES = "model.safetensors", "pytorch_model.bin"
FLOATS = "float64", "float32", "float16", "bfloat16"
# A pickle that only describes tensors is some hundred bytes for each of them.
MOST_PICKLED = 8 << 20

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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in the place of what is there."""
    draft = path.with_name(path.name + ".tmp")
    # A link of that name would be written through.
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:
        file.write(content)
    os.replace(draft, path)


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

        return _told(path, name, read)

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


@dataclass(frozen=True)
class _View:
    """A tensor, as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _View:
    if type(storage) is not _Storage or not all(
        type(part) is tuple and len(part) <= 32 for part in (shape, strides)
    ):
        raise pickle.UnpicklingError("it describes a tensor without a shape")
    numbers = offset, *shape, *strides
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise pickle.UnpicklingError("it describes a tensor of impossible sizes")
    return _View(storage, offset, shape, strides)


def _rebuild_parameter(data, *_) -> Any:
    return data


def no_items(*given) -> dict:
    """In the place of mappings that are made empty, and filled later."""
    if given:
        raise pickle.UnpicklingError("it makes a mapping of something")
    return {}


# An opcode of a pickle takes some hundred bytes of memory at most; a tensor is told by
# some thirty of them.
MOST_OPCODES = 200_000


class SafeUnpickler(pickle._Unpickler):
    """Reads what a pickle says. It knows the few functions of `KNOWN`, none of which is
    the pickle's: whatever else a file names is refused.

    In Python and not in C, where a pickle of a few bytes can ask for gigabytes to
    remember things in. Keys are strings: the hash of nested tuples takes the stack, or
    for ever. Only what is of `BUILT` is given a state, and nothing is made of classes.
    """

    KNOWN: dict[tuple[str, str], Any] = {}
    BUILT: tuple[type, ...] = ()

    # Of the unpickler that this one is.
    stack: list
    pop_mark: Callable[[], list]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module[:80]}.{name[:80]}, which is not needed to "
                "describe tensors"
            )
        return self.KNOWN[module, name]

    def _count(self) -> None:
        self.opcodes = getattr(self, "opcodes", 0) + 1
        if self.opcodes > MOST_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {MOST_OPCODES} opcodes")

    def load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, self.BUILT):
            built.__setstate__(state)
        elif type(built) is not dict:
            raise pickle.UnpicklingError("it changes what it may not")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._put(items)

    def _put(self, items: list) -> None:
        mapping = self.stack[-1]
        if type(mapping) is not dict or not all(type(k) is str for k in items[::2]):
            raise pickle.UnpicklingError("it has keys that are no text")
        mapping.update(zip(items[::2], items[1::2], strict=True))

    def load_long4(self) -> None:
        raise pickle.UnpicklingError("it has a number of very many digits")

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("it makes objects that are no tensors")


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def counted(unpickler: SafeUnpickler) -> None:
        unpickler._count()
        load(unpickler)

    return counted


_REFUSED = "INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 EMPTY_SET ADDITEMS FROZENSET"
_OWN = {
    pickle.BUILD: SafeUnpickler.load_build,
    pickle.SETITEM: SafeUnpickler.load_setitem,
    pickle.SETITEMS: SafeUnpickler.load_setitems,
    pickle.DICT: SafeUnpickler.load_dict,
    pickle.LONG4: SafeUnpickler.load_long4,
} | {getattr(pickle, name): SafeUnpickler.load_refused for name in _REFUSED.split()}
SafeUnpickler.dispatch = {
    opcode: _counted(load)
    for opcode, load in (
        pickle._Unpickler.dispatch | {code[0]: load for code, load in _OWN.items()}
    ).items()
}


class _Describer(SafeUnpickler):
    KNOWN = {
        ("collections", "OrderedDict"): no_items,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    } | {("torch", name): dtype for name, dtype in _STORAGES.items()}

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5:
            raise pickle.UnpicklingError("it refers to something")
        kind, dtype, key, *_ = pid
        if not all(type(part) is str for part in (kind, dtype, key)) or (
            kind != "storage" or dtype not in _STORAGES.values()
        ):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        return _Storage(dtype, key)


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
            tensors = {
                name: _tensor(path, file, root, name, view)
                for name, view in views.items()
            }
            numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
            # Each is of one byte at least.
            if numbers > path.stat().st_size:
                raise ValueError(f"it describes {numbers} numbers, more than it holds")
            return tensors
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
    if not isinstance(view, _View):
        raise ValueError(f"{name[:200]!r} is a {type(view).__name__} and no tensor")
    dtype = np.dtype(
        ml_dtypes.bfloat16 if view.storage.dtype == "bfloat16" else view.storage.dtype
    )
    stored = f"{root}/data/{view.storage.key}"
    size = file.getinfo(stored).file_size
    _check_stored(file, stored, path.stat().st_size)
    last = view.offset + sum(
        (length - 1) * stride
        for length, stride in zip(view.shape, view.strides, strict=True)
    )
    count = math.prod(view.shape)
    if count and max(last + 1, count) * dtype.itemsize > size:
        raise ValueError(
            f"{name[:200]!r} of shape {view.shape} is larger than the {size} bytes "
            "that are stored for it"
        )

    def read() -> np.ndarray:
        if count == 0:
            return np.zeros(view.shape, dtype)
        with zipfile.ZipFile(path) as again:
            content = again.read(stored)
        flat = np.frombuffer(content, dtype, count=len(content) // dtype.itemsize)
        strides = [
            0 if length == 1 else stride * dtype.itemsize
            for length, stride in zip(view.shape, view.strides, strict=True)
        ]
        return np.lib.stride_tricks.as_strided(
            flat[view.offset :], view.shape, strides, writeable=False
        ).copy()

    return Tensor(view.shape, view.storage.dtype, _told(path, name, read))


def _told(path: Path, name: str, read: Callable) -> Callable[[], np.ndarray]:
    """A reader that says what it could not read."""

    def told() -> np.ndarray:
        try:
            return read()
        except Exception as error:
            raise ValueError(
                f"{name!r} in {str(path)!r} is damaged and could not be read: "
                f"{type(error).__name__} {error}. Get the file again."
            ) from error

    return told
