"""What the kernels of `prefix_attend` go over: segments, tiles, tokens and lanes.

Rows are those of the output: every latent at every step. A tile's rows take turns in
lanes, as many as a matrix product takes at least; a lane belongs to one latent. What is
kept from tile to tile is kept by lane. Backward, the lanes have two sides, one for each
of the two rows per latent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .prefix_layout import LOG2_E, Inputs, Pull, Sizes, Sum, Tiling
from .softmax import finite_top
from .triton import dot, exp2, fma, load, log2, store


class Later(NamedTuple):
    """What comes after a tile: the log-sum-exp as of the next step, by lane, 0 if that
    saw nothing, and the pull of all rows from there on."""

    lse: Any
    pull: Pull


def plus(a: Pull, b: Pull) -> Pull:
    return Pull(a.value + b.value, a.shift + b.shift)


class Queries(NamedTuple):
    """Queries, and the step of a tile at which each of them stands."""

    query: Any
    rate: Any
    step: Any

    def at(self, step: int) -> "Queries":
        """All at one step."""
        return self._replace(step=jnp.full_like(self.rate, step))


class Context(NamedTuple):
    """The log-sum-exp by row, the value by lane."""

    lse: Any
    value: Any


class Program(NamedTuple):
    """A segment of a head."""

    sizes: Sizes
    tiling: Tiling
    sides: int
    segment: Any
    head: Any

    @classmethod
    def of(cls, sizes: Sizes, tiling: Tiling, sides: int = 1) -> "Program":
        number = pl.program_id(0)
        return cls(sizes, tiling, sides, number // sizes.heads, number % sizes.heads)

    @property
    def lanes(self) -> int:
        return max(16, self.sides * self.sizes.latents)

    @property
    def side(self):
        """The side of each lane."""
        return jnp.arange(self.lanes) // (self.lanes // self.sides)

    @property
    def size(self) -> int:
        """Rows of a tile; more than it has where it has fewer than lanes."""
        return max(self.lanes, self.sizes.latents * self.tiling.steps)

    @property
    def tiles(self):
        """How many tiles hold a step."""
        steps = self.sizes.steps - self.segment * self.sizes.segment
        steps = jnp.minimum(steps, self.sizes.segment)
        return (steps + self.tiling.steps - 1) // self.tiling.steps

    def tile(self, at) -> "Tile":
        first = self.segment * self.sizes.segment
        return Tile(self, first + at * self.tiling.steps)

    def fold_tiles(self, body: Callable, start):
        """Folds `body(tile, carry)` over the segment's tiles."""

        def step(at, carry):
            return body(self.tile(at), carry)

        return lax.fori_loop(0, self.tiles, step, start)

    def fold_tiles_back(self, load: Callable, body: Callable, start):
        """Folds `body(tile, load(tile), carry)` over these tiles in reverse; what is
        loaded for the next tile is on its way meanwhile."""
        tiles = self.tiles

        def step(at, carry):
            loaded, carry = carry
            tile, following = (
                self.tile(jnp.maximum(tiles - 1 - at - i, 0)) for i in (0, 1)
            )
            return load(following), body(tile, loaded, carry)

        return lax.fori_loop(0, tiles, step, (load(self.tile(tiles - 1)), start))[1]

    def queries(self, inputs: Inputs) -> Queries:
        """By lane."""
        rate = self.load_head(inputs.rate)
        return Queries(self.load_head(inputs.query), rate, jnp.zeros_like(rate))

    def rows(self, lanes: Queries) -> Queries:
        step = jnp.arange(self.size) // self.sizes.latents
        query = dot(self.own.astype(lanes.query.dtype), lanes.query)
        return Queries(
            query.astype(lanes.query.dtype),
            self.of_rows(lanes.rate),
            step.astype(jnp.float32),
        )

    def age(self, queries: Queries):
        """The steps between each query and each token that is loaded."""
        step = jnp.arange(self.tiling.tokens) // self.sizes.tokens
        return queries.step[:, None] - step.astype(jnp.float32)[None, :]

    def bias(self, queries: Queries):
        """What age takes off scores, all where the token comes later."""
        age = self.age(queries)
        return jnp.where(age >= 0, -queries.rate[:, None] * age, -jnp.inf)

    @property
    def own(self):
        """Which row is in which lane of the first side."""
        lane = jnp.arange(self.size) % (self.lanes // self.sides)
        return lane[:, None] == jnp.arange(self.lanes)[None, :]

    def of_rows(self, x):
        """What each row's lane has."""
        shape = self.size // self.lanes, self.lanes
        return jnp.broadcast_to(x[None, :], shape).reshape(self.size)

    def by_latent(self, x):
        """Lanes, split by which of a latent's lanes they are."""
        return x.reshape(-1, self.sizes.latents, *x.shape[1:])

    def by_side(self, x):
        """The sums of a latent's lanes on each side."""
        x = x.reshape(self.sides, -1, self.sizes.latents, *x.shape[1:]).sum(1)
        return x.reshape(-1, *x.shape[2:])

    def spread(self, weights, value, dtype):
        """What each row's lane has, by the row's weight."""
        weights = jnp.where(self.own, weights[:, None], 0.0).astype(dtype)
        return dot(weights, value.astype(dtype))

    def and_rows(
        self, later: Later, lanes: Queries, rows: Queries, first, lse, pull: Pull
    ) -> Later:
        """Adds the rows of a tile to what comes after it."""
        steps = self.tiling.steps
        weights = exp2(self.of_rows(first) - rows.rate * rows.step - lse)
        kept = exp2(first - lanes.rate * steps - later.lse)
        value, shift = map(self._older, later.pull)
        old = Pull(kept[:, None] * value, kept * shift)
        # Triton starts loads ahead only in loops that hand on nothing as they got it.
        return Later(finite_top(first), plus(old, self.pull(weights, rows.step, pull)))

    def pull(self, weights, ages, pull: Pull) -> Pull:
        """The rows' pull on their lanes: by their weights on the first side, and by
        these times their ages on the other."""
        half = self.lanes // 2
        lane, row = jnp.arange(self.lanes)[:, None], jnp.arange(self.size)[None, :]
        parts = jnp.where(lane < half, weights[None, :], (weights * ages)[None, :])
        parts = jnp.where(row % half == lane % half, parts, 0.0)
        shift = weights * pull.shift
        now, aged = (
            jnp.broadcast_to(x.reshape(-1, half).sum(0)[None, :], (2, half))
            for x in (shift, shift * ages)
        )
        return Pull(
            dot(parts, pull.value),
            jnp.where(
                self.side == 0, now.reshape(self.lanes), aged.reshape(self.lanes)
            ),
        )

    def _older(self, x):
        """The pulls of two sides, older by a tile."""
        sides = x.reshape(2, -1, *x.shape[1:])
        side = lax.broadcasted_iota(jnp.int32, sides.shape, 0)
        now = jnp.where(side == 0, sides, 0.0).sum(0)[None]
        aged = sides + jnp.where(side == 1, self.tiling.steps * now, 0.0)
        return aged.reshape(x.shape)

    def load_context(self, inputs: Inputs) -> Context | None:
        if inputs.context is None:
            return None
        lse, value = map(self.load_head, inputs.context)
        return Context(self.of_rows(lse), value)

    def total_lse(self, lse, context: Context | None):
        """What to take off the rows' scores, the context's included: 0 for rows that
        saw nothing."""
        return finite_top(
            lse if context is None else log_add((lse, 1.0), (context.lse, 1.0))
        )

    def load_head(self, ref):
        """Of the latents of the head, by lane."""
        return ref[self._latents(ref, self.head)]

    def load_segment(self, ref):
        """Of the latents of the segment and the head, by lane."""
        return ref[self._latents(ref, self.segment * self.sizes.heads + self.head)]

    def load_pull(self, refs: Pull) -> Pull:
        """The pulls of each side, in the first lane of each latent."""
        latents, half = self.sizes.latents, self.lanes // 2
        lane = jnp.arange(self.lanes) % half
        block = 2 * (self.segment * self.sizes.heads + self.head) + self.side
        at = block * latents + lane % latents
        first = lane < latents
        channels = jnp.arange(self.sizes.width)
        value = refs.value[at[:, None], channels[None, :]]
        return Pull(
            jnp.where(first[:, None], value, 0.0), jnp.where(first, refs.shift[at], 0.0)
        )

    def _latents(self, ref, block):
        latents = self.sizes.latents
        latent = block * latents + jnp.arange(self.lanes) % latents
        if len(ref.shape) == 1:
            return (latent,)
        return latent[:, None], jnp.arange(self.sizes.width)[None, :]

    def store_latents(self, ref, x) -> None:
        block = self.segment * self.sizes.heads + self.head
        at = pl.ds(block * x.shape[0], x.shape[0])
        ref[(at, slice(None))[: len(ref.shape)]] = x


class Tile(NamedTuple):
    """Steps of a segment, from `first` on."""

    program: Program
    first: Any

    @property
    def rows(self) -> "_Run":
        sizes, tiling = self.program.sizes, self.program.tiling
        first, size = self.first * sizes.latents, self.program.size
        count = None
        if sizes.steps % tiling.steps or size > tiling.steps * sizes.latents:
            steps = jnp.minimum(sizes.steps - self.first, tiling.steps)
            count = steps * sizes.latents
        return _Run(self.program.head, first, size, count)

    def fold_tokens(self, inputs: Inputs, add: Callable, start):
        """Folds `add(tokens, carry)` over the tile's tokens."""
        sizes, tiling = self.program.sizes, self.program.tiling
        count = tiling.steps * sizes.tokens
        assert tiling.steps == 1 or count <= tiling.tokens

        def tokens(at) -> Tokens:
            skipped = at * tiling.tokens
            first = self.first * sizes.tokens + skipped
            left = None
            if sizes.steps % tiling.steps or count % tiling.tokens:
                left = sizes.steps * sizes.tokens - first
                left = jnp.minimum(count - skipped, left)
            run = _Run(self.program.head, first, tiling.tokens, left)
            mask = None if inputs.mask is None else run.load(inputs.mask)
            return Tokens(run, run.load(inputs.key), run.load(inputs.value), mask)

        carry = add(tokens(0), start)
        if count <= tiling.tokens:
            return carry
        return lax.fori_loop(
            1,
            -(-count // tiling.tokens),
            lambda at, carry: add(tokens(at), carry),
            carry,
        )

    def total_lse(self, lse, context: Context | None):
        """The program's, or `inf` for rows past the end."""
        lse = self.program.total_lse(lse, context)
        return jnp.where(self.rows.inside, lse, jnp.inf)

    def first_lse(self, ref):
        """That of the first step, by lane."""
        latents = self.program.sizes.latents
        latent = jnp.arange(self.program.lanes) % latents
        return ref[self.program.head, self.first * latents + latent]


class _Run(NamedTuple):
    """Consecutive rows or tokens of a head, `count` of `size`, or all (`None`)."""

    head: Any
    first: Any
    size: int
    count: Any

    @property
    def inside(self):
        if self.count is None:
            return jnp.ones(self.size, bool)
        return jnp.arange(self.size) < self.count

    def load(self, ref):
        """From an array (n, heads, channels), (heads, n) or (n): zeros past the end."""
        view, inside = self._place(ref)
        return load(view, inside)

    def store(self, ref, x) -> None:
        view, inside = self._place(ref)
        store(view, x, inside)

    def _place(self, ref):
        run = pl.ds(self.first, self.size)
        at = {1: (run,), 2: (self.head, run), 3: (run, self.head, slice(None))}
        view = ref.at[at[len(ref.shape)]]
        inside = self.inside if len(view.shape) == 1 else self.inside[:, None]
        return view, jnp.broadcast_to(inside, view.shape)


class Tokens(NamedTuple):
    run: _Run
    key: Any
    value: Any
    mask: Any

    def scores(self, queries: Queries, bias):
        """Those of each query on these tokens, with such a bias, a row each."""
        scores = fma(dot(queries.query, self.key, trans_b=True), self._scale, bias)
        return scores if self._bars is None else scores + self._bars[None, :]

    def columns(self, queries: Queries, bias):
        """The same, a column each."""
        scores = fma(dot(self.key, queries.query, trans_b=True), self._scale, bias)
        return scores if self._bars is None else scores + self._bars[:, None]

    def pulled(self, pull: Pull):
        """The gradient of each weight on these tokens, of rows with such a pull, a
        column each."""
        return dot(self.value, pull.value, trans_b=True) - pull.shift[None, :]

    @property
    def _scale(self) -> float:
        return LOG2_E * self.key.shape[1] ** -0.5

    @property
    def _bars(self):
        if self.mask is None and self.run.count is None:
            return None
        there = self.run.inside if self.mask is None else self.mask & self.run.inside
        return jnp.where(there, 0.0, -jnp.inf)


def add_keys(sums: Sum | None, scores, values) -> Sum:
    """Adds keys of such scores (rows, keys) and values (keys, channels)."""
    top = scores.max(1) if sums is None else jnp.maximum(sums.top, scores.max(1))
    finite = finite_top(top)
    weights = exp2(scores - finite[:, None])
    new = Sum(top, weights.sum(1), dot(weights, values))
    if sums is None:
        return new
    kept = exp2(sums.top - finite)
    return Sum(
        top,
        kept * sums.total + new.total,
        kept[:, None] * sums.value + new.value,
    )


def log_add(a, b):
    """The logarithm of two totals' sum, each with what was taken off its scores."""
    top = finite_top(jnp.maximum(a[0], b[0]))
    return top + log2(exp2(a[0] - top) * a[1] + exp2(b[0] - top) * b[1])
