"""`attend`: exact attention for any mask, by the engine that fits."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..checks import check_probabilities, check_shape
from .blockwise import blockwise_average
from .cudnn import cudnn_attend, cudnn_refusal
from .dense import dense_average
from .masks import DenseMask, FullMask, KeyMask, Mask, StepMask
from .softmax import SoftmaxAverage


Engine = Literal["auto", "dense", "blockwise", "cudnn"]

# Up to so many scores of all heads, the dense engine is faster than tiles, and small.
DENSE_SCORES = {"cpu": 2**17, "gpu": 2**25}
# From so many scores on, a fused kernel is faster than dense.
FUSED_SCORES = 128 * 128


@jax.named_scope("pqx.attend")
def attend(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len kv_heads head_dim"],
    value: Float[Array, "kv_len kv_heads v_dim"],
    mask: StepMask | Bool[Array, "#q_len kv_len"] | None = None,
    *,
    engine: Engine = "auto",
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "q_len heads v_dim"]:
    """Scaled dot-product attention.

    Args:
        query, key, value: one example; `jax.vmap` for batches. Scores and softmax
            are float32, or float64 where an input is. With fewer heads of keys and
            values, each serves as many heads of queries, in order.
        mask: a `StepMask`; a Boolean array, true where the row may see the column; one
            of a single row, for all rows (keys that are padding); or `None` to see
            everything. A row that may see nothing returns zeros.
        engine: `"dense"` holds every score; `"blockwise"` takes memory linear in the
            lengths and skips tiles that the mask rules out; `"cudnn"` is NVIDIA's fused
            kernel, in half precision, linear too but for a Boolean mask of many rows.
            `"auto"` takes the first for small sizes, else the last where it can, else
            the first or the second by size; `explain_engine` tells.
        dropout: probability in [0, 1) of leaving out a weight, used if `rng` is given.

    Returns:
        the attended values, in the dtype of `value`.

    Raises:
        ValueError: for shapes that do not fit each other, a dropout outside [0, 1), an
            unknown engine, or one that cannot serve the call.
        TypeError: for a mask that is neither a `StepMask` nor Boolean.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), §3.2; Ainslie et al., "GQA"
        (2023), for fewer heads of keys.
    """
    structured = _check(query, key, value, mask, dropout)
    dropout = 0.0 if rng is None else dropout
    choice = _choose(query, key, value, structured, engine, dropout)
    key, value = (_for_all_heads(x, query.shape[1]) for x in (key, value))
    if choice.engine == "cudnn":
        return cudnn_attend(query, key, value, structured)
    average = _average(query, key, value, structured, choice.engine, dropout, rng)
    return average.value.astype(value.dtype)


@jax.named_scope("pqx.attend")
def attend_average(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len kv_heads head_dim"],
    value: Float[Array, "kv_len kv_heads v_dim"],
    mask: StepMask | Bool[Array, "#q_len kv_len"] | None = None,
    engine: Literal["auto", "dense", "blockwise"] = "auto",
) -> SoftmaxAverage:
    """`attend`, returned as the average that `merge` can take further; not by cuDNN."""
    structured = _check(query, key, value, mask, 0.0)
    if engine == "auto":
        engine = _portable(structured, query.shape[1])
    key, value = (_for_all_heads(x, query.shape[1]) for x in (key, value))
    return _average(query, key, value, structured, engine, 0.0, None)


def explain_engine(
    query: Float[Array, "q_len heads head_dim"] | jax.ShapeDtypeStruct,
    key: Float[Array, "kv_len kv_heads head_dim"] | jax.ShapeDtypeStruct,
    value: Float[Array, "kv_len kv_heads v_dim"] | jax.ShapeDtypeStruct,
    mask: StepMask | Bool[Array, "#q_len kv_len"] | None = None,
    *,
    engine: Engine = "auto",
    dropout: float = 0.0,
) -> str:
    """Which engine `attend` takes for a call on this machine, and why.

    Args:
        query, key, value: arrays, or only their shapes and dtypes.
        mask, engine, dropout: as in `attend`.

    Raises:
        ValueError, TypeError: as `attend` does.
    """
    structured = _check(query, key, value, mask, dropout)
    choice = _choose(query, key, value, structured, engine, dropout)
    return f"{choice.engine}: {choice.reason}"


class _Choice(NamedTuple):
    engine: str
    reason: str


def _choose(query, key, value, mask: Mask, engine: Engine, dropout: float) -> _Choice:
    if engine not in ("auto", "dense", "blockwise", "cudnn"):
        raise ValueError(
            f"`engine` must be 'auto', 'dense', 'blockwise' or 'cudnn', got {engine!r}."
        )
    if engine in ("dense", "blockwise"):
        return _Choice(engine, "as asked for")
    rows, columns = mask.shape
    if engine == "auto" and rows * columns <= FUSED_SCORES:
        return _Choice("dense", f"only {rows} x {columns} scores a head")
    refusal = cudnn_refusal(query, key, value, mask, dropout)
    if refusal is None:
        return _Choice("cudnn", f"{query.dtype} on a GPU")
    if engine == "cudnn":
        raise ValueError(
            f"`engine` 'cudnn' cannot serve this call: {refusal}. Pass 'auto'."
        )
    return _Choice(
        _portable(mask, query.shape[1]), f"'cudnn' cannot serve this call: {refusal}"
    )


def _portable(mask: Mask, heads: int) -> Literal["dense", "blockwise"]:
    rows, columns = mask.shape
    limit = DENSE_SCORES.get(jax.default_backend(), DENSE_SCORES["cpu"])
    return "dense" if rows * columns * heads <= limit else "blockwise"


def _average(query, key, value, mask: Mask, engine, dropout, rng) -> SoftmaxAverage:
    if engine == "dense":
        rows, columns = map(jnp.arange, mask.shape)
        allowed = mask.allows(rows, columns)
        return dense_average(query, key, value, allowed, dropout, rng)
    return blockwise_average(query, key, value, mask, dropout, rng)


def _for_all_heads(x: Array, heads: int) -> Array:
    """Heads of keys or values, each repeated for the heads of queries it serves."""
    times = heads // x.shape[1]
    return x if times == 1 else jnp.repeat(x, times, axis=1)


def _check(query, key, value, mask, dropout: float) -> Mask:
    check_shape("query", query, "q_len heads head_dim")
    q_len, heads, head_dim = query.shape
    check_shape("key", key, "kv_len kv_heads head_dim", head_dim=head_dim)
    kv_len, kv_heads = key.shape[:2]
    known = {"kv_len": kv_len, "kv_heads": kv_heads}
    check_shape("value", value, "kv_len kv_heads v_dim", **known)
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"`key` must have a number of heads that divides that of `query`, got "
            f"{kv_heads} for {heads}."
        )
    check_probabilities(dropout=dropout)
    return _as_mask(mask, q_len, kv_len)


def _as_mask(mask, q_len: int, kv_len: int) -> Mask:
    if mask is None:
        return FullMask(q_len, kv_len)
    if not (isinstance(mask, StepMask) or getattr(mask, "dtype", "") == "bool"):
        raise TypeError(
            "`mask` must be a StepMask, a Boolean array (true where the row may see "
            f"the column) or None, got {getattr(mask, 'dtype', type(mask))}; of an "
            "additive mask, pass `mask == 0`."
        )
    if mask.shape == (1, kv_len) and not isinstance(mask, StepMask):
        return KeyMask(q_len, mask[0])
    if mask.shape != (q_len, kv_len):
        raise ValueError(
            f"`mask` must have shape (q_len, kv_len) = {(q_len, kv_len)}, got "
            f"{mask.shape}. A StepMask counts rows and columns as steps times tokens "
            "per step; batches go through jax.vmap."
        )
    if not isinstance(mask, StepMask):
        return DenseMask(mask)
    # The rows of a single step all see each other: no engine need treat it as causal.
    alone = mask.query_steps == mask.key_steps == 1
    nothing_before = isinstance(mask.key_start, int) and mask.key_start == 0
    return FullMask(q_len, kv_len) if alone and nothing_before else mask
