"""One file of millions of bytes as one input: read, gone on from, trained on; as a
sequence, and as the context of another.

    python -m tests.benchmarks.whole --path FILE --config laptop
    python -m tests.benchmarks.whole --path FILE --config small --train

Temporaries are the compiler's own analysis; the peak is that of the device, or of the
process on a CPU. Prints a line of JSON for each part.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from perceiver_eqx import ByteLM, generate, log_prob
from perceiver_eqx.prompts import read_prompts
from train import configs
from train.flops import num_parameters
from train.loss import batch_bits
from train.program import optimizer_of, schedule_of
from train.step import init_train_state, train_step


NEW_BYTES, TARGET_BYTES = 256, 64


def peak_bytes() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(call: Callable) -> tuple[object, float]:
    begun = time.perf_counter()
    found = jax.block_until_ready(call())
    return found, time.perf_counter() - begun


def told(part: str, **values) -> None:
    print(json.dumps({"part": part, **values, "peak_bytes": peak_bytes()}), flush=True)


def read_and_generate(model: ByteLM, data: np.ndarray) -> None:
    """The probability of all of it, and what follows it, as a prompt."""
    total, seconds = timed(partial(log_prob, model, data.tobytes(), chunk_steps=4096))
    bits = -total / np.log(2) / data.size
    told("score", seconds=seconds, bits_per_byte=bits, bytes=data.size)
    (states, _), seconds = timed(lambda: read_prompts(model, [data], 1, None, None))
    state = jax.tree.map(lambda x: x[0], states)
    told("prompt", seconds=seconds, state_bytes=state.num_bytes())
    after(model, state, "after it")


def after(model: ByteLM, state, part: str) -> None:
    """Bytes from a state; the first ones compile."""
    draw = partial(generate, model, b"", NEW_BYTES, state=state, key=jr.key(0))
    timed(draw)
    _, seconds = timed(draw)
    told(f"generate {part}", seconds=seconds, bytes=NEW_BYTES)


def as_context(model: ByteLM, data: np.ndarray) -> None:
    """What follows it as a context."""
    read = eqx.filter_jit(lambda model, data: model.init_state(data))
    context = jnp.asarray(data)
    timed(lambda: read(model, context))
    state, seconds = timed(lambda: read(model, context))
    told("context", seconds=seconds, state_bytes=state.num_bytes())
    after(model, state, "from it")


def steps_of_training(config, model: ByteLM, batch, part: str, count: int) -> None:
    """Optimizer steps on it, whole."""
    schedule = schedule_of(config.optim, 1000)
    optim = optimizer_of(config.optim, schedule, model.dtype.name)
    state = init_train_state(model, optim)
    loss_fn = partial(batch_bits, chunk_steps=config.chunk_steps)
    arrays, static = eqx.partition(state, eqx.is_array)

    # Not donated: the model is used again.
    @jax.jit
    def step(arrays, batch, key):
        state, metrics = train_step(
            eqx.combine(arrays, static), batch, key, loss_fn=loss_fn, optim=optim
        )
        return eqx.filter(state, eqx.is_array), metrics["bits_per_byte"]

    batch = jax.tree.map(jnp.asarray, batch)
    compiled = step.lower(arrays, batch, jr.key(0)).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    seconds, bits = [], []
    for number in range(count):
        (arrays, loss), took = timed(
            lambda arrays=arrays, n=number: compiled(arrays, batch, jr.key(n))
        )
        seconds.append(took)
        bits.append(float(loss))
    told(f"train {part}", seconds=seconds, bits=bits, temporary_bytes=temporaries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    config = configs.load(given.config)
    data = np.fromfile(given.path, np.uint8)
    plain = ByteLM(**vars(config.model), key=jr.key(0))
    asking = replace(config.model, use_context=True, context_patch=8)
    asker = ByteLM(**vars(asking), key=jr.key(0))
    told(
        "models",
        bytes=data.size,
        parameters=[num_parameters(model) for model in (plain, asker)],
        device=jax.devices()[0].device_kind,
    )
    if given.train:
        whole = data[: data.size - data.size % plain.bytes_per_step]
        batch = {"bytes": whole[None], "length": np.array([whole.size], np.int32)}
        steps_of_training(config, plain, batch, "on it", given.steps)
        batch = {
            "bytes": whole[None, :TARGET_BYTES],
            "length": np.array([TARGET_BYTES], np.int32),
            "context": data[None],
            "context_length": np.array([data.size], np.int32),
        }
        steps_of_training(config, asker, batch, "from it", given.steps)
    read_and_generate(plain, data)
    as_context(asker, data)


if __name__ == "__main__":
    main()
