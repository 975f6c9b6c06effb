from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx import StepMask
from perceiver_eqx.attention.dense import attention_scores
from perceiver_eqx.attention.parts import block_causal
from tests.helpers import assert_close, attention_oracle, normals


class DenseKernel(NamedTuple):
    """The causal kernel written out, for machines without the fused one."""

    def _weights(self, query, key, rows_back, lse=None):
        back = jnp.subtract.outer(jnp.arange(len(query)), jnp.arange(len(key)))
        allowed = back >= 0 if rows_back is None else (back >= 0) & (back <= rows_back)
        scores = attention_scores(query, key, allowed, jnp.float32)
        lse = jax.nn.logsumexp(scores, -1) if lse is None else lse.T
        return jnp.exp(scores - lse[..., None]), lse.T

    def forward(self, query, key, value, rows_back):
        weights, lse = self._weights(query, key, rows_back)
        return jnp.einsum("hqk,khd->qhd", weights, value), lse

    def backward(self, query, key, value, out, lse, d_out, rows_back):
        weights, _ = self._weights(query, key, rows_back, lse)
        d_weights = jnp.einsum("qhd,khd->hqk", d_out, value)
        shift = jnp.einsum("qhd,qhd->hq", d_out, out)[..., None]
        d_scores = weights * (d_weights - shift) * query.shape[-1] ** -0.5
        return (
            jnp.einsum("hqk,khd->qhd", d_scores, key),
            jnp.einsum("hqk,qhd->khd", d_scores, query),
            jnp.einsum("hqk,qhd->khd", weights, d_out),
        )


@pytest.mark.parametrize("per_step", [1, 2, 5])
@pytest.mark.parametrize("window", [None, 1, 2, 7, 30])
def test_the_parts_make_the_whole_forward_and_backward(per_step, window):
    steps = 9
    query, key, value, d_out = (
        jnp.asarray(normals(seed, steps * per_step, 2, 4)) for seed in range(4)
    )

    @jax.jit
    def run(query, key, value, d_out):
        out, vjp = jax.vjp(
            lambda q, k, v: block_causal(q, k, v, per_step, window, DenseKernel()),
            query,
            key,
            value,
        )
        return out, *vjp(d_out)

    mask = StepMask(steps, steps, per_step, per_step, window).dense()
    expected = attention_oracle(query, key, value, np.asarray(mask), d_out)
    assert_close(run(query, key, value, d_out), expected)
