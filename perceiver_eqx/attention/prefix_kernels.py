"""The kernels of `prefix_fused`, each over a segment of the steps of one head.

`inputs` and all that ends in `_ref` are references.
"""

import jax
import jax.numpy as jnp

from .prefix_layout import Inputs, Pull, Sizes, Sum, Tiling
from .prefix_tiles import Later, Program, add_keys, log_add, plus
from .softmax import finite_top
from .triton import dot, exp2


def average_kernel(inputs: Inputs, sums_ref: Sum, *, sizes: Sizes, tiling: Tiling):
    """Averages a segment's tokens, as of the end of its last tile."""
    program = Program.of(sizes, tiling)
    lanes = program.queries(inputs)
    bias = program.bias(lanes.at(tiling.steps - 1))

    def add_tile(tile, sums: Sum):
        def add(tokens, sums):
            return add_keys(sums, tokens.scores(lanes, bias), tokens.value)

        aged = sums._replace(top=sums.top - lanes.rate * tiling.steps)
        return tile.fold_tokens(inputs, add, aged)

    zeros = jnp.zeros_like(lanes.rate)
    nothing = Sum(zeros - jnp.inf, zeros, jnp.zeros((zeros.size, sizes.width)))
    sums = program.fold_tiles(add_tile, nothing)
    mean = sums.value / jnp.where(sums.total == 0, 1.0, sums.total)[:, None]
    for ref, x in zip(sums_ref, (sums.top, sums.total, mean), strict=True):
        program.store_latents(ref, program.by_latent(x).max(0))


def attend_kernel(inputs: Inputs, before_ref: Sum, out_ref, lse_ref, *, sizes, tiling):
    """The rows of a segment, given what was seen before it."""
    program = Program.of(sizes, tiling)
    lanes = program.queries(inputs)
    rows = program.rows(lanes)
    bias = program.bias(lanes.at(tiling.steps - 1))
    row_bias = program.bias(rows)
    since = rows.rate * (rows.step + 1)
    context = program.load_context(inputs)

    def attend_tile(tile, seen: Sum):
        def add(tokens, sums):
            by_row, by_lane = sums
            return (
                add_keys(by_row, tokens.scores(rows, row_bias), tokens.value),
                add_keys(by_lane, tokens.scores(lanes, bias), tokens.value),
            )

        aged = seen._replace(top=seen.top - lanes.rate * tiling.steps)
        by_row, by_lane = tile.fold_tokens(inputs, add, (None, aged))
        top = program.of_rows(seen.top) - since
        lse = log_add(by_row[:2], (top, program.of_rows(seen.total)))
        tile.rows.store(lse_ref, lse)
        total = program.total_lse(lse, context)
        out = exp2(by_row.top - total)[:, None] * by_row.value
        out += program.spread(exp2(top - total), seen.value, rows.query.dtype)
        if context is not None:
            beside = exp2(context.lse - total)
            out += program.spread(beside, context.value, rows.query.dtype)
        tile.rows.store(out_ref, out)
        return by_lane

    program.fold_tiles(attend_tile, jax.tree.map(program.load_segment, before_ref))


def gather_kernel(
    inputs: Inputs,
    lse_ref,
    out_ref,
    d_out_ref,
    shift_ref,
    pull_ref: Pull,
    beside_ref: Pull,
    *,
    sizes: Sizes,
    tiling: Tiling,
):
    """The pull of a segment's rows, as of its first step, and that on the context."""
    program = Program.of(sizes, tiling, sides=2)
    lanes = program.queries(inputs)
    rows = program.rows(lanes)
    context = program.load_context(inputs)

    def load(tile):
        return tile.rows.load(lse_ref), tile.first_lse(lse_ref)

    def gather_tile(tile, loaded, carry):
        lse, first = loaded
        later, beside = carry
        out, d_out = tile.rows.load(out_ref), tile.rows.load(d_out_ref)
        shift = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(1)
        tile.rows.store(shift_ref, shift)
        pull, lse = Pull(d_out, shift), tile.total_lse(lse, context)
        if context is not None:
            share = exp2(context.lse - lse)
            beside = plus(beside, program.pull(share, jnp.zeros_like(share), pull))
        return program.and_rows(later, lanes, rows, first, lse, pull), beside

    zeros = jnp.zeros_like(lanes.rate)
    nothing = Pull(jnp.zeros((zeros.size, sizes.width)), zeros)
    # By its infinite lse, nothing of what comes later is kept.
    carry = Later(zeros + jnp.inf, nothing), nothing
    later, beside = program.fold_tiles_back(load, gather_tile, carry)
    for ref, x in zip(pull_ref, later.pull, strict=True):
        program.store_latents(ref, program.by_side(x))
    for ref, x in zip(beside_ref, beside, strict=True):
        program.store_latents(ref, program.by_latent(x).sum(0))


