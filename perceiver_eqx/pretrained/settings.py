"""Files of settings, checked before anything is made of them."""

import json
import re
from pathlib import Path
from typing import Any

from .tensors import find


# No model has more of anything, and of layers.
MOST = 2**24
MOST_LAYERS = 1000


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file of settings.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no JSON object, or too large to be one.
    """
    path = find(folder, name)
    if path is None:
        raise FileNotFoundError(f"there is no {name} in {str(folder)!r}.")
    size = path.stat().st_size
    try:
        if size > 1 << 20:
            raise ValueError(f"it has {size} bytes")
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} must be a JSON object: {error}.") from error
    return found


def checked(name: str, value: Any, default: Any) -> Any:
    """A value of the kind that it has by default, of no more than a model may have."""
    kind = type(default)
    if default is None:
        return None if value is None else checked(name, value, 1)
    if kind is tuple:
        if isinstance(value, list) and len(value) == len(default):
            return tuple(checked(name, item, 1) for item in value)
    elif kind is int:
        if type(value) is int and 1 <= value <= MOST:
            # Each layer is looked up by name, before the file is seen to lack it.
            if re.search("layers|blocks|attends", name) and value > MOST_LAYERS:
                raise ValueError(
                    f"`{name}` must be at most {MOST_LAYERS}, got {value}."
                )
            return value
    elif kind is bool:
        if isinstance(value, bool | int | float):
            return bool(value)
    elif type(value) is kind:
        return value
    told = repr(value)[:100]
    raise ValueError(
        f"`{name}` must be like {default!r}, numbers 1 to {MOST}, got {told}."
    )
