"""Attention between steps out of a plain causal kernel, and the pairs that it misses.

With as many queries as keys a step, attention under a `StepMask` is plain causal
attention over the rows, but for the few pairs of `pairs`. Other numbers of queries and
keys are cut into such squares: 8 queries and 20 keys a step into two squares of 8, then
two of 4 beside each other. Each square is a sequence of rows of its own, and attention
over all of them is the merge of their averages.

Backward, each square takes its gradient under the merged output and log-sum-exp, and
they add; the log-sum-exp of a kernel is never differentiated.
"""

from collections.abc import Iterator
from functools import partial, reduce
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from .masks import StepMask
from .pairs import StepPairs, add_pair_gradients, merge_pairs
from .softmax import ATTENDED, SoftmaxAverage, merge, merge_all


class CausalRows(NamedTuple):
    """Row `i` sees columns `i - rows_back` to `i`, or all up to `i` where that is
    `None`; there are as many columns as rows."""

    rows_back: int | None


class FirstColumns(NamedTuple):
    """All rows see so many columns, the first ones, at least one; all of them if that
    is `None`."""

    number: Int[Array, ""] | None = None


@runtime_checkable
class RowKernel(Protocol):
    """Plain attention over rows. Hashable, since it is static."""

    def forward(
        self, query: Array, key: Array, value: Array, seen: CausalRows | FirstColumns
    ) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "heads rows"]]:
        """The output, and its log-sum-exp in float32."""
        ...

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
        """Gradients of query, key and value, where `out` and `lse` are those of an
        average over these pairs and others."""
        ...


class StepSizes(NamedTuple):
    """Rows and columns of a step, and how many steps a row sees (`None` for all)."""

    queries: int
    keys: int
    window: int | None


def attend_mask(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    mask: StepMask,
    kernel: RowKernel,
) -> Float[Array, "q_len heads v_dim"]:
    """Attention under a mask whose `key_start` is 0.

    Queries of some of the steps are laid among rows of zeros, one row for each that the
    other steps would have; so the work is that of all key steps.
    """
    per_step, start = mask.queries_per_step, mask.query_start
    sizes = StepSizes(per_step, mask.keys_per_step, mask.window)
    steps = mask.key_steps
    if isinstance(start, int):
        steps = start + mask.query_steps
        key, value = (x[: steps * mask.keys_per_step] for x in (key, value))
    if steps == mask.query_steps:
        return attend_steps(query, key, value, sizes, kernel)
    rows = jnp.zeros((steps * per_step, *query.shape[1:]), query.dtype)
    rows = lax.dynamic_update_slice_in_dim(rows, query, start * per_step, 0)
    out = jnp.asarray(attend_steps(rows, key, value, sizes, kernel))
    return lax.dynamic_slice_in_dim(out, start * per_step, query.shape[0], 0)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend_steps(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    sizes: StepSizes,
    kernel: RowKernel,
) -> Float[Array, "q_len heads v_dim"]:
    """Attention under `StepMask(steps, steps, queries, keys, window)`.

    Args:
        query, key, value: the same whole steps, of `sizes.queries` and `sizes.keys`
            rows each.
        kernel: what does the causal part.

    Source:
        Dao et al., "FlashAttention" (2022), §3.1, for gradients from the merged output
        and log-sum-exp.
    """
    return _forward(query, key, value, sizes, kernel)[0]


def _forward(query, key, value, sizes, kernel):
    average = steps_average(query, key, value, sizes, kernel)
    out, lse = average.value.astype(value.dtype), average.lse.T
    out, lse = checkpoint_name(out, ATTENDED), checkpoint_name(lse, ATTENDED)
    return out, (query, key, value, out, lse)


def _backward(sizes, kernel, residuals, d_out):
    query, key, value, out, lse = residuals
    found = steps_gradients(query, key, value, out, lse, d_out, sizes, kernel)
    return tuple(
        gradient.astype(x.dtype)
        for gradient, x in zip(found, residuals[:3], strict=True)
    )


attend_steps.defvjp(_forward, _backward)


def steps_average(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    sizes: StepSizes,
    kernel: RowKernel,
) -> SoftmaxAverage:
    """`attend_steps`, as an average to be merged further; not to be differentiated."""
    averages = [
        squares.forward(query, key, value, kernel) for squares in _squares(sizes)
    ]
    return jax.tree.map(_whole, reduce(merge, averages))


def steps_gradients(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    out: Float[Array, "q_len heads v_dim"],
    lse: Float[Array, "heads q_len"],
    d_out: Float[Array, "q_len heads v_dim"],
    sizes: StepSizes,
    kernel: RowKernel,
) -> tuple[
    Float[Array, "q_len heads head_dim"],
    Float[Array, "kv_len heads head_dim"],
    Float[Array, "kv_len heads v_dim"],
]:
    """Gradients of query, key and value from the pairs of `attend_steps`, in the dtype
    of `lse`, where `out` and `lse` are those of an average over these and others."""
    rows = query, key, value, out, lse
    parts = [squares.backward(rows, d_out, kernel) for squares in _squares(sizes)]
    sums = (reduce(jnp.add, of_one) for of_one in zip(*parts, strict=True))
    d_query, d_key, d_value = (_whole(x).astype(lse.dtype) for x in sums)
    return d_query, d_key, d_value


