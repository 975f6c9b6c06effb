"""Sound gone on with, sample by sample, of a byte each: 27 M parameters, for one GPU.
A sample of the model is a WAV file.

    python -m train prepare songs --out data/songs
    python -m train train songs --data.path data/songs
"""

from dataclasses import replace
from pathlib import Path

from ..config import DataConfig, SampleConfig
from .small import CONFIG as SMALL


CONFIG = replace(
    SMALL,
    data=DataConfig(decode=True, window_bytes=32_768, validation_bytes=524_288),
    sample=SampleConfig(num_bytes=32_000, temperature=0.95, suffix=".wav"),
    steps=2000,
    out=Path("runs/songs"),
    validate_every=500,
)
