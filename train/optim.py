"""The optimizers: AdamW for all, or Muon for hidden matrices and AdamW for the rest."""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import DTypeLike, PyTree
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon


# An update of Muon with this root mean square is as large as AdamW's, so that the two
# take the same learning rates and decay.
UPDATE_RMS = 0.2


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; only matrices decay.

    Args:
        schedule: learning rate by step.
        b1, b2: decay of the two means, in [0, 1).
        weight_decay: at least 0, times the learning rate.
        clip_norm: above 0.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1, b2, weight_decay=weight_decay, mask=is_matrix),
    )


def muon(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    dtype: DTypeLike = "float32",
) -> optax.GradientTransformation:
    """Muon for the matrices between the embeddings and the logits, and AdamW (with
    Nesterov's momentum) for all else, after clipping by the global norm; only the
    former decay.

    Args:
        schedule: learning rate by step, of both: Muon's updates are scaled to the root
            mean square of AdamW's.
        b1, b2: decay of AdamW's two means, in [0, 1).
        weight_decay: at least 0, times the learning rate.
        clip_norm: above 0.
        dtype: of Muon's momentum and of the products that make it orthogonal; on a GPU
            bfloat16 is faster.

    Source:
        Jordan et al., "Muon" (2024); Liu et al., "Muon is Scalable" (2025), §2.2, for
        the scale and the decay.
    """

    def in_dtype(gradient, params=None):
        of_muon = hidden_matrices(gradient)
        return jax.tree.map(
            lambda x, axes: x if axes is None else x.astype(dtype),
            gradient,
            of_muon,
        )

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.stateless(in_dtype),
        optax_muon(
            schedule,
            weight_decay=weight_decay,
            mu_dtype=jnp.dtype(dtype),
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=hidden_matrices,
            consistent_rms=UPDATE_RMS,
        ),
    )


def is_matrix(params: PyTree) -> PyTree:
    """True for the weights of linear maps, false for biases, norms, tables, rates.

    Told by name: the parameters of stacked layers have one axis more than their own.
    """
    return jtu.tree_map_with_path(
        lambda path, _: jtu.keystr(path[-1:], simple=True) == "weight", params
    )


def hidden_matrices(params: PyTree) -> PyTree:
    """The axes of the matrices that Muon takes; `None` for all else. Those of stacked
    layers have an axis more, the first, and are taken one by one."""
    axes = MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))

    def choose(path, matrix: bool):
        return axes if matrix and "logits" not in jtu.keystr(path) else None

    return jtu.tree_map_with_path(choose, is_matrix(params))
