"""Tolerances, and oracles in float64 NumPy."""

import jax
import numpy as np


# Largest relative error (norm of the difference over norm of the expected). Not to be
# loosened: an implementation that misses them is wrong.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


def relative_error(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (norm if norm > 0 else 1.0))


def assert_close(found, expected, dtype: str = "float32") -> None:
    """Every leaf within the tolerance of its dtype."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        error = relative_error(one, other)
        assert error <= TOLERANCE[dtype], f"relative error {error:.3g}"


def assert_gradients_close(found, expected) -> None:
    """Every leaf within tolerance. Some gradients are zero but for rounding (that of a
    bias of attention keys, which moves all scores alike), so the rounding of a leaf is
    measured against the whole too."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    whole = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in expected))
    for one, other in zip(found, expected, strict=True):
        error = np.linalg.norm(np.asarray(one, np.float64) - np.asarray(other))
        size = np.linalg.norm(other)
        allowed = TOLERANCE["float32"] * size + 1e-6 * whole
        assert error <= allowed, f"error {error:.3g} of a leaf of norm {size:.3g}"


def normals(seed: int, *shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def softmax_oracle(scores, value, d_out):
    """A softmax over the last axis of `scores` (heads, rows, columns), of `value`
    (heads, columns, v_dim), and the gradient under the cotangent `d_out`.

    Returns the output, the log-sum-exp, and the gradients of scores and values.
    """
    scores, value, d_out = (np.asarray(x, np.float64) for x in (scores, value, d_out))
    top = scores.max(-1, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    lse = np.where(total > 0, np.log(np.where(total > 0, total, 1.0)) + top, -np.inf)
    weights = weights / np.where(total > 0, total, 1.0)
    out = weights @ value
    d_weights = d_out @ value.swapaxes(-1, -2)
    d_scores = weights * (d_weights - (d_out * out).sum(-1, keepdims=True))
    return out, lse[..., 0], d_scores, weights.swapaxes(-1, -2) @ d_out


def attention_oracle(query, key, value, allowed, d_out):
    """Scaled dot-product attention, one example laid out (rows, heads, head_dim).

    Returns the output and the gradients of query, key and value.
    """
    query, key, value, d_out = (
        np.asarray(x, np.float64).swapaxes(0, 1) for x in (query, key, value, d_out)
    )
    scale = query.shape[-1] ** -0.5
    scores = np.where(allowed, query @ key.swapaxes(-1, -2) * scale, -np.inf)
    out, _, d_scores, d_value = softmax_oracle(scores, value, d_out)
    d_query = d_scores @ key * scale
    d_key = d_scores.swapaxes(-1, -2) @ query * scale
    return tuple(x.swapaxes(0, 1) for x in (out, d_query, d_key, d_value))
