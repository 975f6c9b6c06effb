"""27 M parameters, for one GPU and tens of megabytes of text, seen several times.

python -m train train small --data.path FILE

On the dictionary gcide (40 MB) 0.8753 bits per byte of validation after 2,000 of the
4,000 steps and 2 min 21 s, then stopped after 2,800 steps and 3 min 5 s, compilation
included; 8.8 GB (one NVIDIA H200, commit 253595a).
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
        bytes_per_step=16,
        latent_dim=512,
        num_layers=2,
        num_heads=8,
        local_heads=6,
        local_window=(128, 1024),
        local_conv=4,
        output_layers=7,
        ngrams=(),
        dropout=0.1,
        dtype="bfloat16",
    ),
    data=DataConfig(window_bytes=32_768, validation_bytes=2_097_152),
    optim=OptimConfig(warmup_steps=100),
    sample=SampleConfig(prompt="The "),
    steps=4000,
    batch_size=2,
    chunk_steps=2048,
    out=Path("runs/small"),
    log_every=100,
    validate_every=1000,
    sample_every=1000,
    save_every=1000,
)