def spread_kernel(
    inputs: Inputs,
    lse_ref,
    pull_ref: Pull,
    after_lse_ref,
    after_ref: Pull,
    d_key_ref,
    d_value_ref,
    d_query_ref,
    d_rate_ref,
    *,
    sizes: Sizes,
    tiling: Tiling,
):
    """The gradients of a segment's tokens, and its part of those of query and rate,
    given what comes after it."""
    program = Program.of(sizes, tiling, sides=2)
    lanes = program.queries(inputs)
    rows, after = program.rows(lanes), lanes.at(tiling.steps)
    row_bias, bias = program.bias(rows).T, program.bias(after).T
    context = program.load_context(inputs)
    dtype, scale = rows.query.dtype, sizes.width**-0.5
    own, now = program.own.astype(dtype), program.side[None, :] == 0

    def load(tile):
        run = tile.rows
        return run.load(lse_ref), tile.first_lse(lse_ref), run.load(pull_ref.shift)

    def spread_tile(tile, loaded, carry):
        lse, first, shift = loaded
        later, sums = carry
        d_out = tile.rows.load(pull_ref.value)
        pull, lse = Pull(d_out, shift), tile.total_lse(lse, context)
        later_value = later.pull.value.astype(dtype)

        def spread(tokens, sums):
            d_query, d_rows, d_lanes = sums
            by_row = exp2(tokens.columns(rows, row_bias) - lse[None, :])
            by_lane = exp2(tokens.columns(lanes, bias) - later.lse[None, :])
            d_row = by_row * tokens.pulled(pull)
            d_lane = by_lane * tokens.pulled(later.pull)
            d_value = dot(by_row.astype(dtype), d_out)
            d_value += dot(jnp.where(now, by_lane, 0.0).astype(dtype), later_value)
            tokens.run.store(d_value_ref, d_value)
            d_score = jnp.where(now, d_lane, 0.0) + dot(d_row.astype(dtype), own)
            d_score = (d_score * scale).astype(dtype)
            tokens.run.store(d_key_ref, dot(d_score, lanes.query))
            d_query += dot(d_score, tokens.key, trans_a=True)
            return d_query, d_rows + d_row, d_lanes + d_lane

        sums = tile.fold_tokens(inputs, spread, sums)
        return program.and_rows(later, lanes, rows, first, lse, pull), sums

    sums = (
        jnp.zeros((program.lanes, sizes.width)),
        jnp.zeros_like(row_bias),
        jnp.zeros_like(bias),
    )
    later_lse = finite_top(program.load_segment(after_lse_ref))
    later = Later(later_lse, program.load_pull(after_ref))
    _, sums = program.fold_tiles_back(load, spread_tile, (later, sums))
    d_query, d_rows, d_lanes = sums
    program.store_latents(d_query_ref, program.by_latent(d_query).sum(0))
    by_age = (d_lanes * jnp.where(now, program.age(after).T, 1.0)).sum(0)
    row_ages = (d_rows * program.age(rows).T).sum(0)
    by_age += jnp.where(program.own, row_ages[:, None], 0.0).sum(0)
    program.store_latents(d_rate_ref, -program.by_latent(by_age).sum(0))
