"""Checks every attention engine on this machine against float64 NumPy, forward and
backward: `python -m perceiver_eqx.selftest`. Exits with 1 if an error is too large."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from .attention.attend import Engine, attend, explain_engine
from .attention.masks import StepMask
from .attention.prefix import prefix_attend


# Largest relative error of outputs and gradients: two or three roundings to the dtype.
ALLOWED = {"float32": 1e-5, "bfloat16": 6e-3, "float16": 8e-4}
ENGINES = ("dense", "blockwise", "cudnn")
MASKS = {
    "block-causal": StepMask(40, 40, 8, 8),
    "block-causal, window 9": StepMask(40, 40, 8, 8, 9),
    "odd sizes, window 4": StepMask(101, 101, 3, 3, 4),
    "causal": StepMask(301, 301, 1, 1),
    "8 queries, 20 keys a step": StepMask(30, 30, 8, 20),
    "8 queries, 3 keys a step": StepMask(30, 30, 8, 3, 7),
    "after past keys": StepMask(40, 55, 4, 4, 16, 15),
    "everything": None,
    "keys that are padding": np.arange(203)[None] < 120,
    "any pairs": np.random.default_rng(0).random((201, 203)) < 0.3,
}
HEAD_DIMS = (32, 128, 256)
TOKENS = {f"{tokens} tokens a step": tokens for tokens in (1, 8, 64)}


def softmax_oracle(scores, value, d_out):
    """A softmax over the last axis of `scores` (heads, rows, columns), of `value`
    (heads, columns, v_dim), and the gradient under the cotangent `d_out`.

    Returns:
        the output, the log-sum-exp, and the gradients of scores and values, in float64.
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


def attention_oracle(query, key, value, allowed, d_out, bias: ArrayLike = 0.0):
    """Scaled dot-product attention, one example laid out (rows, heads, head_dim).

    Args:
        allowed: whether each row sees each column.
        d_out: cotangent of the output.
        bias: added to the scores (heads, rows, columns).

    Returns:
        the output and the gradients of query, key and value, in float64.
    """
    query, key, value, d_out = (
        np.asarray(x, np.float64).swapaxes(0, 1) for x in (query, key, value, d_out)
    )
    scale = query.shape[-1] ** -0.5
    scores = query @ key.swapaxes(-1, -2) * scale + bias
    scores = np.where(allowed, scores, -np.inf)
    out, _, d_scores, d_value = softmax_oracle(scores, value, d_out)
    d_query = d_scores @ key * scale
    d_key = d_scores.swapaxes(-1, -2) @ query * scale
    return tuple(x.swapaxes(0, 1) for x in (out, d_query, d_key, d_value))


