"""English verses to Spanish ones: 24 M parameters, for one GPU.

    python -m train prepare verses --out data/verses.tsv
    python -m train train verses --data.path data/verses.tsv
    python -m train sample --model runs/verses/model.safetensors --temperature 0 \
        --context "And God said, Let there be light: and there was light."
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
        latent_dim=384,
        num_layers=6,
        num_heads=6,
        latent_window=608,
        local_heads=4,
        local_window=64,
        local_conv=4,
        input_layers=2,
        output_layers=1,
        ngrams=(),
        use_context=True,
        context_layers=3,
        context_block=544,
        dropout=0.3,
        dtype="bfloat16",
    ),
    data=DataConfig(kind="pairs", window_bytes=608, context_bytes=536),
    optim=OptimConfig(learning_rate=4e-3),
    sample=SampleConfig(num_bytes=608, temperature=0.0),
    steps=6000,
    batch_size=64,
    chunk_steps=1024,
    out=Path("runs/verses"),
    log_every=200,
    validate_every=1000,
    sample_every=2000,
    save_every=2000,
)
