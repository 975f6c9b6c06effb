"""Models in files, one module per kind of file."""

from .kinds import load as load
from .native import save as save
