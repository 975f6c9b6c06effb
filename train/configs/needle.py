"""Lines of a key and its value, to be found in a file or folder of any bytes, in up to
65,536 of them: 17 M parameters, for one GPU.

python -m train train needle
python -m train evaluate --model runs/needle/model.safetensors --task needle \
    --context-bytes 65536
"""

from dataclasses import replace
from pathlib import Path

from .copy import CONFIG as COPY


CONFIG = replace(
    COPY,
    model=replace(COPY.model, context_patch=1),
    data=replace(
        COPY.data,
        kind="needle",
        window_bytes=64,
        shortest_bytes=128,
        validation_bytes=1024,
    ),
    optim=replace(COPY.optim, learning_rate=6e-3),
    steps=1600,
    out=Path("runs/needle"),
    validate_every=800,
    save_every=800,
)
