"""Chorales, of a piano roll of quarter notes, step after step: 0.8 M parameters.

    python -m train prepare chorales --transpose --out data/chorales
    python -m train train chorales --data.path data/chorales/train.jsonl \
        --data.validation-path data/chorales/valid.jsonl
    python -m train evaluate --model runs/chorales/model.safetensors \
        --data.kind sequences --data.path data/chorales/test.jsonl --part all \
        --data.window-bytes 1096

With `--path jsb-chorales-quarter.json`, `prepare` takes the rolls of the common
benchmark, for which `--data.window-bytes 648` is enough. A step of the model is one of
the roll, its notes from the highest to the lowest. A sample is a MIDI file and a
picture in the folder of the run.
"""

from pathlib import Path

from ..config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)
from ..data.media import MediaConfig


CONFIG = TrainConfig(
    model=ModelConfig(
        bytes_per_step=4,
        latent_dim=128,
        num_layers=2,
        num_heads=4,
        latent_window=32,
        local_heads=2,
        local_window=32,
        output_layers=2,
        ngrams=(),
        dropout=0.3,
    ),
    data=DataConfig(
        kind="sequences",
        window_bytes=1096,
        media=MediaConfig(steps_per_quarter=1),
    ),
    optim=OptimConfig(learning_rate=4e-3),
    sample=SampleConfig(num_bytes=256, temperature=0.95, suffix=".mid"),
    steps=1400,
    batch_size=16,
    chunk_steps=274,
    out=Path("runs/chorales"),
    log_every=50,
    validate_every=100,
    sample_every=400,
    save_every=400,
)
