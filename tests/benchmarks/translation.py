"""Translation beside a decoder-only Transformer: the same pairs, the same seconds of
training on the same device, one after the other.

    python -m tests.benchmarks.translation --path PAIRS.tsv --seconds 150

The Transformer reads a source, a tab, and the target it is to go on with; `ByteLM` has
the source as its context. Both are trained by the same optimizer on all their bytes,
and make the likeliest byte each time.
"""

import argparse
import ast
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from perceiver_eqx import ByteLM
from train.configs import load
from train.data.examples import Examples, training_pairs, validation_pairs
from train.data.pairs import END, Pair, read_pairs, split_pairs
from train.data.windows import Batch
from train.loss import batch_bits
from train.optim import muon
from train.targets import agreement, make_targets, targets_of

from .quality.inference import cached_row, predict
from .quality.models import ByteTransformer


TAB = b"\t"
TRIAL_STEPS = 60
WARMUP = 0.03
TRANSFORMER = {"dim": 384, "num_layers": 8, "num_heads": 6, "context": 1160}
TRANSFORMER |= {"dropout": 0.3}
EVALUATED, MADE = 64, 128


def of_one_text(pairs: list[Pair]) -> list[Pair]:
    """Pairs as the Transformer reads them: all of it is the target."""
    return [Pair(b"", pair.source + TAB + pair.target) for pair in pairs]


def transformer_bits(model: ByteTransformer, batch, key, *, of_targets: bool = False):
    """Bits and bytes of a batch, both summed: of all its bytes, or of those behind the
    tab alone."""
    keys = None if key is None else jr.split(key, len(batch["length"]))

    def one(data, length, key):
        bits = model.bits(data, key=key)
        counts = jnp.arange(data.size) < length
        if of_targets:
            counts &= jnp.cumsum(data == TAB[0]) > 0
            counts &= jnp.arange(data.size) != jnp.argmax(data == TAB[0])
        return jnp.where(counts, bits, 0).sum(), counts.sum()

    bits, count = jax.vmap(one)(batch["bytes"], batch["length"], keys)
    return bits.sum(), count.sum()


class Contender(NamedTuple):
    """A model, and how it is trained, measured, and asked for targets.

    Attributes:
        bits: of a batch and its number of bytes, of all that it is trained on.
        of_targets: the same of the bytes of targets alone.
        make: the targets of sources.
    """

    model: ByteLM | ByteTransformer
    train: Examples
    held_out: Examples
    bits: Callable
    of_targets: Callable
    make: Callable[[ByteLM | ByteTransformer, list[bytes]], list[bytes]]


def compile_each(
    call: Callable,
    examples: Examples,
    batch_size: int,
    *arguments,
    donate: tuple[int, ...] = (),
) -> Callable:
    """A function of a batch and of more, compiled for every shape of batch that these
    examples come in, all at the same time. Donated arguments are counted with it."""

    def sizes(batch: Batch) -> tuple:
        return tuple((name, x.shape) for name, x in sorted(batch.items()))

    batches = [
        examples.batch(shape, [], batch_size) for shape in sorted({*examples.shape_of})
    ]
    call = jax.jit(call, donate_argnums=donate)
    lowered = [call.lower(batch, *arguments) for batch in batches]
    with ThreadPoolExecutor() as pool:
        calls = pool.map(lambda one: one.compile(), lowered)
    by_sizes = dict(zip(map(sizes, batches), calls, strict=True))
    return lambda batch, *rest: by_sizes[sizes(batch)](batch, *rest)


def fit(
    contender: Contender, batch_size: int, seconds: float, rate: float, say: Callable
):
    """The model after so many seconds of steps; the learning rate falls with them."""
    arrays, static = eqx.partition(contender.model, eqx.is_array)
    batches = training_pairs(contender.train, batch_size=batch_size, seed=0)

    def optimizer(steps):
        def schedule(count):
            share = count / steps
            falling = 0.05 + 0.95 * (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1))) / 2
            return rate * jnp.minimum(share / WARMUP, 1) * falling

        return muon(
            schedule, b1=0.9, b2=0.98, weight_decay=0.1, clip_norm=1.0, dtype="bfloat16"
        )

    def step(batch, arrays, state, key, steps):
        def loss(arrays):
            model = eqx.combine(arrays, static)
            total, count = contender.bits(model, batch, key)
            return total / count

        value, gradient = jax.value_and_grad(loss)(arrays)
        updates, state = optimizer(steps).update(gradient, state, arrays)
        return eqx.apply_updates(arrays, updates), state, value

    start, first = optimizer(1.0).init(arrays), (jr.key(1), jnp.float32(1))
    step = compile_each(
        step, contender.train, batch_size, arrays, start, *first, donate=(1, 2)
    )

    def run(steps: int, most: float):
        now, state = jax.tree.map(jnp.copy, (arrays, start))
        last = []
        begun = time.perf_counter()
        for number in range(steps):
            key = jr.fold_in(jr.key(1), number)
            now, state, value = step(next(batches), now, state, key, jnp.float32(steps))
            last = [*last[-49:], value]
            if number % 50 == 49 and time.perf_counter() - begun > most:
                break
        jax.block_until_ready(now)
        return now, time.perf_counter() - begun, float(np.mean(jax.device_get(last)))

    run(TRIAL_STEPS, np.inf)  # what is done once is done
    _, taken, _ = run(TRIAL_STEPS, np.inf)
    steps = max(1, int(seconds / taken * TRIAL_STEPS))
    trained, taken, last = run(steps, 1.05 * seconds)
    say(steps=steps, seconds=taken, train_bits=last)
    return eqx.combine(trained, static)


