"""Where each tensor of a foreign file belongs in a model of this library, both ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .tensors import FLOATS, Tensor


@dataclass(frozen=True)
class Form:
    """How a tensor of a file is laid out.

    Args:
        ours: makes an array of the model of the file's.
        theirs: the reverse.
    """

    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]


AS_IT_IS = Form(lambda x: x, lambda x: x)
TRANSPOSED = Form(lambda x: x.T, lambda x: x.T)
# A convolution of one pixel, as a linear map.
OF_A_PIXEL = Form(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
# A convolution, of PyTorch's order of axes.
CONVOLUTION = Form(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
ROW = Form(lambda x: x[0], lambda x: x[None])


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs.

    Args:
        leaf: the array of the model, by the attributes on the way to it, with dots.
        form: how the file has it.
        layer: of stacked layers the one that the tensor is of.
    """

    leaf: str
    form: Form = AS_IT_IS
    layer: int | None = None


Places = Mapping[str, Place]


def linear(
    theirs: str,
    ours: str,
    form: Form = TRANSPOSED,
    layer: int | None = None,
    *,
    bias: bool = True,
) -> dict[str, Place]:
    """Of a linear map of PyTorch."""
    places = {f"{theirs}.weight": Place(f"{ours}.weight", form, layer)}
    if bias:
        places[f"{theirs}.bias"] = Place(f"{ours}.bias", AS_IT_IS, layer)
    return places


def norm(theirs: str, ours: str, layer: int | None = None) -> dict[str, Place]:
    """Of a layer norm, or a batch norm, of PyTorch."""
    return {
        f"{theirs}.weight": Place(f"{ours}.scale", AS_IT_IS, layer),
        f"{theirs}.bias": Place(f"{ours}.bias", AS_IT_IS, layer),
    }


def fill(model: eqx.Module, places: Places, tensors: Mapping[str, Tensor], file: str):
    """The model with the tensors of a file in their places.

    Args:
        model: with shapes in the place of arrays, each of which has a place.
        places: by the names of the file.
        tensors: of the file, by name. Their shapes and dtypes are compared to the
            model's before any of them is read.
        file: what to call it in a message.

    Raises:
        ValueError: for tensors that are missing, not known, of another shape or of no
            floating-point dtype, each by its name.
    """
    leaves = named_leaves(model)
    needed = {name for name, leaf in leaves.items() if leaf.size}
    unknown = needed - {place.leaf for place in places.values()}
    assert not unknown, f"no place leads to {sorted(unknown)}"
    problems = []
    for name in sorted(set(places) | set(tensors)):
        if name not in tensors:
            problems.append(f"{name!r} is missing")
        elif name not in places:
            problems.append(f"{name!r} is not known")
        else:
            wanted, found = _shape(places[name], leaves), tensors[name]
            if found.shape != wanted:
                problems.append(f"{name!r} has shape {found.shape}, not {wanted}")
            elif found.dtype not in FLOATS:
                problems.append(f"{name!r} is {found.dtype}, not one of {FLOATS}")
    if problems:
        some, more = problems[:20], len(problems) - 20
        told = "; ".join(some) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(
            f"{file} does not hold the tensors of the model that its configuration "
            f"describes: {told}. Check that the two belong together."
        )
    arrays = {name: np.empty(leaf.shape, np.float32) for name, leaf in leaves.items()}
    for name, place in places.items():
        found = place.form.ours(tensors[name].read().astype(np.float32))
        arrays[place.leaf][... if place.layer is None else place.layer] = found

    def filled(path: jtu.KeyPath, leaf: Any) -> Any:
        return jnp.asarray(arrays[leaf_name(path)]) if _has_shape(leaf) else leaf

    return jtu.tree_map_with_path(filled, model)


def take(model: eqx.Module, places: Places) -> dict[str, np.ndarray]:
    """The reverse of `fill`: a file's tensors, of the model's arrays."""
    leaves = named_leaves(model)
    tensors = {}
    for name, place in places.items():
        array = np.asarray(leaves[place.leaf], np.float32)
        array = array if place.layer is None else array[place.layer]
        tensors[name] = np.ascontiguousarray(place.form.theirs(array))
    return tensors


def named_leaves(model: eqx.Module) -> dict[str, Array | jax.ShapeDtypeStruct]:
    """A model's arrays, or their shapes, by the attributes on the way to them."""
    leaves, _ = jtu.tree_flatten_with_path(eqx.filter(model, _has_shape))
    return {leaf_name(path): leaf for path, leaf in leaves}


def leaf_name(path: jtu.KeyPath) -> str:
    """The attributes on the way to a leaf, with dots."""
    return jtu.keystr(path, simple=True, separator=".")


def _has_shape(leaf: Any) -> bool:
    return eqx.is_array(leaf) or hasattr(leaf, "shape")


def _shape(place: Place, leaves: Mapping[str, Any]) -> tuple[int, ...]:
    shape = leaves[place.leaf].shape
    shape = shape if place.layer is None else shape[1:]
    wanted = jax.eval_shape(place.form.theirs, jax.ShapeDtypeStruct(shape, jnp.float32))
    return wanted.shape
