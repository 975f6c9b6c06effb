"""Pictures to what they show, in words: 3.8 M parameters.

    python -m train prepare digits --out data/digits
    python -m train train captions --data.path data/digits/images \
        --data.target-path data/digits/captions
    python -m train sample --model runs/captions/model.safetensors --decode \
        --media.image-size 28 28 --media.gray \
        --context-path data/digits/images/0000.png --temperature 0
"""

from dataclasses import replace
from pathlib import Path

from ..config import SampleConfig
from .read_digits import CONFIG as READ


CONFIG = replace(
    READ,
    model=replace(READ.model, bytes_per_step=4),
    data=replace(READ.data, window_bytes=32),
    sample=SampleConfig(num_bytes=32, temperature=0.0),
    out=Path("runs/captions"),
)
