"""Long pages of the manual in English to German ones: 30 M parameters, for one GPU.

    python -m train prepare manpages --out data/manpages
    python -m train train manpages --data.path data/manpages/en \
        --data.target-path data/manpages/de
"""

from dataclasses import replace
from pathlib import Path

from ..config import DataConfig, SampleConfig
from .copy import CONFIG as COPY


CONFIG = replace(
    COPY,
    model=replace(COPY.model, latent_window=128, num_layers=4, output_layers=3),
    data=DataConfig(
        kind="pairs",
        window_bytes=245_760,
        context_bytes=245_760,
        validation_bytes=491_520,
    ),
    sample=SampleConfig(num_bytes=400, temperature=0.0),
    steps=2000,
    out=Path("runs/manpages"),
    sample_every=1000,
)
