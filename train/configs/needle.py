"""Lines of a key and its value, to be found in a file or folder of any bytes, in up to
65,536 of them: 17 M parameters, for one GPU.

python -m train train needle
python -m train evaluate --model runs/needle/model.safetensors --task needle \
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
        context_patch=1,
        dtype="bfloat16",
    ),
    data=DataConfig(
        kind="needle",
        window_bytes=64,
        context_bytes=65_536,
        shortest_bytes=128,
        validation_bytes=1024,
    ),
    optim=OptimConfig(learning_rate=6e-3, weight_decay=0.0, final_share=0.05),
    steps=1600,
    batch_size=1,
    chunk_steps=8192,
    out=Path("runs/needle"),
    log_every=50,
    validate_every=800,
    save_every=800,
)
