"""`attend`: exact attention for any mask, by the engine that fits."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..checks import check_probabilities, check_shape
from .blockwise import blockwise_average
from .cudnn import CudnnKernel
from .dense import dense_average
from .masks import DenseMask, FullMask, Mask, StepMask
from .parts import block_causal
from .softmax import SoftmaxAverage


Engine = Literal["auto", "dense", "blockwise", "cudnn"]

# Up to this many scores a head, the dense engine is faster than tiles and small.
DENSE_SCORES = 128 * 128


@jax.named_scope("pqx.attend")
def attend(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    mask: StepMask | Bool[Array, "q_len kv_len"] | None = None,
    *,
    engine: Engine = "auto",
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "q_len heads v_dim"]:
    """Scaled dot-product attention.

    Args:
        query, key, value: one example; `jax.vmap` for batches. Scores and softmax
            are float32, or float64 where an input is.
        mask: a `StepMask`, a Boolean array (true where the row may see the column), or
            `None` to see everything. A row that may see nothing returns zeros.
        engine: `"dense"` holds every score; `"blockwise"` takes memory linear in the
            lengths and skips tiles that the mask rules out; `"cudnn"` is NVIDIA's fused
            kernel, for block-causal masks in half precision. `"auto"` takes the first
            for small sizes, and the last where it can.
        dropout: probability in [0, 1) of leaving out a weight, used if `rng` is given.

    Returns:
        the attended values, in the dtype of `value`.

    Raises:
        ValueError: for shapes that do not fit each other, a dropout outside [0, 1), an
            unknown engine, or one that cannot serve the mask.
        TypeError: for a mask that is neither a `StepMask` nor Boolean.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), §3.2.
    """
    _check(query, key, value, mask, dropout)
    refusal = _refusal_of_cudnn(query, key, value, mask, dropout, rng)
    if engine == "cudnn" and refusal is not None:
        raise ValueError(
            f"`engine` 'cudnn' cannot serve this call: {refusal}. Pass 'auto'."
        )
    large = query.shape[0] * key.shape[0] > DENSE_SCORES
    if engine == "cudnn" or (engine == "auto" and large and refusal is None):
        assert isinstance(mask, StepMask)
        per_step, window = mask.queries_per_step, mask.window
        return block_causal(query, key, value, per_step, window, CudnnKernel())
    average = attend_average(query, key, value, mask, engine, dropout, rng)
    return average.value.astype(value.dtype)


def attend_average(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    mask: StepMask | Bool[Array, "q_len kv_len"] | None = None,
    engine: Engine = "auto",
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> SoftmaxAverage:
    """`attend`, returned as the average that `merge` can take further."""
    _check(query, key, value, mask, dropout)
    structured = _as_mask(mask, query.shape[0], key.shape[0])
    if engine == "auto":
        small = query.shape[0] * key.shape[0] <= DENSE_SCORES
        engine = "dense" if small else "blockwise"
    if engine == "dense":
        rows, columns = map(jnp.arange, structured.shape)
        allowed = structured.allows(rows, columns)
        return dense_average(query, key, value, allowed, dropout, rng)
    if engine == "blockwise":
        return blockwise_average(query, key, value, structured, dropout, rng)
    raise ValueError(
        f"`engine` must be 'auto', 'dense', 'blockwise' or 'cudnn', got {engine!r}."
    )


def _check(query, key, value, mask, dropout: float) -> None:
    check_shape("query", query, "q_len heads head_dim")
    q_len, heads, head_dim = query.shape
    check_shape("key", key, "kv_len heads head_dim", heads=heads, head_dim=head_dim)
    kv_len = key.shape[0]
    check_shape("value", value, "kv_len heads v_dim", kv_len=kv_len, heads=heads)
    check_probabilities(dropout=dropout)
    _as_mask(mask, q_len, kv_len)


def _refusal_of_cudnn(query, key, value, mask, dropout, rng) -> str | None:
    """Why the cuDNN engine cannot serve a call; `None` if it can."""
    dtypes = {query.dtype, key.dtype, value.dtype}
    if len(dtypes) > 1 or query.dtype not in (jnp.bfloat16, jnp.float16):
        return "query, key and value must all be bfloat16 or all float16"
    if query.shape[-1] % 8 or query.shape[-1] > 128 or query.shape != value.shape:
        return "heads must have up to 128 channels, a multiple of 8, values the same"
    if not isinstance(mask, StepMask) or not mask.is_square:
        return "the mask must be a StepMask of the same steps for queries and keys"
    if dropout and rng is not None:
        return "it has no dropout"
    if jax.default_backend() != "gpu":
        return "there is no NVIDIA GPU"
    return None


def _as_mask(mask, q_len: int, kv_len: int) -> Mask:
    if mask is None:
        return FullMask(q_len, kv_len)
    if not (isinstance(mask, StepMask) or getattr(mask, "dtype", "") == "bool"):
        raise TypeError(
            "`mask` must be a StepMask, a Boolean array (true where the row may see "
            f"the column) or None, got {getattr(mask, 'dtype', type(mask))}; of an "
            "additive mask, pass `mask == 0`."
        )
    if mask.shape != (q_len, kv_len):
        raise ValueError(
            f"`mask` must have shape (q_len, kv_len) = {(q_len, kv_len)}, got "
            f"{mask.shape}. A StepMask counts rows and columns as steps times tokens "
            "per step; batches go through jax.vmap."
        )
    return mask if isinstance(mask, StepMask) else DenseMask(mask)
