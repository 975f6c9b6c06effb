"""What is said of a file that cannot be read, and of a package that is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Refused(ValueError):
    """A file that is not what it must be.

    Args:
        path: the file.
        expected: what it must be, or have.
        found: what it is, or has.
        remedy: what to do, a sentence.
    """

    def __init__(self, path: Path, expected: str, found: str, remedy: str):
        super().__init__(f"{str(path)!r} must {expected}, found {found}. {remedy}")


@contextmanager
def reading(path: Path, expected: str, remedy: str) -> Iterator[None]:
    """Makes whatever a library says of a broken file a `Refused`.

    Args:
        path, expected, remedy: as of `Refused`.
    """
    try:
        yield
    except (Refused, MemoryError):
        raise
    except Exception as error:
        # Libraries have no common kind of error for what is broken.
        found = str(error).rstrip(".") or type(error).__name__
        raise Refused(path, expected, found, remedy) from error


@contextmanager
def package(name: str) -> Iterator[None]:
    """Tells how to install what an import in it does not find.

    Args:
        name: of the package, as pip knows it.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        # soundfile is an OSError where the C library is missing.
        raise ValueError(
            f"the package {name} must be installed for files of this kind, got "
            f"{str(error)!r}. Install it: `python -m pip install {name}`."
        ) from error
