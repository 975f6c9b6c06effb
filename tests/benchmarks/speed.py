"""Times of functions against each other, in one run."""

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr

from perceiver_eqx import StepMask, attend, prefix_attend


def median_seconds(*calls: Callable, repeats: int = 9) -> list[float]:
    """Median seconds of each call, after one that compiles. They take turns in random
    order, so that each meets the machine as the others do."""
    for call in calls:
        jax.block_until_ready(call())
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for at in random.sample(range(len(calls)), len(calls)):
            start = time.perf_counter()
            jax.block_until_ready(calls[at]())
            seconds[at].append(time.perf_counter() - start)
    return [statistics.median(of_one) for of_one in seconds]


def with_gradients(attention: Callable):
    """Forward and backward through a function of arrays, from a list of them and the
    cotangent of its result."""
    return jax.jit(lambda arrays, d_out: jax.vjp(attention, *arrays)[1](d_out))


def normals(dtype, *shapes: tuple[int, ...]) -> list[jax.Array]:
    keys = jr.split(jr.key(0), len(shapes))
    return [jr.normal(key, s, dtype) for key, s in zip(keys, shapes, strict=True)]


def matmul_flops() -> float:
    """Operations a second of a large product of bfloat16 matrices: the ceiling."""
    a, b = normals(jnp.bfloat16, (8192, 8192), (8192, 8192))
    product = jax.jit(jnp.matmul)
    (seconds,) = median_seconds(lambda: product(a, b))
    return 2 * 8192**3 / seconds


def copy_bandwidth() -> float:
    """Bytes read and written a second by adding 1 to a large array: the ceiling."""
    (x,) = normals(jnp.bfloat16, (2**29,))
    add = jax.jit(lambda x: x + 1)
    (seconds,) = median_seconds(lambda: add(x))
    return 2 * x.nbytes / seconds


def cudnn_causal(window: int | None = None) -> Callable:
    """cuDNN's own causal attention, as the bound of what is built on it."""
    back = None if window is None else (window, 0)

    def attention(query, key, value):
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            implementation="cudnn",
            local_window_size=back,
        )

    return attention


def under(mask: StepMask, engine="auto") -> Callable:
    def attention(query, key, value):
        return attend(query, key, value, mask, engine=engine)

    return attention


def dense_and_blockwise(rows: int, latents: int, window: int | None) -> dict:
    """Seconds and temporaries of block-causal attention in float32, 4 heads x 64,
    forward and backward: of the dense and of the blockwise engine."""
    steps = rows // latents
    mask = StepMask(steps, steps, latents, latents, window)
    *arrays, d_out = normals(jnp.float32, *[(rows, 4, 64)] * 4)
    compiled = [
        with_gradients(under(mask, engine)).lower(arrays, d_out).compile()
        for engine in ("dense", "blockwise")
    ]
    calls = [partial(run, arrays, d_out) for run in compiled]
    sizes = [run.memory_analysis().temp_size_in_bytes for run in compiled]
    return {"seconds": median_seconds(*calls, repeats=3), "temporary_bytes": sizes}


def time_of_engines(rows: int, latents: int) -> dict:
    """Seconds of block-causal attention in bfloat16, 8 heads x 64, forward and
    backward, by each engine, and of cuDNN's plain causal attention."""
    steps = rows // latents
    mask = StepMask(steps, steps, latents, latents)
    *arrays, d_out = normals(jnp.bfloat16, *[(rows, 8, 64)] * 4)
    attentions = {"causal": cudnn_causal()}
    for engine in ("dense", "blockwise", "cudnn"):
        attentions[engine] = under(mask, engine)
    calls = [partial(with_gradients(x), arrays, d_out) for x in attentions.values()]
    return dict(zip(attentions, median_seconds(*calls, repeats=5), strict=True))


def time_against_cudnn(rows: int, heads: int, head_dim: int) -> dict:
    """Seconds of block-causal attention in bfloat16, forward and backward, by the
    latents of a step, and of cuDNN's plain causal and sliding attention."""
    *arrays, d_out = normals(jnp.bfloat16, *[(rows, heads, head_dim)] * 4)

    def call(attention):
        return partial(with_gradients(attention), arrays, d_out)

    calls = {"causal": call(cudnn_causal())}
    for latents in (1, 2, 8, 64):
        steps = rows // latents
        calls[f"latents {latents}"] = call(
            under(StepMask(steps, steps, *[latents] * 2))
        )
    steps = rows // 8
    calls["sliding"] = call(cudnn_causal(512 * 8))
    calls["window 512"] = call(under(StepMask(steps, steps, 8, 8, 512)))
    return dict(zip(calls, median_seconds(*calls.values()), strict=True))


def time_of_cross_attention(
    steps: int, queries: int, keys: int, heads: int, head_dim: int
) -> dict:
    """Seconds of causal cross-attention in bfloat16, forward and backward, and of
    cuDNN's plain causal attention over the queries alone."""
    rows = steps * queries, heads, head_dim
    columns = steps * keys, heads, head_dim
    query, key, value, d_out = normals(jnp.bfloat16, rows, columns, columns, rows)
    mask = StepMask(steps, steps, queries, keys)
    cross = partial(with_gradients(under(mask)), [query, key, value], d_out)
    causal = partial(with_gradients(cudnn_causal()), [query, query, query], d_out)
    seconds = median_seconds(causal, cross, repeats=3)
    return dict(zip(("causal", "cross"), seconds, strict=True))


def time_of_prefix_attend(
    tokens: int, per_step: int, heads: int, head_dim: int
) -> dict:
    """Seconds of `prefix_attend` in bfloat16, 8 latents, forward alone and with the
    backward pass, and the bytes that each must move: inputs and results once, and
    backward the output too."""
    steps = tokens // per_step
    of_latent = 8, heads, head_dim
    of_tokens, of_latents = (steps, per_step, heads, head_dim), (steps, *of_latent)
    query, key, value, d_out = normals(
        jnp.bfloat16, of_latent, of_tokens, of_tokens, of_latents
    )

    def attention(*arrays):
        return prefix_attend(*arrays)[0]

    forward = partial(jax.jit(attention), query, key, value)
    both = partial(with_gradients(attention), [query, key, value], d_out)
    seconds = median_seconds(forward, both, repeats=5)
    forward_bytes = 2 * key.nbytes + d_out.nbytes
    return {
        "forward": seconds[0],
        "both": seconds[1],
        "forward_bytes": forward_bytes,
        "both_bytes": forward_bytes + 4 * key.nbytes + 2 * d_out.nbytes,
    }
