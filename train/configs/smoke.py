"""The smallest run that does everything, for tests and first looks.

python -m train train smoke
"""

from pathlib import Path

from ..config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)


CONFIG = TrainConfig(
    model=ModelConfig(
        bytes_per_step=4,
        latent_dim=16,
        num_layers=1,
        num_heads=2,
        latent_window=4,
        output_layers=1,
        ngrams=(3,),
        ngram_rows=64,
    ),
    data=DataConfig(window_bytes=128, validation_bytes=1024),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    sample=SampleConfig(prompt="def ", num_bytes=32),
    steps=20,
    batch_size=4,
    chunk_steps=8,
    out=Path("runs/smoke"),
    log_every=5,
    validate_every=10,
    sample_every=20,
    save_every=5,
)
