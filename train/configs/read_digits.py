"""Handwritten digits told from the same bytes that `digits` draws: 3.8 M parameters.

    python -m train prepare digits --out data/digits
    python -m train train read_digits --data.path data/digits/images \
        --data.target-path data/digits/labels
    python -m train evaluate --model runs/read_digits/model.safetensors \
        --data.kind pairs --data.path data/digits/images \
        --data.target-path data/digits/labels --data.decode \
        --data.media.image-size 28 28 --data.media.gray --data.window-bytes 2 \
        --data.context-bytes 784 --data.validation-fraction 0.1 --rows None
"""

from dataclasses import replace
from pathlib import Path

from ..config import SampleConfig
from .digits import CONFIG as DIGITS


CONFIG = replace(
    DIGITS,
    model=replace(DIGITS.model, bytes_per_step=1, num_layers=4, context_patch=7),
    data=replace(
        DIGITS.data,
        ends=True,
        window_bytes=2,
        context_bytes=784,
        validation_fraction=0.1,
    ),
    sample=SampleConfig(num_bytes=2, temperature=0.0),
    steps=1500,
    out=Path("runs/read_digits"),
)
