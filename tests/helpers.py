"""Tolerances. The oracles are those of the self-test, in float64 NumPy."""

import jax
import numpy as np

from perceiver_eqx.selftest import attention_oracle as attention_oracle
from perceiver_eqx.selftest import relative_error as relative_error
from perceiver_eqx.selftest import softmax_oracle as softmax_oracle


# Largest relative error (norm of the difference over norm of the expected). Not to be
# loosened: an implementation that misses them is wrong.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


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
