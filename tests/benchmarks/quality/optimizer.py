"""The optimizers, treated alike for every model: Muon for hidden matrices, or AdamW.

The peak of the learning rate and the number of steps may be traced, so that one
compiled step serves a whole sweep and every budget.
"""

from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike, Float, Int

from train.optim import adamw, muon


Name = Literal["adamw", "muon"]

B1, B2, CLIP_NORM = 0.9, 0.95, 1.0
MOST_WARMUP_STEPS = 100


def learning_rate(
    step: Int[Array, ""],
    steps: Int[Array, ""] | int,
    peak: Float[Array, ""] | float,
    final_share: float,
) -> Float[Array, ""]:
    """Linear up over a twentieth of the steps, at most a hundred, then half a cosine
    down to a share of the peak."""
    warmup = jnp.clip(0.05 * steps, 1, MOST_WARMUP_STEPS)
    gone = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1), 0, 1)
    cosine = final_share + (1 - final_share) * (1 + jnp.cos(jnp.pi * gone)) / 2
    return peak * jnp.minimum((step + 1) / warmup, 1) * cosine


def optimizer(
    name: Name,
    steps: Int[Array, ""] | int,
    peak: Float[Array, ""] | float,
    final_share: float = 0.1,
    weight_decay: float = 0.1,
    dtype: DTypeLike = "float32",
) -> optax.GradientTransformation:
    """Clips by the global norm, and lets matrices alone decay.

    Args:
        name: `"adamw"` for all, or `"muon"`: by Muon the matrices between the
            embeddings and the logits, and by AdamW all else.
        steps, peak, final_share: of `learning_rate`.
        weight_decay: times the learning rate.
        dtype: what the model computes in, and Muon with it.
    """

    def schedule(step):
        return learning_rate(step, steps, peak, final_share)

    options = {"b1": B1, "b2": B2, "weight_decay": weight_decay, "clip_norm": CLIP_NORM}
    if name == "adamw":
        return adamw(schedule, **options)
    return muon(schedule, **options, dtype=dtype)
