"""Letters to phonemes: 11 M parameters, for one GPU.

    python -m train prepare phonemes --out data/phonemes.tsv
    python -m train train phonemes --data.path data/phonemes.tsv
    python -m train evaluate --model runs/phonemes/model.safetensors --data.kind pairs \
        --data.path data/phonemes.tsv --data.validation-fraction 0.1 \
        --data.window-bytes 104 --data.context-bytes 40 --rows None --batch-size 512
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
        bytes_per_step=1,
        latent_dim=256,
        num_layers=6,
        num_heads=4,
        latent_window=32,
        local_heads=4,
        local_window=16,
        local_conv=4,
        output_layers=1,
        ngrams=(),
        use_context=True,
        context_layers=2,
        context_block=64,
        dropout=0.3,
        dtype="bfloat16",
    ),
    data=DataConfig(
        kind="pairs",
        window_bytes=104,
        context_bytes=40,
        validation_fraction=0.1,
    ),
    optim=OptimConfig(learning_rate=4e-3),
    sample=SampleConfig(num_bytes=104, temperature=0.0),
    steps=2000,
    batch_size=512,
    chunk_steps=128,
    out=Path("runs/phonemes"),
    log_every=200,
    validate_every=500,
    sample_every=1000,
    save_every=1000,
)