def transformer_targets(
    model: ByteTransformer, sources: list[bytes], num_bytes: int, batch_size: int
) -> list[bytes]:
    """The likeliest byte each time, after each source and a tab."""
    room = max(map(len, sources)) + 1 + num_bytes

    @jax.jit
    def write(prompts, lengths):
        def one(prompt, length):
            def take(row, place):
                row, logits = predict(model, row)
                byte = jnp.where(place < length, prompt[place], logits.argmax())
                return eqx.tree_at(lambda r: r.last, row, byte.astype(jnp.int32)), byte

            return lax.scan(take, cached_row(model, room), jnp.arange(room))[1]

        return jax.vmap(one)(prompts, lengths)

    made = []
    for first in range(0, len(sources), batch_size):
        texts = [source + TAB for source in sources[first : first + batch_size]]
        prompts = np.zeros((batch_size, room), np.int32)
        lengths = np.ones(batch_size, np.int32)
        for at, text in enumerate(texts):
            prompts[at, : len(text)], lengths[at] = np.frombuffer(text, "u1"), len(text)
        written = np.asarray(write(prompts, lengths), np.uint8)
        for row, text in zip(written, texts, strict=False):
            made.append(row.tobytes()[len(text) :].split(END)[0])
    return made


def held_out_bits(model, contender: Contender, batch_size: int) -> float:
    arrays, static = eqx.partition(model, eqx.is_array)

    def bits(batch, arrays):
        return contender.of_targets(eqx.combine(arrays, static), batch, None)

    examples, total, count = contender.held_out, 0.0, 0
    run = compile_each(bits, examples, batch_size, arrays)
    for batch in validation_pairs(examples, batch_size=batch_size):
        of_batch, num_bytes = run(batch, arrays)
        total, count = total + float(of_batch), count + int(num_bytes)
    return total / count


def options_of(text: str) -> dict:
    """`a=1,b=(2,3)` as arguments."""
    call = ast.parse(f"f({text})", mode="eval").body
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords}


def ours(train: list[Pair], held_out: list[Pair], changes: dict) -> Contender:
    """The config `verses`."""
    config = load("verses")
    model_config = replace(config.model, **changes)
    shape = {
        "window_bytes": config.data.window_bytes,
        "context_bytes": config.data.context_bytes,
        "per_step": model_config.bytes_per_step,
    }

    def bits(model, batch, key):
        return batch_bits(model, batch, key, chunk_steps=1 << 20)

    return Contender(
        ByteLM(**vars(model_config), key=jr.key(0)),
        Examples(train, **shape),
        Examples(held_out, **shape),
        bits,
        bits,
        partial(
            make_targets,
            num_bytes=config.data.window_bytes,
            stop=END,
            batch_size=MADE,
        ),
    )


def transformer(train: list[Pair], held_out: list[Pair], changes: dict) -> Contender:
    shape = {"window_bytes": 1144, "context_bytes": None, "per_step": 1}
    return Contender(
        ByteTransformer(**{**TRANSFORMER, **changes}, key=jr.key(0)),
        Examples(of_one_text(train), **shape),
        Examples(of_one_text(held_out), **shape),
        transformer_bits,
        partial(transformer_bits, of_targets=True),
        partial(transformer_targets, num_bytes=600, batch_size=MADE),
    )


CONTENDERS = {"ours": ours, "transformer": transformer}


def measured(
    contender: Contender,
    found: dict[bytes, list[bytes]],
    sources: list[bytes],
    given: argparse.Namespace,
) -> tuple[dict, list[bytes]]:
    """What a contender reaches, and what it makes of the sources."""
    leaves = jax.tree.leaves(eqx.filter(contender.model, eqx.is_array))
    result = {"parameters": sum(leaf.size for leaf in leaves)}
    sizes = given.batch_size, given.seconds, given.rate
    model = fit(contender, *sizes, result.update)
    result["target_bits"] = held_out_bits(model, contender, EVALUATED)
    begun = time.perf_counter()
    made = contender.make(model, sources)
    result["making_seconds"] = time.perf_counter() - begun
    result |= agreement(made, [found[source] for source in sources])._asdict()
    return result, made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--models", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--rate", type=float, default=4e-3)
    for name in CONTENDERS:
        parser.add_argument(f"--{name}", type=options_of, default={})
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    train, held_out = split_pairs(read_pairs(given.path), 0.05)
    found = targets_of(held_out)
    sources = list(found)[:: -(-len(found) // given.rows)]
    lines = [[source, found[source][0]] for source in sources]
    for name in given.models:
        contender = CONTENDERS[name](train, held_out, getattr(given, name))
        result, made = measured(contender, found, sources, given)
        print(json.dumps({"model": name, **result}), flush=True)
        for line, one in zip(lines, made, strict=True):
            line.append(one)
    if given.out is not None:
        given.out.write_bytes(b"".join(TAB.join(line) + b"\n" for line in lines))


if __name__ == "__main__":
    main()
