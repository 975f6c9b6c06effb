"""Block-causal attention out of a plain causal kernel and the few pairs that it misses.

Rows of a step see each other, and so `StepMask` with as many queries as keys a step is
plain causal attention over the rows but for two small parts: inside a step, the keys
that come after the row; with a window, at the oldest step that is seen, the keys before
the row's own place. Each part is averaged on its own and merged. Backward, each part
takes its gradient under the merged average, and they add; a kernel's own log-sum-exp is
never differentiated.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from .dense import attention_scores, dense_average, state_dtype
from .softmax import SoftmaxAverage, empty_average, merge


@runtime_checkable
class CausalKernel(Protocol):
    """Plain causal attention over rows: row `i` sees rows `i - rows_back` to `i`, or
    all up to `i` where `rows_back` is `None`. Hashable, since it is static."""

    def forward(
        self, query: Array, key: Array, value: Array, rows_back: int | None
    ) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "rows heads"]]:
        """The output, and its log-sum-exp in float32."""
        ...

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
        """Gradients of query, key and value, where `out` and `lse` are those of an
        average over these pairs and others."""
        ...


class _Part(NamedTuple):
    """Pairs of rows of step `t` and keys of step `t - steps_back`."""

    steps_back: int
    allowed: Bool[Array, "rows_per_step rows_per_step"]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def block_causal(
    query: Float[Array, "rows heads head_dim"],
    key: Float[Array, "rows heads head_dim"],
    value: Float[Array, "rows heads v_dim"],
    per_step: int,
    window: int | None,
    kernel: CausalKernel,
) -> Float[Array, "rows heads v_dim"]:
    """Attention under `StepMask(steps, steps, per_step, per_step, window)`.

    Args:
        query, key, value: whole steps of `per_step` rows each.
        per_step: rows of a step.
        window: how many steps a row sees, its own included; `None` for all.
        kernel: what does the causal part.

    Source:
        Dao et al., "FlashAttention" (2022), §3.1, for gradients from the merged output
        and log-sum-exp.
    """
    return _forward(query, key, value, per_step, window, kernel)[0]


def _forward(query, key, value, per_step, window, kernel):
    out, lse = kernel.forward(query, key, value, _rows_back(per_step, window))
    dtype = state_dtype(query, key, value)
    average = SoftmaxAverage(lse.astype(dtype), out.astype(dtype))
    for part in _parts(query.shape[0] // per_step, per_step, window):
        rows, columns = _sides(part, per_step)
        missed = jax.vmap(partial(dense_average, allowed=part.allowed))(
            rows(query), columns(key), columns(value)
        )
        missed = jax.tree.map(lambda x: rearrange(x, "t c ... -> (t c) ..."), missed)
        average = merge(average, _behind(part.steps_back * per_step, missed))
    out = average.value.astype(value.dtype)
    return out, (query, key, value, out, average.lse)


def _backward(per_step, window, kernel, residuals, d_out):
    query, key, value, out, lse = residuals
    dtype = lse.dtype
    sums = kernel.backward(*residuals, d_out, _rows_back(per_step, window))
    shift = -jnp.einsum("qhd,qhd->qh", d_out, out, preferred_element_type=dtype)
    small_gradients = jax.vmap(_small_gradients, in_axes=(0,) * 6 + (None,))
    for part in _parts(query.shape[0] // per_step, per_step, window):
        rows, columns = _sides(part, per_step)
        gradients = small_gradients(
            rows(query),
            columns(key),
            columns(value),
            rows(d_out),
            rows(lse),
            rows(shift),
            part.allowed,
        )
        first = part.steps_back * per_step
        stop = query.shape[0] - first
        flat = [rearrange(x, "t c ... -> (t c) ...") for x in gradients]
        places = (slice(first, None), slice(0, stop), slice(0, stop))
        sums = [
            total.astype(dtype).at[place].add(gradient)
            for total, place, gradient in zip(sums, places, flat, strict=True)
        ]
    return tuple(
        total.astype(x.dtype) for total, x in zip(sums, residuals[:3], strict=True)
    )


block_causal.defvjp(_forward, _backward)


def _small_gradients(query, key, value, d_out, lse, shift, allowed):
    """Of one step's pairs: `p = exp(score - lse)`, `d_score = p (d_out·v + shift)`."""
    dtype = lse.dtype
    scores = attention_scores(query, key, allowed, dtype)
    weights = jnp.exp(scores - lse.T[..., None])
    wide = {"preferred_element_type": dtype}
    d_weights = jnp.einsum("qhd,khd->hqk", d_out, value, **wide)
    d_scores = weights * (d_weights + shift.T[..., None]) * query.shape[-1] ** -0.5
    d_scores, weights = d_scores.astype(query.dtype), weights.astype(value.dtype)
    return (
        jnp.einsum("hqk,khd->qhd", d_scores, key, **wide),
        jnp.einsum("hqk,qhd->khd", d_scores, query, **wide),
        jnp.einsum("hqk,qhd->khd", weights, d_out, **wide),
    )


def _rows_back(per_step: int, window: int | None) -> int | None:
    return None if window is None else (window - 1) * per_step


def _parts(steps: int, per_step: int, window: int | None) -> list[_Part]:
    """What plain causal attention over the rows misses."""
    if per_step == 1:
        return []
    square = jnp.ones((per_step, per_step), bool)
    parts = [_Part(0, jnp.triu(square, 1))]
    if window is not None and window <= steps:
        parts.append(_Part(window - 1, jnp.tril(square, -1)))
    return parts


def _sides(part: _Part, per_step: int):
    """Cuts arrays of rows into steps: those that see, and those that are seen."""

    def by_step(x: Array) -> Array:
        return rearrange(x, "(t c) ... -> t c ...", c=per_step)

    return (
        lambda x: by_step(x)[part.steps_back :],
        lambda x: by_step(x)[: x.shape[0] // per_step - part.steps_back],
    )


def _behind(count: int, average: SoftmaxAverage) -> SoftmaxAverage:
    """The average behind `count` rows that saw nothing."""
    if count == 0:
        return average
    heads, v_dim = average.value.shape[1:]
    nothing = empty_average((count, heads), v_dim, average.value.dtype)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), nothing, average)
