"""Models in files, one module per kind of file."""

from . import deepmind as deepmind
from . import huggingface as huggingface
from . import krasserm as krasserm
from .kinds import load as load
from .native import save as save
