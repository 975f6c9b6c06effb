"""The default: a small combined model on the standard library's sources, in minutes.

    python -m train train laptop

Two cores of a shared AMD EPYC machine, Python 3.11, jax 0.10.2: 2.63
validation bits per byte after 3.7 MB, `nox -s train` from a fresh clone in 3 min 35 s,
installation included (commit dafa806; other days 6 min).
"""

from pathlib import Path

from ..config import TrainConfig


CONFIG = TrainConfig(out=Path("runs/laptop"))
