"""The default: a small combined model on the standard library's sources, in minutes.

    python -m train train laptop

Two cores of a shared AMD EPYC machine, Python 3.11, jax 0.10.2: 1.94
validation bits per byte after 3.1 MB, `nox -s train` from a fresh clone in 4 min 25 s,
installation included (commit 924e480).
"""

from pathlib import Path

from ..config import TrainConfig


CONFIG = TrainConfig(out=Path("runs/laptop"))
