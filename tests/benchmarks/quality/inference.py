"""Bytes a second and memory of generation after a context, by the compared models.

    python -m tests.benchmarks.quality.inference --rows transformer combined

The Transformer keeps the keys and values of its whole context; the combined model keeps
what its windows reach. Both draw each byte by the same rules, so many in one compiled
call. Parameters are random: the cost does not depend on them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

from perceiver_eqx import ByteLM
from perceiver_eqx.generate import Row as ByteRow
from perceiver_eqx.generate import draw_step
from perceiver_eqx.layers import matrices_in
from perceiver_eqx.prompts import read_prompts
from perceiver_eqx.sampling import RECENT, Rules
from perceiver_eqx.state import Caches

from .models import BEGIN, ByteTransformer, Combined
from .rows import find_row


# New bytes of a call, and how many calls are timed.
NEW_BYTES, CALLS = 64, 8


class CachedRow(eqx.Module):
    """Where a `ByteTransformer` stands: keys and values of the bytes so far, how many
    there are, and the last byte, which is not among them yet."""

    caches: Caches
    seen: Int[Array, ""]
    last: Int[Array, ""]


def cached_row(model: ByteTransformer, room: int) -> CachedRow:
    """Before the first byte, with room for so many."""
    caches = model.processor.empty_caches(1, model.dtype, room)
    return CachedRow(caches, jnp.zeros((), jnp.int32), jnp.int32(BEGIN))


def read(
    model: ByteTransformer, symbols: Integer[Array, " bytes"], room: int
) -> tuple[CachedRow, Float[Array, "bytes 256"]]:
    """The row after a context, with room for so many bytes, and the logits of each byte
    of it."""
    row, symbols = cached_row(model, room), symbols.astype(jnp.int32)
    late = jnp.concatenate([row.last[None], symbols[:-1]])
    x = model.embedding(late, model.dtype)[:, None]
    x, caches = model.processor(x, row.caches, 0)
    after = CachedRow(caches, row.seen + symbols.size, symbols[-1])
    return after, model.logits(x[:, 0]).astype(jnp.float32)


def predict(
    model: ByteTransformer, row: CachedRow
) -> tuple[CachedRow, Float[Array, " 256"]]:
    """The logits of the next byte, and the row that it is to be put into."""
    x = model.embedding(row.last, model.dtype)[None, None]
    x, caches = model.processor(x, row.caches, row.seen)
    logits = model.logits(x[0, 0]).astype(jnp.float32)
    return CachedRow(caches, row.seen + 1, row.last), logits


def draw_bytes(
    model: ByteTransformer, rules: Rules, row: CachedRow, key: PRNGKeyArray
) -> CachedRow:
    """The row after `NEW_BYTES` bytes that are drawn one by one."""
    recent = jnp.full((RECENT,), -1)

    def draw_byte(row: CachedRow, key):
        row, logits = predict(model, row)
        byte = rules.draw(logits, recent, key)
        return eqx.tree_at(lambda row: row.last, row, byte), None

    return lax.scan(draw_byte, row, jr.split(key, NEW_BYTES))[0]


def draw_steps(model: ByteLM, rules: Rules, row: ByteRow, key: PRNGKeyArray) -> ByteRow:
    """The row after `NEW_BYTES` bytes, or a step where that is more."""
    steps = max(1, NEW_BYTES // model.bytes_per_step)
    return lax.scan(
        lambda row, _: (draw_step(model, rules, row, key)[0], None),
        row,
        length=steps,
    )[0]


def read_by_transformer(model: ByteTransformer, prompt: np.ndarray) -> CachedRow:
    """The row after a context."""
    return _read(model, prompt, prompt.size + NEW_BYTES * (CALLS + 2))


def read_by_byte_lm(model: ByteLM, prompt: np.ndarray) -> ByteRow:
    """The row after a context."""
    read = read_prompts(model, [prompt], 1, None, None)
    state, recent = jax.tree.map(lambda x: x[0], read)
    return ByteRow(state, jnp.asarray(recent), jnp.zeros((), jnp.int32))


def measure(text: str, context: int, batch: int) -> dict[str, Any]:
    """Speed and memory of one row of the comparison.

    Args:
        text: names it, as in the comparison.
        context: bytes before the first new one.
        batch: how many rows go on from there together, each by itself.
    """
    model = eqx.filter_jit(find_row(text).build)(jr.key(0))
    if isinstance(model, Combined):
        model, read, draw, new = model.byte_lm, read_by_byte_lm, draw_steps, NEW_BYTES
        new = max(new, model.bytes_per_step)
    elif isinstance(model, ByteTransformer) and model.ngrams is None:
        read, draw, new = read_by_transformer, draw_bytes, NEW_BYTES
    else:
        raise ValueError(
            f"`rows` must be a plain Transformer or combined, got {text!r}."
        )
    prompt = np.random.default_rng(0).integers(0, 256, context).astype(np.uint8)
    row = jax.block_until_ready(read(model, prompt))
    prompt_seconds = _seconds(lambda: read(model, prompt))
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), row)
    rows = jax.tree.map(jnp.copy, rows)
    del row
    model = eqx.filter_jit(matrices_in)(model.dtype, model)
    arrays, static = eqx.partition(model, eqx.is_array)
    rules = Rules(top_k=10)

    def draw_all(arrays, rows, keys):
        model = eqx.combine(arrays, static)
        return jax.vmap(partial(draw, model, rules))(rows, keys)

    keys = jr.split(jr.key(1), batch)
    go_on = jax.jit(draw_all, donate_argnums=1).lower(arrays, rows, keys).compile()
    times = []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        rows = jax.block_until_ready(go_on(arrays, rows, keys))
        times.append(time.perf_counter() - start)
    memory = go_on.memory_analysis()
    sizes = [x.size for x in jax.tree.leaves(arrays)]
    return {
        "row": text,
        "parameters": sum(sizes),
        "context": context,
        "batch": batch,
        "bytes_per_second": batch * new / median(times[1:]),
        "state_bytes": sum(x.nbytes for x in jax.tree.leaves(rows)) // batch,
        "memory_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "prompt_seconds": prompt_seconds,
    }


@eqx.filter_jit
def _read(model: ByteTransformer, prompt: np.ndarray, room: int) -> CachedRow:
    return read(model, prompt, room)[0]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", default=["transformer", "combined"], metavar="ROW")
    add("--contexts", nargs="+", type=int, default=[2048, 32_768, 262_144])
    add("--batches", nargs="+", type=int, default=[1, 16])
    add("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    found = []
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    print(
        f"{'rows':>5} {'context':>8} {'bytes/s':>11} {'of one row':>11} "
        f"{'in all':>11} {'prompt':>9}  model"
    )
    for batch, context, text in product(args.batches, args.contexts, args.rows):
        try:
            one = measure(text, context, batch)
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{batch:>5} {context:>8}  out of memory  {text}", flush=True)
            continue
        found.append(one)
        print(
            f"{batch:>5} {context:>8} {one['bytes_per_second']:>11,.0f} "
            f"{one['state_bytes'] / 2**20:>7,.1f} MiB "
            f"{one['memory_bytes'] / 2**30:>7,.2f} GiB {one['prompt_seconds']:>7.3f} s"
            f"  {text}",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
