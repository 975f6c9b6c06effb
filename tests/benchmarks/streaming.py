"""What bytes cost as they come: long streams, files to score, and generation."""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from perceiver_eqx import ByteLM, generate
from perceiver_eqx.prompts import read_prompts
from train.data.files import find_files
from train.flops import num_parameters


MILLION = 2**20

# Of the models, one for a CPU and one for a GPU: widths, layers and heads.
SMALL = {"latent_dim": 128, "num_layers": 4, "num_heads": 4, "latent_window": 64}
LARGE = {
    "latent_dim": 512,
    "num_layers": 12,
    "num_heads": 8,
    "latent_window": 512,
    "dtype": "bfloat16",
}


def byte_lm(bytes_per_step: int, num_latents: int) -> ByteLM:
    """A model of the size for this device."""
    sizes = SMALL if jax.default_backend() == "cpu" else LARGE
    return ByteLM(
        bytes_per_step=bytes_per_step, num_latents=num_latents, **sizes, key=jr.key(0)
    )


def real_bytes(count: int) -> np.ndarray:
    """Python's own sources, over again where they are too few."""
    text = b"".join(path.read_bytes() for path in find_files(None))
    return np.resize(np.frombuffer(text, np.uint8), count)


def stream(model: ByteLM, data: np.ndarray, chunk_steps: int = 512) -> Iterator[dict]:
    """Goes through the data, a million bytes a call, and tells of each the seconds it
    took and the bytes of the state after it."""

    @eqx.filter_jit
    def advance_all(model, state, chunks):
        def advance(state, tokens):
            state, logits = model.advance(state, tokens)
            chosen = jnp.take_along_axis(
                jax.nn.log_softmax(logits), tokens[..., None].astype(jnp.int32), -1
            )
            return state, jnp.sum(chosen)

        return lax.scan(advance, state, chunks)

    state = eqx.filter_jit(model.init_state)()
    millions = data.reshape(-1, MILLION)
    shape = -1, chunk_steps, model.bytes_per_step
    jax.block_until_ready(advance_all(model, state, millions[0].reshape(shape)))
    for million in millions:
        start = time.perf_counter()
        state, log_probs = advance_all(model, state, million.reshape(shape))
        bits = -float(np.asarray(log_probs).sum(dtype=np.float64)) / math.log(2)
        yield {
            "seconds": time.perf_counter() - start,
            "state_bytes": state.num_bytes(),
            "bits_per_byte": bits / MILLION,
        }


def generation_speed(
    model: ByteLM, context: int, batch: int, repeats: int = 5
) -> dict[str, float]:
    """Seconds to read a context, and from there on, of each new byte of every row.

    Each row generates for itself, from the state after the context.
    """
    few, many = model.bytes_per_step, max(256, 8 * model.bytes_per_step)
    prompt = np.random.default_rng(0).integers(0, 256, context).astype(np.uint8)

    def read():
        states, _ = read_prompts(model, [prompt], 1, None, None)
        return jax.block_until_ready(jax.tree.map(lambda x: x[0], states))

    def seconds_of(call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def go_on(state, num_bytes: int) -> None:
        prompts = [b""] * batch
        generate(model, prompts, num_bytes, top_k=10, state=state, key=jr.key(1))

    state = read()
    go_on(state, few)
    pairs = [
        [seconds_of(lambda n=n: go_on(state, n)) for n in (few, many)]
        for _ in range(repeats)
    ]
    per_byte = median((long - short) / (many - few) for short, long in pairs)
    return {
        "prompt_seconds": median(seconds_of(read) for _ in range(3)),
        "seconds_per_byte": per_byte,
        "bytes_per_second": batch / per_byte,
    }


def our_generation(contexts: Sequence[int], batches: Sequence[int]) -> Iterator[dict]:
    """Generation by models of 8 and of 64 bytes a step."""
    for bytes_per_step, num_latents in ((8, 2), (64, 8)):
        model = byte_lm(bytes_per_step, num_latents)
        of_model = {
            "system": f"{bytes_per_step} bytes a step",
            "parameters": num_parameters(model),
        }
        for batch, context in product(batches, contexts):
            speed = generation_speed(model, context, batch)
            yield {**of_model, "batch": batch, "context": context, **speed}


def peers_generation(
    python: str, contexts: Sequence[int], batches: Sequence[int]
) -> list[dict]:
    """Generation by models of other libraries, as wide and as deep, in a process of a
    Python that has them."""
    on_cpu = jax.default_backend() == "cpu"
    sizes = SMALL if on_cpu else LARGE
    options = {
        "device": "cpu" if on_cpu else "cuda",
        "dtype": sizes.get("dtype", "float32"),
        "width": sizes["latent_dim"],
        "depth": sizes["num_layers"],
        "heads": sizes["num_heads"],
        "latents": 512,
        "cap": 150 if on_cpu else 20,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peers.json"
        command = [python, "tests/benchmarks/peers.py", "--json", str(path)]
        command += [f"--{name}={value}" for name, value in options.items()]
        command += ["--contexts", *map(str, contexts), "--batches", *map(str, batches)]
        subprocess.run(command, stdout=sys.stderr, check=True)
        found = json.loads(path.read_text())
    names = {"io": "perceiver-io", "ar": "perceiver-ar-pytorch"}
    return [{**one, "system": names[one.pop("peer")]} for one in found]
