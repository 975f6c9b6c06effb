"""Time of the engines against each other, in one run."""

import statistics
import time

import jax
import jax.numpy as jnp
import jax.random as jr

from perceiver_eqx import StepMask, attend


def median_seconds(function, *arguments, repeats: int = 5) -> float:
    """Median over repeats, after one call that compiles."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def attend_seconds(
    engine, steps: int, latents: int, window: int | None, *, heads: int = 4
) -> float:
    """Forward and backward of block-causal attention, head width 64, float32."""
    mask = StepMask(steps, steps, latents, latents, window)
    keys = jr.split(jr.key(0), 3)
    arrays = [jr.normal(key, (steps * latents, heads, 64)) for key in keys]

    def loss(query, key, value):
        return jnp.sum(attend(query, key, value, mask, engine=engine) ** 2)

    return median_seconds(jax.jit(jax.grad(loss, (0, 1, 2))), *arrays)