def _whole(x: Array) -> Array:
    return rearrange(x, "t c ... -> (t c) ...")


class _Side(NamedTuple):
    """The rows of each step that lie in squares: from `first` on, `repeats` squares of
    `size` rows."""

    per_step: int
    first: int
    size: int
    repeats: int

    def cut(self, x: Array) -> Array:
        """One sequence of rows for each square."""
        by_step = rearrange(x, "(t c) ... -> t c ...", c=self.per_step)
        held = by_step[:, self.first : self.first + self.repeats * self.size]
        return rearrange(held, "t (n c) ... -> n (t c) ...", n=self.repeats)

    def put_back(self, x: Array, others: float = 0.0) -> Array:
        """The sequences as rows of whole steps; `others` fills the other rows."""
        held = rearrange(x, "n (t c) ... -> t (n c) ...", c=self.size)
        after = self.per_step - self.first - self.repeats * self.size
        widths = [(0, 0), (self.first, after)] + [(0, 0)] * (held.ndim - 2)
        return jnp.pad(held, widths, constant_values=others)


class _Squares(NamedTuple):
    """Squares of queries and keys of each step: one on one side, beside as many as it
    takes on the other."""

    queries: _Side
    keys: _Side
    window: int | None

    def forward(self, query, key, value, kernel: RowKernel) -> SoftmaxAverage:
        """What all queries see of the keys of these squares, with shape
        (steps, queries of a step, heads)."""

        def of_square(query, key, value):
            out, lse = kernel.forward(query, key, value, self._causal)
            return merge_pairs(query, key, value, out, lse, self._pairs)

        sides = self.queries.cut(query), self.keys.cut(key), self.keys.cut(value)
        out, lse = jax.vmap(of_square)(*self._repeated(*sides))
        lse = rearrange(lse, "n h r -> n r h")
        average = SoftmaxAverage(lse, out.astype(lse.dtype))
        if self.queries.repeats == 1:
            average = jax.tree.map(lambda x: x[None], merge_all(average))
        return SoftmaxAverage(
            lse=self.queries.put_back(average.top, -jnp.inf),
            value=self.queries.put_back(average.value),
            rest=self.queries.put_back(average.rest),
        )

    def backward(self, rows, d_out, kernel: RowKernel) -> tuple[Array, ...]:
        """Gradients of query, key and value from the pairs of these squares, each with
        shape (steps, rows of a step, heads, channels)."""
        query, key, value, out, lse = rows

        def of_square(query, key, value, out, lse, d_out):
            rows = query, key, value, out, lse.T, d_out
            gradients = kernel.backward(*rows, self._causal)
            return add_pair_gradients(*rows, gradients, self._pairs)

        query, out, lse, d_out = map(self.queries.cut, (query, out, lse.T, d_out))
        sides = query, self.keys.cut(key), self.keys.cut(value), out, lse, d_out
        gradients = jax.vmap(of_square)(*self._repeated(*sides))
        return tuple(
            side.put_back(self._summed(gradient, side, lse.dtype))
            for side, gradient in zip(
                (self.queries, self.keys, self.keys), gradients, strict=True
            )
        )

    @property
    def _pairs(self) -> StepPairs:
        size, window = self.queries.size, self.window
        return StepPairs(size, None if window is None else (window - 1) * size)

    @property
    def _causal(self) -> CausalRows:
        return CausalRows(self._pairs.rows_back)

    def _repeated(self, *sides: Array) -> Iterator[Array]:
        count = max(self.queries.repeats, self.keys.repeats)
        return (jnp.broadcast_to(x, (count, *x.shape[1:])) for x in sides)

    @staticmethod
    def _summed(gradient: Array, side: _Side, dtype) -> Array:
        if gradient.shape[0] == side.repeats:
            return gradient
        return gradient.sum(0, keepdims=True, dtype=dtype)


def _squares(sizes: StepSizes) -> list[_Squares]:
    """Euclid's algorithm: squares as large as fit, then what is left beside them."""
    squares = []
    query, key = 0, 0
    while query < sizes.queries and key < sizes.keys:
        rows, columns = sizes.queries - query, sizes.keys - key
        size = min(rows, columns)
        queries = _Side(sizes.queries, query, size, rows // size)
        keys = _Side(sizes.keys, key, size, columns // size)
        squares.append(_Squares(queries, keys, sizes.window))
        if rows <= columns:
            key += keys.repeats * size
        else:
            query += queries.repeats * size
    return squares
