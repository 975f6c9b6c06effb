"""Random bytes to copy backwards, 131,072 with their copy: 19 M parameters, for one
GPU.

python -m train train copy
python -m train evaluate --model runs/copy/model.safetensors --task copy \
    --context-bytes 65536
"""

from pathlib import Path

from ..config import DataConfig, ModelConfig, OptimConfig, TrainConfig


CONFIG = TrainConfig(
    model=ModelConfig(
        bytes_per_step=8,
        latent_dim=512,
        num_layers=2,
        num_heads=8,
        latent_window=4,
        local_heads=6,
        local_window=32,
        local_conv=4,
        output_layers=1,
        ngrams=(),
        use_context=True,
        context_patch=8,
        dtype="bfloat16",
    ),
    data=DataConfig(
        kind="copy",
        window_bytes=65_536,
        context_bytes=65_536,
        shortest_bytes=1024,
        validation_bytes=262_144,
    ),
    optim=OptimConfig(learning_rate=4e-3, weight_decay=0.0, final_share=0.05),
    steps=800,
    batch_size=1,
    chunk_steps=8192,
    out=Path("runs/copy"),
    log_every=50,
    validate_every=400,
    save_every=400,
)
