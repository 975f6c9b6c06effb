"""The optimizers: AdamW for all, or Muon for hidden matrices and AdamW for the rest."""

import equinox as eqx
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

    def axes(params: PyTree) -> PyTree:
        """Of `_by_shape`'s; `None` for what is left to AdamW."""
        matrices = MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))
        return {
            "matrices": dict.fromkeys(params["matrices"], matrices),
            "others": jax.tree.map(lambda _: None, params["others"]),
        }

    inner = optax_muon(
        schedule,
        weight_decay=weight_decay,
        mu_dtype=jnp.dtype(dtype),
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=axes,
        consistent_rms=UPDATE_RMS,
    )

    def init(params):
        return inner.init(_by_shape(params))

    def update(updates, state, params=None):
        stacks = _by_shape(updates)
        stacks["matrices"] = optax.tree.cast(stacks["matrices"], dtype)
        taken, state = inner.update(stacks, state, _by_shape(params))
        return _as_before(taken, updates), state

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.GradientTransformation(init, update),
    )


def _by_shape(params: PyTree) -> dict[str, PyTree]:
    """The `hidden_matrices` of each shape as one stack, whatever layers they are of, so
    that few products serve them all; and all else, as it was."""
    matrices, others = eqx.partition(params, hidden_matrices(params))
    stacks: dict[str, list] = {}
    for x in jax.tree.leaves(matrices):
        rows, columns = x.shape[-2:]
        stack = stacks.setdefault(f"{rows}x{columns}", [])
        stack.append(x.reshape(-1, rows, columns))
    joined = {shape: jnp.concatenate(stack) for shape, stack in stacks.items()}
    return {"matrices": joined, "others": others}


def _as_before(stacks: PyTree, params: PyTree) -> PyTree:
    """What `_by_shape` took apart, in the structure of `params`."""
    matrices, _ = eqx.partition(params, hidden_matrices(params))
    places = dict.fromkeys(stacks["matrices"], 0)

    def take(x):
        rows, columns = x.shape[-2:]
        shape, count = f"{rows}x{columns}", x.size // (rows * columns)
        start = places[shape]
        places[shape] += count
        return stacks["matrices"][shape][start : start + count].reshape(x.shape)

    return eqx.combine(jax.tree.map(take, matrices), stacks["others"])


def is_matrix(params: PyTree) -> PyTree:
    """True for the weights of linear maps, false for biases, norms, tables, rates.

    Told by name: the parameters of stacked layers have one axis more than their own.
    """
    return jtu.tree_map_with_path(
        lambda path, _: jtu.keystr(path[-1:], simple=True) == "weight", params
    )


def hidden_matrices(params: PyTree) -> PyTree:
    """True for the matrices that Muon takes. Those of stacked layers, which have an
    axis more, the first, are taken one by one."""
    return jtu.tree_map_with_path(
        lambda path, matrix: matrix and "logits" not in jtu.keystr(path),
        is_matrix(params),
    )
