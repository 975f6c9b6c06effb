"""The default: a small combined model on the standard library's sources, in minutes.

python -m train train laptop
"""

from pathlib import Path

from ..config import TrainConfig


CONFIG = TrainConfig(out=Path("runs/laptop"))