def relative_error(found, expected) -> float:
    """Norm of the difference, over the norm of the expected (1 if that is 0)."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(
            f"`found` must have the shape of `expected`, got {found.shape} and "
            f"{expected.shape}."
        )
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (norm if norm > 0 else 1.0))


def main() -> None:
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}")
    print(f"{'':14}  {'dtype':8}  {'mask':27}  {'width':>5}  {'error':>7}  allowed")
    failed, refusals = 0, Counter()
    cases = list(_cases())
    with ThreadPoolExecutor() as pool:  # compilation takes most of the time
        errors = pool.map(_error, *zip(*cases, strict=True))
        for (what, dtype, case, head_dim), error in zip(cases, errors, strict=True):
            if isinstance(error, str):
                refusals[error] += 1
                continue
            good = error <= ALLOWED[dtype]  # and not NaN
            failed += not good
            verdict = "" if good else "  TOO LARGE"
            print(
                f"{what:14}  {dtype:8}  {case:27}  {head_dim:5}  {error:7.1e}  "
                f"{ALLOWED[dtype]:.0e}{verdict}",
                flush=True,
            )
    for refusal, count in refusals.items():
        print(f"not run ({count}): {refusal}")
    print(f"{failed} errors are too large" if failed else "all errors are small")
    sys.exit(1 if failed else 0)


def _cases() -> Iterator[tuple[str, str, str, int]]:
    """What is checked, in which dtype, on which mask or tokens, with which width of
    heads."""
    for dtype in ALLOWED:
        for engine in ENGINES:
            for name in MASKS:
                yield engine, dtype, name, 64
            for head_dim in HEAD_DIMS:
                yield engine, dtype, "block-causal, window 9", head_dim
        for name in TOKENS:
            yield "prefix_attend", dtype, name, 64


def _error(what: Any, dtype: str, case: str, head_dim: int) -> float | str:
    """The largest error, or why the engine refused."""
    with jax.default_matmul_precision("highest"):
        if what == "prefix_attend":
            return _prefix_error(dtype, TOKENS[case])
        return _attend_error(what, dtype, MASKS[case], head_dim)


def _attend_error(engine: Engine, dtype: str, mask, head_dim: int) -> float | str:
    if isinstance(mask, StepMask):
        allowed, given = np.asarray(mask.dense()), mask
    else:
        allowed = np.broadcast_to(True if mask is None else mask, (201, 203))
        given = None if mask is None else jnp.asarray(mask)
    rows, columns = allowed.shape
    lengths = rows, columns, columns, rows
    query, key, value, d_out = _normals(dtype, *((n, 2, head_dim) for n in lengths))
    try:
        explain_engine(query, key, value, given, engine=engine)
    except ValueError as refusal:
        return str(refusal)

    def attention(query, key, value):
        return attend(query, key, value, given, engine=engine)

    found = _with_gradients(attention, (query, key, value), d_out)
    expected = attention_oracle(query, key, value, allowed, d_out)
    return _largest(found, expected)


def _prefix_error(dtype: str, tokens: int) -> float:
    steps = max(1 + 320 // tokens, 130)  # more than the fused kernels ask for
    latents, heads, head_dim = 8, 2, 64
    query, key, value, d_out = _normals(
        dtype,
        (latents, heads, head_dim),
        (steps, tokens, heads, head_dim),
        (steps, tokens, heads, head_dim),
        (steps, latents, heads, head_dim),
    )
    rate = np.geomspace(0.01, 1.0, latents * heads).reshape(latents, heads)

    def attention(query, key, value):
        rates = jnp.asarray(rate, jnp.float32)
        return prefix_attend(query, key, value, rate=rates)[0]

    found = _with_gradients(attention, (query, key, value), d_out)
    age = np.arange(steps)[:, None] - np.repeat(np.arange(steps), tokens)
    bias = -rate.T[:, None, :, None] * age[:, None, :]
    out, d_query, d_key, d_value = attention_oracle(
        np.tile(query, (steps, 1, 1)),
        np.asarray(key).reshape(-1, heads, head_dim),
        np.asarray(value).reshape(-1, heads, head_dim),
        np.repeat(age >= 0, latents, axis=0),
        np.asarray(d_out).reshape(-1, heads, head_dim),
        bias.reshape(heads, -1, steps * tokens),
    )
    expected = (
        out.reshape(d_out.shape),
        d_query.reshape(steps, *query.shape).sum(0),
        d_key.reshape(key.shape),
        d_value.reshape(value.shape),
    )
    return _largest(found, expected)


def _normals(dtype: str, *shapes: tuple[int, ...]) -> list[jax.Array]:
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.standard_normal(shape), dtype) for shape in shapes]


def _with_gradients(attention: Callable, arrays: tuple, d_out: jax.Array) -> tuple:
    @jax.jit
    def run(arrays, d_out):
        out, vjp = jax.vjp(attention, *arrays)
        return out, *vjp(d_out)

    return run(arrays, d_out)


def _largest(found: tuple, expected: tuple) -> float:
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    return float(np.max(errors))


if __name__ == "__main__":
    main()
