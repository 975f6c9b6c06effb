"""What a model was built with, kept so that a file can hold it."""

from collections.abc import Mapping

import numpy as np


Arguments = tuple[tuple[str, object], ...]


def kept(arguments: Mapping[str, object]) -> Arguments:
    """Arguments as a static field of a model: hashable, and with Python's own numbers
    for NumPy's, as JSON can hold them.

    Args:
        arguments: by name; `self` and `key` are left out.
    """
    return tuple(
        (name, _plain(value))
        for name, value in arguments.items()
        if name not in ("self", "key")
    )


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
