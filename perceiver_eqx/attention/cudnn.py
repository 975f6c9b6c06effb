"""The cuDNN engine: NVIDIA's fused attention, as it is and as the kernel of `parts`.

Under a `StepMask`, the kernel's log-sum-exp is needed in float32, and its backward pass
under a merged output and log-sum-exp. `return_residual` of
`jax.nn.dot_product_attention` rounds the log-sum-exp to the dtype of the output, which
costs three times the error of the gradients. So both go through `jax.vjp`, whose result
carries the kernel's output and float32 log-sum-exp among its leaves; backward, those
two are replaced. No document promises that layout: it is checked at every trace, and
where it is not as known, the engine steps aside.
"""

import warnings
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .masks import DenseMask, KeyMask, Mask, StepMask
from .parts import CausalRows, FirstColumns, StepSizes, attend_mask, attend_steps


# Key steps for each query step, up to which rows for all of them are worth their time:
# the portable engine takes more than a hundred times as long for a row.
MOST_STEPS = 8


class CudnnLayoutError(RuntimeError):
    """This version of JAX keeps the kernel's residuals in another way than known."""


def cudnn_attend(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads head_dim"],
    mask: Mask,
) -> Float[Array, "q_len heads head_dim"]:
    """Attention by cuDNN, for what `cudnn_refusal` does not refuse."""
    if isinstance(mask, StepMask):
        if _sees_first(mask):
            count = (mask.query_start + 1) * mask.keys_per_step
            return _attend_first(query, key, value, jnp.asarray(count))
        return attend_mask(query, key, value, mask, CudnnKernel())
    if isinstance(mask, KeyMask):
        return _attend_some(query, key, value, mask.allowed)
    if isinstance(mask, DenseMask):
        return _attend_dense(query, key, value, mask.allowed)
    return _attend_all(query, key, value)


def cudnn_refusal(query, key, value, mask: Mask, dropout: float) -> str | None:
    """Why the engine cannot serve a call; `None` if it can.

    Args:
        query, key, value: arrays, or their shapes and dtypes.
        dropout: probability of leaving out a weight, 0 for none.
    """
    dtypes = {query.dtype, key.dtype, value.dtype}
    if len(dtypes) > 1 or query.dtype not in (jnp.bfloat16, jnp.float16):
        return "query, key and value must all be bfloat16 or all float16"
    head_dim, widest = query.shape[-1], _widest_head()
    if head_dim % 8 or head_dim > widest or value.shape[-1] != head_dim:
        return f"heads must have up to {widest} channels, a multiple of 8, values too"
    if dropout:
        return "it has no dropout"
    if isinstance(mask, StepMask):
        if not (isinstance(mask.key_start, int) and mask.key_start == 0):
            return "the mask must have its `key_start` at 0"
        start = mask.query_start
        steps = start + mask.query_steps if isinstance(start, int) else mask.key_steps
        if steps > MOST_STEPS * mask.query_steps and not _sees_first(mask):
            return (
                f"the queries must stand at 1 in {MOST_STEPS} of the key steps at "
                f"least, got {mask.query_steps} steps of {steps}"
            )
    if jax.default_backend() != "gpu":
        return "there is no NVIDIA GPU"
    return _trouble()


class CudnnKernel(NamedTuple):
    """Attention over rows by cuDNN: float16 or bfloat16, on an NVIDIA GPU."""

    def forward(
        self, query: Array, key: Array, value: Array, seen: CausalRows | FirstColumns
    ) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "heads rows"]]:
        """
        Raises:
            CudnnLayoutError: the residuals are not as known.
        """
        rows = query.shape[0]
        out, residuals = _with_residuals(query, key, value, seen)
        return out[:rows], residuals.leaves[residuals.lse_at][0, :, :rows]

    def backward(
        self,
        query: Array,
        key: Array,
        value: Array,
        out: Array,
        lse: Float[Array, "heads rows"],
        d_out: Array,
        seen: CausalRows | FirstColumns,
    ) -> tuple[Array, Array, Array]:
        """
        Raises:
            CudnnLayoutError: the residuals are not as known.
        """
        lengths = query.shape[0], key.shape[0], key.shape[0]
        _, residuals = _with_residuals(query, key, value, seen)
        lse, out, d_out = _even_rows(lse.T, out, d_out)
        leaves = list(residuals.leaves)
        leaves[residuals.lse_at] = lse.T[None]
        leaves[residuals.out_at] = out[None]
        gradients = jax.tree.unflatten(residuals.tree, leaves)(d_out)
        d_query, d_key, d_value = (
            gradient[:length]
            for gradient, length in zip(gradients, lengths, strict=True)
        )
        return d_query, d_key, d_value


