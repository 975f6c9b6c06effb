"""Clear errors for bad arguments: each names the argument, the rule and the value."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike


def check_sizes(least: int = 1, /, **sizes: int) -> None:
    """Refuse sizes that are not whole numbers of at least `least`.

    Raises:
        TypeError: for one that is no whole number.
        ValueError: for one below it.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"`{name}` must be a whole number, got {size!r}.")
        if size < least:
            raise ValueError(f"`{name}` must be at least {least}, got {size}.")


def check_multiples(of: str, factor: int, **sizes: int) -> None:
    """Refuse sizes that `factor`, called `of` in the message, does not divide.

    Raises:
        ValueError: for one that it does not divide.
    """
    for name, size in sizes.items():
        if size % factor:
            raise ValueError(
                f"`{name}` must be a multiple of {factor} ({of}), got {size}."
            )


def check_probabilities(**probabilities: float) -> None:
    """Refuse probabilities outside [0, 1).

    Raises:
        TypeError: for one that is no number.
        ValueError: for one outside.
    """
    for name, probability in probabilities.items():
        if not isinstance(probability, int | float | np.number):
            raise TypeError(f"`{name}` must be a number, got {probability!r}.")
        if not 0 <= probability < 1:
            raise ValueError(f"`{name}` must lie in [0, 1), got {probability}.")


def check_enabled(dtype: DTypeLike) -> None:
    """Refuse a `dtype` that JAX would make a narrower one.

    Raises:
        ValueError: for that.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"`dtype` {dtype!r} needs jax.config.update('jax_enable_x64', True)."
        )


def check_floating(name: str, array: Array | np.ndarray) -> None:
    """Refuse numbers that are whole, which would make all they meet whole too.

    Raises:
        TypeError: for another dtype.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be floating-point, got {array.dtype}; pass "
            f"{name}.astype(float)."
        )


def check_integers(name: str, array: Array | np.ndarray) -> None:
    """Refuse numbers that are not whole.

    Raises:
        TypeError: for another dtype.
    """
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be integers, got {array.dtype}.")


def check_shape(
    name: str,
    array: Array | np.ndarray | jax.ShapeDtypeStruct,
    axes: str,
    **sizes: int,
) -> None:
    """Refuse an array of another shape.

    Args:
        name: of the argument.
        array: the argument, or its shape.
        axes: names of its axes, in order, separated by spaces.
        sizes: of those axes that are given from elsewhere; any others fit as they are.

    Raises:
        TypeError: for something that is no array.
        ValueError: for another number of axes, or other sizes.
    """
    names = axes.split()
    if not hasattr(array, "shape"):
        raise TypeError(
            f"`{name}` must be an array ({', '.join(names)}), got {array!r}."
        )
    fits = len(array.shape) == len(names) and all(
        size == sizes.get(axis, size)
        for axis, size in zip(names, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(
            f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names
        )
        raise ValueError(
            f"`{name}` must have shape ({wanted}), got {tuple(array.shape)}. Arrays "
            "are unbatched; jax.vmap goes over batches."
        )
