"""A benchmark that no other test runs, on a model of next to nothing."""

import jax.random as jr
import pytest

from perceiver_eqx import ByteLM, generate
from tests.benchmarks import streaming


@pytest.mark.parametrize("batch", [1, 2])
def test_generation_is_timed_of_all_rows_from_the_state_after_the_context(
    batch, monkeypatch
):
    model = ByteLM(
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
    drawn = []

    def watched(model, prompts, num_bytes, *, state, **options):
        found = generate(model, prompts, num_bytes, state=state, **options)
        drawn.append((int(state.perceiver.steps), [len(row) for row in found]))
        return found

    monkeypatch.setattr(streaming, "generate", watched)
    found = streaming.generation_speed(model, context=64, batch=batch, repeats=1)
    assert drawn == [(2, [size] * batch) for size in (32, 32, 256)]
    assert found["prompt_seconds"] > 0
