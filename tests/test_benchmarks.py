"""A benchmark that no other test runs, on a model of next to nothing."""

import jax.random as jr
import pytest

from perceiver_eqx import ByteLM
from tests.benchmarks.streaming import generation_speed


@pytest.fixture(scope="module")
def model():
    return ByteLM(
        bytes_per_step=32,
        num_latents=1,
        latent_dim=8,
        num_layers=1,
        num_heads=1,
        latent_window=2,
        local_window=2,
        local_conv=0,
        output_layers=0,
        key=jr.key(0),
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_generation_is_timed(model, batch):
    found = generation_speed(model, context=64, batch=batch, repeats=1)
    assert found["prompt_seconds"] > 0
    assert found["bytes_per_second"] * found["seconds_per_byte"] == pytest.approx(batch)
