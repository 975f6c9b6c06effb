"""Attention of the steps of one device to one part of a ring: its own, or another
device's, by the portable engine or by a fused kernel.

Steps are dealt out in runs (`TimeAxis`). Of its own part, a step sees those up to its
own. Of another one's, a run of queries sees the runs before its own, and that of its
own number if that device comes before.

The fused kernel has no such mask, and needs none. Runs see themselves in squares; of
each two runs, the second sees the first in a square, and two are a run for the next
round. So all is plain attention, of as many kinds as runs can be halved.
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PyTree

from .blockwise import blockwise_average, blockwise_gradients
from .masks import StepMask
from .parts import FirstColumns, RowKernel, StepSizes, steps_average, steps_gradients
from .softmax import SoftmaxAverage, empty_average, merge


class RingSizes(NamedTuple):
    """Steps of a device, rows of each, and the runs that they are dealt out in."""

    steps: int
    rows: int
    runs: int

    @property
    def own_mask(self) -> StepMask:
        """From the queries of a device to its own keys."""
        return StepMask(self.steps, self.steps, self.rows, self.rows)

    @property
    def rows_of_run(self) -> int:
        """Rows of all steps of a run."""
        return self.steps // self.runs * self.rows


class Part(NamedTuple):
    """What goes round: the keys and values of a device, and how many of them are there,
    the first ones, where that may not be all."""

    key: Float[Array, "rows heads head_dim"]
    value: Float[Array, "rows heads v_dim"]
    there: Int[Array, ""] | None = None


@runtime_checkable
class RingEngine(Protocol):
    """What a ring asks of each device. Hashable, since it is static.

    `later` is whether a part is that of a later device, or `None` for this one's own.
    """

    def average(
        self, query: Array, part: Part, later: Bool[Array, ""] | None
    ) -> SoftmaxAverage:
        """What the queries find in a part."""
        ...

    def kept(self, average: SoftmaxAverage, dtype: DTypeLike) -> PyTree[Array]:
        """What `gradients` and `out` need of the average of all parts."""
        ...

    def out(self, kept: PyTree[Array], dtype: DTypeLike) -> Array:
        """The value of that average, in a dtype."""
        ...

    def gradients(
        self,
        query: Array,
        part: Part,
        kept: PyTree[Array],
        d_out: Array,
        later: Bool[Array, ""] | None,
    ) -> tuple[Array, Array, Array]:
        """Those of a part's keys and values, and what it adds to those of the queries,
        in the dtype of averages."""
        ...


class Tiled(abc.ABC):
    """A `RingEngine` by the portable engine, for any mask."""

    @abc.abstractmethod
    def mask(self, query: Array, part: Part, later: Bool[Array, ""] | None) -> StepMask:
        """What the queries see of a part."""

    def average(self, query, part, later):
        mask = self.mask(query, part, later)
        return blockwise_average(query, part.key, part.value, mask)

    def kept(self, average, dtype):
        del dtype  # in that of averages, as `merge` left it
        return average

    def out(self, kept, dtype):
        return kept.value.astype(dtype)

    def gradients(self, query, part, kept, d_out, later):
        mask = self.mask(query, part, later)
        return blockwise_gradients(query, part.key, part.value, mask, kept, d_out)


class Fused:
    """What a `RingEngine` by a kernel keeps: its output, and its log-sum-exp."""

    def kept(self, average, dtype):
        return average.value.astype(dtype), average.lse

    def out(self, kept, dtype):
        del dtype
        return kept[0]


@dataclass(frozen=True)
class TiledParts(Tiled):
    """By the portable engine."""

    sizes: RingSizes

    def mask(self, query, part, later) -> StepMask:
        del query, part
        if later is None:
            return self.sizes.own_mask
        # A run in the place of a step.
        runs, rows = self.sizes.runs, self.sizes.rows_of_run
        start = -later.astype(jnp.int32)
        return StepMask(runs, runs, rows, rows, query_start=start)


@dataclass(frozen=True)
class FusedParts(Fused):
    """By a kernel for rows."""

    sizes: RingSizes
    kernel: RowKernel

    def average(self, query, part, later):
        key, value, _ = part
        if later is None:
            return steps_average(query, key, value, self._own, self.kernel)

        def forward(query, key, value):
            return self.kernel.forward(query, key, value, FirstColumns())

        def add(average: SoftmaxAverage, squares: _Squares) -> SoftmaxAverage:
            rows = squares.queries(query), squares.keys(key), squares.keys(value)
            out, lse = jax.vmap(forward)(*rows)
            lse = lse.swapaxes(1, 2)
            found = SoftmaxAverage(lse, out.astype(lse.dtype))
            return squares.put_queries(average, merge(squares.queries(average), found))

        rows, heads, v_dim = query.shape[0], query.shape[1], value.shape[-1]
        start = empty_average((rows, heads), v_dim)
        return self._folded(add, start, later)

    def gradients(self, query, part, kept, d_out, later):
        (key, value, _), (out, lse) = part, kept
        if later is None:
            rows = query, key, value, out, lse.T, d_out
            return steps_gradients(*rows, self._own, self.kernel)

        def backward(query, key, value, out, lse, d_out):
            rows = query, key, value, out, lse.T, d_out
            return self.kernel.backward(*rows, FirstColumns())

        def add(sums: tuple, squares: _Squares) -> tuple:
            found = jax.vmap(backward)(
                squares.queries(query),
                *(squares.keys(x) for x in (key, value)),
                *(squares.queries(x) for x in (out, lse, d_out)),
            )
            d_query, *of_keys = (x.astype(lse.dtype) for x in found)
            return (
                squares.put_queries(sums[0], squares.queries(sums[0]) + d_query),
                *(
                    squares.put_keys(total, squares.keys(total) + x)
                    for total, x in zip(sums[1:], of_keys, strict=True)
                ),
            )

        start = tuple(jnp.zeros(x.shape, lse.dtype) for x in (query, key, value))
        return self._folded(add, start, later)

    @property
    def _own(self) -> StepSizes:
        return StepSizes(self.sizes.rows, self.sizes.rows, None)

    def _folded(self, add: Callable, start: PyTree, later: Bool[Array, ""]) -> PyTree:
        """Folds `add` over the squares that are seen."""
        runs, rows = self.sizes.runs, self.sizes.rows_of_run
        themselves = _Squares(runs, rows, 0, rows, rows)
        found = lax.cond(
            later, lambda start: start, lambda start: add(start, themselves), start
        )
        for squares in _before(runs, rows):
            found = add(found, squares)
        return found


class _Squares(NamedTuple):
    """In each of `repeats` periods of rows, `height` queries from `start` on see the
    first `width` keys."""

    repeats: int
    period: int
    start: int
    height: int
    width: int

    def queries(self, x: PyTree[Array]) -> PyTree[Array]:
        """Those queries of each period."""
        return jax.tree.map(lambda x: self._cut(x, self.start, self.height), x)

    def keys(self, x: Array) -> Array:
        """Those keys of each period."""
        return self._cut(x, 0, self.width)

    def put_queries(self, x: PyTree[Array], new: PyTree[Array]) -> PyTree[Array]:
        """`x` with other queries in the place of those."""
        return jax.tree.map(lambda x, new: self._put(x, new, self.start), x, new)

    def put_keys(self, x: Array, new: Array) -> Array:
        """`x` with other keys in the place of those."""
        return self._put(x, new, 0)

    def _cut(self, x: Array, start: int, count: int) -> Array:
        return self._periods(x)[:, start : start + count]

    def _put(self, x: Array, new: Array, start: int) -> Array:
        periods = lax.dynamic_update_slice_in_dim(self._periods(x), new, start, 1)
        held = periods.reshape(-1, *x.shape[1:])
        return jnp.concatenate([held, x[held.shape[0] :]])

    def _periods(self, x: Array) -> Array:
        held = x[: self.repeats * self.period]
        return held.reshape(self.repeats, self.period, *x.shape[1:])


def _before(runs: int, rows: int) -> Iterator[_Squares]:
    """What runs of so many rows see of the runs before them, but for themselves."""
    while runs > 1:
        if runs % 2:
            runs -= 1
            yield _Squares(1, (runs + 1) * rows, runs * rows, rows, runs * rows)
        yield _Squares(runs // 2, 2 * rows, rows, rows, rows)
        runs, rows = runs // 2, 2 * rows
