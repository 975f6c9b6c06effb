"""The cuDNN engine: NVIDIA's fused attention as the causal kernel of `parts`.

Its backward pass must run under the merged output and log-sum-exp. The public way to it
is `jax.vjp` of `jax.nn.dot_product_attention`, whose result carries the kernel's output
and log-sum-exp among its leaves; those two are replaced. No document promises that
layout, so it is checked at every trace.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class CudnnLayoutError(RuntimeError):
    """This version of JAX keeps the kernel's residuals in another way than known."""


class CudnnKernel(NamedTuple):
    """Causal attention by cuDNN: float16 or bfloat16, heads of up to 256 channels, on
    an NVIDIA GPU."""

    def forward(
        self, query: Array, key: Array, value: Array, rows_back: int | None
    ) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "rows heads"]]:
        out, lse = _attention(query, key, value, rows_back)
        return out, lse.astype(jnp.float32)

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

        def kernel(query, key, value):
            return _attention(query, key, value, rows_back)[0]

        _, vjp = jax.vjp(kernel, query, key, value)
        leaves, tree = jax.tree.flatten(vjp)
        rows, heads = lse.shape
        is_lse = [
            x.shape == (1, heads, rows) and x.dtype == jnp.float32 for x in leaves
        ]
        # In order: query, key, value and, last, the output.
        is_rows = [
            i
            for i, x in enumerate(leaves)
            if x.shape[1:] == out.shape and x.dtype == out.dtype
        ]
        if sum(is_lse) != 1 or len(is_rows) != 4:
            raise CudnnLayoutError(
                "cuDNN attention's residuals must be query, key, value, log-sum-exp "
                f"and output, found {[(x.shape, str(x.dtype)) for x in leaves]}; pass "
                "engine='blockwise' and report the version of JAX."
            )
        leaves = [
            lse.T[None] if hit else x for x, hit in zip(leaves, is_lse, strict=True)
        ]
        leaves[is_rows[-1]] = out[None]
        return jax.tree.unflatten(tree, leaves)(d_out)


def _attention(query, key, value, rows_back: int | None):
    window = None if rows_back is None else (rows_back, 0)
    out, lse = jax.nn.dot_product_attention(
        query[None],
        key[None],
        value[None],
        is_causal=True,
        implementation="cudnn",
        local_window_size=window,
        return_residual=True,
    )
    return out[0], lse[0]
