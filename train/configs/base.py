"""103 M parameters, for one GPU and hundreds of megabytes of text, seen once. Of a text
that is seen several times, it needs dropout.

python -m train train base --data.path FILE
"""

from dataclasses import replace
from pathlib import Path

from .small import CONFIG as SMALL


CONFIG = replace(
    SMALL,
    model=replace(
        SMALL.model,
        latent_dim=768,
        num_layers=8,
        num_heads=12,
        local_heads=9,
        dropout=0.0,
    ),
    steps=3000,
    batch_size=4,
    out=Path("runs/base"),
)
