from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from perceiver_eqx import StepMask, attend
from perceiver_eqx.attention.dense import attention_scores
from perceiver_eqx.attention.parts import (
    FirstColumns,
    StepSizes,
    _squares,
    attend_mask,
    attend_steps,
)
from tests.helpers import assert_close, attention_oracle, normals
from tests.strategies import seeds, step_masks


class DenseKernel(NamedTuple):
    """The kernel for rows written out, for machines without the fused one."""

    def _allowed(self, rows, columns, seen):
        row, column = jnp.arange(rows)[:, None], jnp.arange(columns)
        if isinstance(seen, FirstColumns):
            number = columns if seen.number is None else seen.number
            return jnp.broadcast_to(column < number, (rows, columns))
        back, furthest = row - column, seen.rows_back
        return back >= 0 if furthest is None else (back >= 0) & (back <= furthest)

    def _weights(self, query, key, seen, lse=None):
        allowed = self._allowed(len(query), len(key), seen)
        scores = attention_scores(query, key, allowed, jnp.float32)
        lse = jax.nn.logsumexp(scores, -1) if lse is None else lse
        return jnp.exp(scores - lse[..., None]), lse

    def forward(self, query, key, value, seen):
        weights, lse = self._weights(query, key, seen)
        return jnp.einsum("hqk,khd->qhd", weights, value), lse

    def backward(self, query, key, value, out, lse, d_out, seen):
        weights, _ = self._weights(query, key, seen, lse)
        d_weights = jnp.einsum("qhd,khd->hqk", d_out, value)
        shift = jnp.einsum("qhd,qhd->hq", d_out, out)[..., None]
        d_scores = weights * (d_weights - shift) * query.shape[-1] ** -0.5
        return (
            jnp.einsum("hqk,khd->qhd", d_scores, key),
            jnp.einsum("hqk,qhd->khd", d_scores, query),
            jnp.einsum("hqk,qhd->khd", weights, d_out),
        )


@pytest.mark.parametrize("queries", range(1, 13))
def test_the_squares_cover_each_query_and_key_of_a_step_once(queries):
    for keys in range(1, 31):
        covered = np.zeros((queries, keys), int)
        for squares in _squares(StepSizes(queries, keys, None)):
            sides = squares.queries, squares.keys
            rows, columns = (
                slice(side.first, side.first + side.repeats * side.size)
                for side in sides
            )
            covered[rows, columns] += 1
            assert 1 in (side.repeats for side in sides)
        assert (covered == 1).all()


@settings(max_examples=10)
@given(step_masks(), seeds)
def test_all_engines_agree_under_any_step_mask(mask, seed):
    rows, columns = mask.shape
    query, d_out = (normals(seed + i, rows, 2, 4) for i in range(2))
    key, value = (normals(seed + i, columns, 2, 4) for i in (2, 3))
    expected = attention_oracle(query, key, value, np.asarray(mask.dense()), d_out)
    engines = {
        engine: partial(attend, mask=mask, engine=engine)
        for engine in ("dense", "blockwise")
    }
    if mask.key_start == 0:
        engines["parts"] = partial(attend_mask, mask=mask, kernel=DenseKernel())

    @jax.jit
    def run(query, key, value, d_out):
        results = {}
        for name, engine in engines.items():
            out, vjp = jax.vjp(engine, query, key, value)
            results[name] = out, *vjp(d_out)
        return results

    for found in run(query, key, value, d_out).values():
        assert_close(found, expected)


@pytest.mark.parametrize("start", [3, jnp.array(3)])
def test_queries_of_some_of_the_steps(start):
    mask = StepMask(4, 9, 2, 4, 3, start)
    query, d_out = (normals(seed, 8, 2, 4) for seed in range(2))
    key, value = (normals(seed, 36, 2, 4) for seed in (2, 3))

    @jax.jit
    def run(query, key, value, d_out):
        out, vjp = jax.vjp(
            lambda *x: attend_mask(*x, mask, DenseKernel()), query, key, value
        )
        return out, *vjp(d_out)

    expected = attention_oracle(query, key, value, np.asarray(mask.dense()), d_out)
    assert_close(run(query, key, value, d_out), expected)


@pytest.mark.parametrize(
    ("queries", "keys", "window"),
    [
        (1, 1, 2),
        (5, 5, None),
        (5, 5, 1),
        (5, 5, 7),
        (2, 2, 30),
        (70, 70, 2),
        (3, 8, 4),
        (8, 3, None),
    ],
)
def test_the_parts_make_the_whole_forward_and_backward(queries, keys, window):
    steps = 9
    query, d_out = (normals(seed, steps * queries, 2, 4) for seed in range(2))
    key, value = (normals(seed, steps * keys, 2, 4) for seed in (2, 3))
    sizes = StepSizes(queries, keys, window)

    @jax.jit
    def run(query, key, value, d_out):
        out, vjp = jax.vjp(
            lambda *x: attend_steps(*x, sizes, DenseKernel()), query, key, value
        )
        return out, *vjp(d_out)

    mask = StepMask(steps, steps, queries, keys, window).dense()
    expected = attention_oracle(query, key, value, np.asarray(mask), d_out)
    assert_close(run(query, key, value, d_out), expected)
