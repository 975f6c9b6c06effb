"""47 M parameters: the combined model of `tests/benchmarks/quality/RESULTS.md`, and as
many steps as 3e16 operations make there, on one GPU.

python -m train train medium --data.path FILE
"""

from dataclasses import replace
from pathlib import Path

from .small import CONFIG as SMALL


CONFIG = replace(
    SMALL,
    model=replace(SMALL.model, num_layers=6, output_layers=5, mlp_widening=6),
    steps=4177,
    out=Path("runs/medium"),
)
