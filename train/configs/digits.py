"""Handwritten digits, drawn pixel by pixel, of the digit that is asked for: 3.8 M
parameters. A step is a row of 28 pixels; a sample is a picture.

    python -m train prepare digits --out data/digits
    python -m train train digits --data.path data/digits/labels \
        --data.target-path data/digits/images
    python -m train sample --model runs/digits/model.safetensors --context 7 \
        --no-ends --num-bytes 784 --save seven.png --media.image-size 28 28 --media.gray
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
        bytes_per_step=28,
        latent_dim=192,
        num_layers=3,
        num_heads=6,
        latent_window=28,
        local_heads=4,
        local_window=128,
        local_conv=4,
        output_layers=2,
        ngrams=(),
        use_context=True,
        dropout=0.1,
    ),
    data=DataConfig(
        kind="pairs",
        decode=True,
        media=MediaConfig(image_size=(28, 28), gray=True),
        ends=False,
        window_bytes=784,
        context_bytes=8,
    ),
    optim=OptimConfig(learning_rate=4e-3),
    sample=SampleConfig(num_bytes=784, temperature=1.0, suffix=".png"),
    steps=600,
    batch_size=32,
    chunk_steps=28,
    out=Path("runs/digits"),
    log_every=100,
    validate_every=300,
    sample_every=300,
    save_every=300,
)
