"""The few pairs of a step that plain causal attention misses, in one fused kernel.

Rows of a step see each other, so row `r` of a step must see, beside the rows up to its
own, those after it up to the end of its step; with a window, at the oldest step that is
seen, also those before its own place. Both are runs of at most a step, next to the
diagonal and a fixed distance from it. The kernel goes over blocks of rows once: memory
traffic is all it costs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from .triton import dot, load, power_of_two, run_kernel, store


BLOCK = 32  # rows of a program: few, so that many programs load at once
LONGEST = 64  # rows of a step, up to which it is not cut


class StepPairs(NamedTuple):
    """Which pairs of rows plain causal attention misses.

    Attributes:
        per_step: rows of a step.
        rows_back: how many rows the causal kernel looks back, a multiple of
            `per_step`; `None` for all.
    """

    per_step: int
    rows_back: int | None

    def runs(self, rows: int) -> list["_Run"]:
        """The runs of missed rows, for a sequence of so many rows."""
        if self.per_step == 1:
            return []
        runs = [_Run(self.per_step, 0, after=True)]
        if self.rows_back is not None and self.rows_back < rows:
            runs.append(_Run(self.per_step, self.rows_back, after=False))
        return runs


class _Run(NamedTuple):
    """Row `r` misses the rows after (or before) row `r - back`, in the step of that."""

    per_step: int
    back: int
    after: bool

    def missed(self, row, column):
        """Whether `row` misses `column`."""
        place = row - self.back
        same_step = (place >= 0) & (place // self.per_step == column // self.per_step)
        return same_step & (column > place if self.after else column < place)

    def columns_of(self, first, last):
        """Bounds of the columns that the rows `first` to `last` miss."""
        return self._bounds(first - self.back, last - self.back, self.after)

    def rows_of(self, first, last):
        """Bounds of the rows that miss one of the columns `first` to `last`."""
        first, last = self._bounds(first, last, not self.after)
        return first + self.back, last + self.back

    def _bounds(self, first, last, after: bool):
        step = self.per_step
        if after:
            return first, last // step * step + step - 1
        return jnp.maximum(first, 0) // step * step, last


def merge_pairs(
    query: Float[Array, "rows heads head_dim"],
    key: Float[Array, "rows heads head_dim"],
    value: Float[Array, "rows heads v_dim"],
    out: Float[Array, "rows heads v_dim"],
    lse: Float[Array, "heads rows"],
    pairs: StepPairs,
) -> tuple[Float[Array, "rows heads v_dim"], Float[Array, "heads rows"]]:
    """Merges the missed pairs into the output and log-sum-exp of the causal kernel.

    Args:
        lse: finite, as every row sees itself.

    Returns:
        the output, and its log-sum-exp.
    """
    runs = pairs.runs(query.shape[0])
    if not runs:
        return out, lse
    sizes = _Sizes.of(query, value, pairs.per_step)
    return _call(
        partial(_forward_kernel, runs=runs, sizes=sizes),
        sizes,
        (query, key, value, out, lse),
        updates={3: 0, 4: 1},
    )


def add_pair_gradients(
    query: Float[Array, "rows heads head_dim"],
    key: Float[Array, "rows heads head_dim"],
    value: Float[Array, "rows heads v_dim"],
    out: Float[Array, "rows heads v_dim"],
    lse: Float[Array, "heads rows"],
    d_out: Float[Array, "rows heads v_dim"],
    gradients: tuple[Array, Array, Array],
    pairs: StepPairs,
) -> tuple[Array, Array, Array]:
    """Adds the gradients of the missed pairs, under the merged `out` and `lse`, to
    those of query, key and value."""
    runs = pairs.runs(query.shape[0])
    if not runs:
        return gradients
    sizes = _Sizes.of(query, value, pairs.per_step)
    return _call(
        partial(_backward_kernel, runs=runs, sizes=sizes),
        sizes,
        (query, key, value, out, lse, d_out, *gradients),
        updates={6: 0, 7: 1, 8: 2},
    )


class _Sizes(NamedTuple):
    """Sizes that the kernels are made for."""

    rows: int
    heads: int
    head_dim: int
    v_dim: int
    owned: int  # rows that a program answers for: whole steps, where they fit
    tile: int  # rows that it loads at once, a power of two as Triton needs

    @classmethod
    def of(cls, query: Array, value: Array, per_step: int) -> "_Sizes":
        owned = max(BLOCK // per_step, 1) * per_step
        owned = BLOCK if owned > LONGEST else owned
        tile = max(16, power_of_two(owned))
        rows, heads, head_dim = query.shape
        return cls(rows, heads, head_dim, value.shape[-1], owned, tile)

    def is_alone(self, run: _Run) -> bool:
        """Whether the rows of a program miss none but each other."""
        return run.back == 0 and self.owned % run.per_step == 0


def _call(
    kernel: Callable, sizes: _Sizes, inputs: tuple[Array, ...], updates: dict[int, int]
) -> Any:
    """Runs a kernel over all blocks of all heads; `updates` are the inputs that it
    updates in place, with the number of the output."""
    blocks = -(-sizes.rows // sizes.owned)

    @custom_vmap
    def of_batch(*inputs):
        programs = inputs[0].shape[0] * blocks * sizes.heads
        outputs = tuple(inputs[at] for at in updates)
        return run_kernel(kernel, programs, inputs, outputs, updates=updates)

    @of_batch.def_vmap
    def of_batches(size, is_batched, *inputs):
        # One more axis of a batch joins the first: Triton's grids have few axes.
        repeated = (
            x if batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, batched in zip(inputs, is_batched, strict=True)
        )
        joined = of_batch(*(x.reshape(-1, *x.shape[2:]) for x in repeated))
        outputs = tuple(x.reshape(size, -1, *x.shape[1:]) for x in joined)
        return outputs, (True,) * len(outputs)

    return tuple(x[0] for x in of_batch(*(x[None] for x in inputs)))


class _Tile(NamedTuple):
    """Consecutive rows of one head of one example, loaded from any array of rows."""

    example: Any
    head: Any
    first: Any
    sizes: _Sizes

    @property
    def ids(self):
        return self.first + jnp.arange(self.sizes.tile)

    @property
    def ends(self):
        """The first and last row that the program owns, if this is its tile."""
        return self.first, self.first + self.sizes.owned - 1

    def misses(self, columns: "_Tile", run: _Run):
        """Which of these rows miss which of those columns."""
        missed = run.missed(self.ids[:, None], columns.ids[None, :])
        rows = self.sizes.rows
        return missed & (self.ids < rows)[:, None] & (columns.ids < rows)[None, :]

    def load(self, ref):
        """Rows of an array (examples, rows, heads, channels), zero past the end."""
        at, inside = self._place(ref)
        return load(at, inside)

    def store(self, ref, x, rows) -> None:
        at, inside = self._place(ref)
        store(at, x, inside & rows[:, None])

    def load_scalars(self, ref):
        """Rows of an array (examples, heads, rows), as a column, zero past the end."""
        at = ref.at[self.example, self.head, self._slice()]
        return load(at, self.ids < self.sizes.rows)[:, None]

    def store_scalars(self, ref, x, rows) -> None:
        inside = (self.ids < self.sizes.rows) & rows
        store(ref.at[self.example, self.head, self._slice()], x, inside)

    def _place(self, ref):
        channels = ref.shape[-1]
        width = max(16, power_of_two(channels))
        inside = (self.ids < self.sizes.rows)[:, None]
        across = slice(None)
        if width != channels:
            inside = inside & (jnp.arange(width) < channels)[None, :]
            # JAX refuses a slice past the end, unless it cannot see where it starts.
            across = pl.ds(0 * self.head, width)
        inside = jnp.broadcast_to(inside, (self.sizes.tile, width))
        return ref.at[self.example, self._slice(), self.head, across], inside

    def _slice(self):
        return pl.ds(self.first, self.sizes.tile)


def _own_tile(sizes: _Sizes):
    """The tile of this program, and which of its rows are the program's own."""
    block, head = pl.program_id(0) // sizes.heads, pl.program_id(0) % sizes.heads
    blocks = -(-sizes.rows // sizes.owned)
    first = block % blocks * sizes.owned
    tile = _Tile(block // blocks, head, first, sizes)
    own = (jnp.arange(sizes.tile) < sizes.owned) & (tile.ids < sizes.rows)
    return tile, own


def _over_tiles(own: _Tile, bounds: tuple, body: Callable, start):
    """Folds `body(tile, carry)` over the tiles that hold the rows within `bounds`."""
    sizes = own.sizes
    first = jnp.maximum(bounds[0], 0)
    last = jnp.minimum(bounds[1], sizes.rows - 1)
    count = (jnp.maximum(last - first + 1, 0) + sizes.tile - 1) // sizes.tile

    def step(at, carry):
        return body(own._replace(first=first + at * sizes.tile), carry)

    return lax.fori_loop(0, count, step, start)


def _forward_kernel(
    query_ref,
    key_ref,
    value_ref,
    out_ref,
    lse_ref,
    new_out_ref,
    new_lse_ref,
    runs,
    sizes,
):
    tile, own = _own_tile(sizes)
    query = tile.load(query_ref)
    lse = tile.load_scalars(lse_ref)
    out = tile.load(out_ref).astype(lse.dtype)

    for run in runs:

        def add(columns, carry, run=run):
            out, lse = carry
            allowed = own[:, None] & tile.misses(columns, run)
            scores = _scores(query, columns.load(key_ref), allowed, sizes)
            top = jnp.maximum(lse, scores.max(1, keepdims=True))
            weights, old = jnp.exp(scores - top), jnp.exp(lse - top)
            total = old + weights.sum(1, keepdims=True)
            new = dot(weights, columns.load(value_ref))
            return (old * out + new) / total, top + jnp.log(total)

        if sizes.is_alone(run):
            out, lse = add(tile, (out, lse))
        else:
            bounds = run.columns_of(*tile.ends)
            out, lse = _over_tiles(tile, bounds, add, (out, lse))

    tile.store(new_out_ref, out, own)
    tile.store_scalars(new_lse_ref, lse[:, 0], own)


def _backward_kernel(
    query_ref,
    key_ref,
    value_ref,
    out_ref,
    lse_ref,
    d_out_ref,
    d_query_ref,
    d_key_ref,
    d_value_ref,
    new_d_query_ref,
    new_d_key_ref,
    new_d_value_ref,
    runs,
    sizes,
):
    tile, own = _own_tile(sizes)

    def rows_of(tile):
        """What a pair needs of its row."""
        d_out, lse = tile.load(d_out_ref), tile.load_scalars(lse_ref)
        out = tile.load(out_ref).astype(lse.dtype)
        shift = -(d_out.astype(lse.dtype) * out).sum(1, keepdims=True)
        return tile.load(query_ref), d_out, lse, shift

    def columns_of(tile):
        return tile.load(key_ref), tile.load(value_ref)

    def weights_of(allowed, rows, columns):
        """`p = exp(score - lse)` and `d_score = p (d_out·v + shift)`."""
        (query, d_out, lse, shift), (key, value) = rows, columns
        weights = jnp.exp(_scores(query, key, allowed, sizes) - lse)
        d_scores = weights * (dot(d_out, value, trans_b=True) + shift)
        return weights, d_scores * sizes.head_dim**-0.5

    rows, columns = rows_of(tile), columns_of(tile)
    d_query, d_key, d_value = (
        tile.load(ref).astype(rows[2].dtype)
        for ref in (d_query_ref, d_key_ref, d_value_ref)
    )
    for run in runs:

        def add_columns(others, d_query, run=run):
            allowed = own[:, None] & tile.misses(others, run)
            other_columns = columns_of(others)
            _, d_scores = weights_of(allowed, rows, other_columns)
            return d_query + dot(d_scores, other_columns[0])

        def add_rows(others, carry, run=run):
            d_key, d_value = carry
            allowed = own[None, :] & others.misses(tile, run)
            other_rows = rows_of(others)
            weights, d_scores = weights_of(allowed, other_rows, columns)
            d_key += dot(d_scores, other_rows[0], trans_a=True)
            return d_key, d_value + dot(weights, other_rows[1], trans_a=True)

        if sizes.is_alone(run):
            weights, d_scores = weights_of(tile.misses(tile, run), rows, columns)
            d_query += dot(d_scores, columns[0])
            d_key += dot(d_scores, rows[0], trans_a=True)
            d_value += dot(weights, rows[1], trans_a=True)
        else:
            bounds = run.columns_of(*tile.ends)
            d_query = _over_tiles(tile, bounds, add_columns, d_query)
            bounds = run.rows_of(*tile.ends)
            d_key, d_value = _over_tiles(tile, bounds, add_rows, (d_key, d_value))

    tile.store(new_d_query_ref, d_query, own)
    tile.store(new_d_key_ref, d_key, own)
    tile.store(new_d_value_ref, d_value, own)


def _scores(query, key, allowed, sizes):
    scores = dot(query, key, trans_b=True) * sizes.head_dim**-0.5
    return jnp.where(allowed, scores, -jnp.inf)
