"""The optimizers, treated alike for every model: AdamW, or Muon for hidden matrices.

The peak of the learning rate and the number of steps may be traced, so that one
compiled step serves a whole sweep and every budget.
"""

from typing import Literal

import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, Float, Int, PyTree
from optax.contrib import MuonDimensionNumbers, muon

from train.step import adamw, is_matrix


Name = Literal["adamw", "muon"]

B1, B2, WEIGHT_DECAY, CLIP_NORM = 0.9, 0.95, 0.1, 1.0
MOST_WARMUP_STEPS = 100
# An update of Muon with this root mean square is as large as AdamW's, so that the two
# take the same learning rates (Liu et al., "Muon is Scalable", 2025, §2.2).
UPDATE_RMS = 0.2


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
) -> optax.GradientTransformation:
    """Clips by the global norm, and lets matrices alone decay.

    Args:
        name: `"adamw"` for all, or `"muon"`: by Muon the matrices between the
            embeddings and the logits, and by AdamW all else.
        steps, peak, final_share: of `learning_rate`.
    """

    def schedule(step):
        return learning_rate(step, steps, peak, final_share)

    if name == "adamw":
        return adamw(
            schedule, b1=B1, b2=B2, weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM
        )
    return optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        muon(
            schedule,
            weight_decay=WEIGHT_DECAY,
            adam_b1=B1,
            adam_b2=B2,
            muon_weight_dimension_numbers=_hidden_matrices,
            consistent_rms=UPDATE_RMS,
        ),
    )


def _hidden_matrices(params: PyTree) -> PyTree:
    """The axes of the matrices that Muon takes; `None` for all else. Those of stacked
    layers have an axis more, the first, and are taken one by one."""
    axes = MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))

    def choose(path, matrix: bool):
        return axes if matrix and "logits" not in jtu.keystr(path) else None

    return jtu.tree_map_with_path(choose, is_matrix(params))