class _Residuals(NamedTuple):
    """What the kernel keeps for its backward pass, and where in it."""

    leaves: list[Array]
    tree: Any
    lse_at: int
    out_at: int


def _with_residuals(
    query, key, value, seen: CausalRows | FirstColumns
) -> tuple[Array, _Residuals]:
    told: dict[str, Any] = {}
    # The row that makes them even comes last, and is to be seen by none.
    if isinstance(seen, CausalRows):
        back = seen.rows_back
        window = None if back is None else (back, 0)
        told = {"is_causal": True, "local_window_size": window}
    elif seen.number is not None or key.shape[0] % 2:
        number = key.shape[0] if seen.number is None else seen.number
        told = {"key_value_seq_lengths": jnp.asarray(number, jnp.int32)[None]}
    query, key, value = _even_rows(query, key, value)
    out, vjp = jax.vjp(partial(_attend, **told), query, key, value)
    leaves, tree = jax.tree.flatten(vjp)
    rows, heads = query.shape[:2]
    lse_at = [
        at
        for at, x in enumerate(leaves)
        if x.shape == (1, heads, rows) and x.dtype == jnp.float32
    ]
    # In order: query, key, value and, last, the output.
    known = {(1, *x.shape) for x in (query, key, value)}
    rows_at = [
        at for at, x in enumerate(leaves) if x.shape in known and x.dtype == out.dtype
    ]
    if len(lse_at) != 1 or len(rows_at) != 4:
        raise CudnnLayoutError(
            "cuDNN attention's residuals must be query, key, value, log-sum-exp and "
            f"output, found {[(x.shape, str(x.dtype)) for x in leaves]}; pass "
            "engine='blockwise' and report the version of JAX."
        )
    return out, _Residuals(leaves, tree, lse_at[0], rows_at[-1])


def _attend(query, key, value, **arguments) -> Array:
    return jax.nn.dot_product_attention(
        query[None], key[None], value[None], implementation="cudnn", **arguments
    )[0]


def _attend_all(query, key, value) -> Array:
    if key.shape[0] % 2:  # the row that makes it even is not to be seen
        return _attend_some(query, key, value, jnp.ones(key.shape[0], bool))
    return _attend(*_even_rows(query, key, value))[: query.shape[0]]


def _attend_some(query, key, value, allowed: Bool[Array, " kv_len"]) -> Array:
    """Attention to the allowed keys: their order is free, so they are put first."""
    order = jnp.argsort(~allowed, stable=True)
    return _attend_first(query, key[order], value[order], allowed.sum())


def _sees_first(mask: StepMask) -> bool:
    """Whether all rows see the first so many columns, and no other."""
    return mask.query_steps == 1 and mask.window is None


def _attend_first(query, key, value, count: Int[Array, ""]) -> Array:
    """Attention to the first keys, so many of them."""
    count = count.astype(jnp.int32)
    arrays = _even_rows(query, key, value)
    out = _attend(*arrays, key_value_seq_lengths=jnp.maximum(count, 1)[None])
    return jnp.where(count > 0, out[: query.shape[0]], 0)


def _attend_dense(query, key, value, allowed: Bool[Array, "q_len kv_len"]) -> Array:
    rows = query.shape[0]
    (columns_even,) = _even_rows(allowed.T)
    (mask,) = _even_rows(columns_even.T)
    out = _attend(*_even_rows(query, key, value), mask=mask[None, None])[:rows]
    return jnp.where(allowed.any(1)[:, None, None], out, 0)


def _even_rows(*arrays: Array) -> list[Array]:
    """With a row of zeros more where they are odd in number: JAX refuses to
    differentiate the kernel at odd lengths."""
    return [jnp.pad(x, [(0, x.shape[0] % 2)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]


def _widest_head() -> int:
    """Channels that a head can have: more from Hopper on."""
    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    return 256 if float(capability) >= 9.0 else 128


@cache
def _trouble() -> str | None:
    """What keeps this version of JAX from running the engine, with a warning."""
    x = jax.ShapeDtypeStruct((8, 1, 64), jnp.bfloat16)

    def loss(query, key, value):
        sizes = StepSizes(2, 2, 2)
        return jnp.sum(attend_steps(query, key, value, sizes, CudnnKernel()))

    try:
        jax.eval_shape(jax.grad(loss, (0, 1, 2)), x, x, x)
    except Exception as error:  # whatever the version does not have
        reason = f"this version of JAX does not run it: {error}"
        warnings.warn(f"The engine 'cudnn' steps aside: {reason}", stacklevel=2)
        return reason
    return None
