"""The cuDNN engine: NVIDIA's fused attention as the causal kernel of `parts`.

Its log-sum-exp is needed in float32, and its backward pass under the merged output and
log-sum-exp. `return_residual` of `jax.nn.dot_product_attention` rounds the log-sum-exp
to the dtype of the output, which costs three times the error of the gradients. So both
go through `jax.vjp`, whose result carries the kernel's output and float32 log-sum-exp
among its leaves; backward, those two are replaced. No document promises that layout: it
is checked at every trace.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class CudnnLayoutError(RuntimeError):
    """This version of JAX keeps the kernel's residuals in another way than known."""


class CudnnKernel(NamedTuple):
    """Causal attention by cuDNN: float16 or bfloat16, heads of up to 128 channels, on
    an NVIDIA GPU."""

    def forward(
        self, query: Array, key: Array, value: Array, rows_back: int | None
    ) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "rows heads"]]:
        """
        Raises:
            CudnnLayoutError: the residuals are not as known.
        """
        out, residuals = _attention(query, key, value, rows_back)
        return out, residuals.leaves[residuals.lse_at][0].T

    def backward(
        self,
        query: Array,
        key: Array,
        value: Array,
        out: Array,
        lse: Float[Array, "rows heads"],
        d_out: Array,
        rows_back: int | None,
    ) -> tuple[Array, Array, Array]:
        """
        Raises:
            CudnnLayoutError: the residuals are not as known.
        """
        _, residuals = _attention(query, key, value, rows_back)
        leaves = list(residuals.leaves)
        leaves[residuals.lse_at] = lse.T[None]
        leaves[residuals.out_at] = out[None]
        return jax.tree.unflatten(residuals.tree, leaves)(d_out)


class _Residuals(NamedTuple):
    """What the kernel keeps for its backward pass, and where in it."""

    leaves: list[Array]
    tree: Any
    lse_at: int
    out_at: int


def _attention(query, key, value, rows_back: int | None) -> tuple[Array, _Residuals]:
    def kernel(query, key, value):
        return jax.nn.dot_product_attention(
            query[None],
            key[None],
            value[None],
            is_causal=True,
            implementation="cudnn",
            local_window_size=None if rows_back is None else (rows_back, 0),
        )[0]

    out, vjp = jax.vjp(kernel, query, key, value)
    leaves, tree = jax.tree.flatten(vjp)
    rows, heads = query.shape[:2]
    lse_at = [
        at
        for at, x in enumerate(leaves)
        if x.shape == (1, heads, rows) and x.dtype == jnp.float32
    ]
    # In order: query, key, value and, last, the output.
    rows_at = [
        at
        for at, x in enumerate(leaves)
        if x.shape == (1, *out.shape) and x.dtype == out.dtype
    ]
    if len(lse_at) != 1 or len(rows_at) != 4:
        raise CudnnLayoutError(
            "cuDNN attention's residuals must be query, key, value, log-sum-exp and "
            f"output, found {[(x.shape, str(x.dtype)) for x in leaves]}; pass "
            "engine='blockwise' and report the version of JAX."
        )
    return out, _Residuals(leaves, tree, lse_at[0], rows_at[-1])
