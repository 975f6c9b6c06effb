"""Named configs. Each file's docstring holds its command, and of those that were
measured the hardware, the time and the result."""

import importlib
import pkgutil

from ..config import TrainConfig


def names() -> tuple[str, ...]:
    """The names that `load` takes."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> TrainConfig:
    """The config of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(
            f"there is no config {name!r}; choose one of {', '.join(names())}."
        )
    return importlib.import_module(f"{__name__}.{name}").CONFIG
