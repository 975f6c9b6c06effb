"""Training over all devices of a machine: the numbers of one, and how it scales.

    python -m tests.benchmarks.devices                 # on the GPUs there are
    python -m tests.benchmarks.devices --simulate 4    # a dry run, on a processor

Equality is that of twenty steps in float32. Times are medians of steps in one process,
memory is the compiler's own analysis. Prints a line of JSON for each part.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from perceiver_eqx.mesh import make_mesh
from tests.benchmarks.scopes import kernels
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.memory import bytes_of
from train.plan import REACHED, step_flops
from train.plan_mesh import Work, estimate
from train.program import compile_step, new_state
from train.sharding import Layout


MILLION = 1 << 20
ROUNDING = 1e-5
BIG = ModelConfig(
    bytes_per_step=16,
    latent_dim=512,
    num_layers=6,
    num_heads=8,
    latent_window=512,
    local_heads=6,
    local_window=(128, 1024),
    output_layers=4,
    dtype="bfloat16",
)
SMALL = ModelConfig(
    bytes_per_step=8,
    num_latents=2,
    latent_dim=64,
    num_layers=2,
    num_heads=2,
    latent_window=16,
    local_window=(8, 32),
    output_layers=1,
    ngrams=(3,),
    ngram_rows=1024,
)


def config_of(
    model: ModelConfig, window: int, chunk: int, context: int = 0, **changes
) -> TrainConfig:
    data = DataConfig(window_bytes=window, validation_bytes=None)
    if context:
        model = replace(model, use_context=True, context_patch=16)
        data = replace(data, kind="pairs", context_bytes=context)
    values = {"batch_size": 1, "steps": 100, **changes}
    return TrainConfig(
        model=model,
        data=data,
        optim=OptimConfig(warmup_steps=2),
        chunk_steps=chunk,
        **values,
    )


class Program:
    """A step of a config, compiled for a mesh; `""` is one device."""

    def __init__(self, config: TrainConfig, sizes: str):
        self.config, self.sizes = config, sizes
        self.layout = Layout.of(make_mesh(sizes), config) if sizes else None
        state = new_state(config, jr.key(0))
        step = compile_step(config, state, self.layout)
        if self.layout is not None:
            state = self.layout.put_state(state)
        self.arrays = eqx.filter(state, eqx.is_array)
        self.batch = self.put(0)
        self.compiled = step.lower(self.arrays, self.batch, self.key(0)).compile()

    def put(self, number: int) -> dict[str, Any]:
        """A batch to learn from: words of a few bytes, over and over."""
        rng = np.random.default_rng(number)
        rows, size = self.config.batch_size, self.config.data.window_bytes
        words = rng.integers(97, 123, (rows, 37), dtype=np.uint8)
        data = np.tile(words, (1, -(-size // 37)))[:, :size]
        batch = {"bytes": data, "length": np.full(rows, size, np.int32)}
        if self.config.model.use_context:
            room = self.config.data.context_bytes
            batch["context"] = np.tile(words, (1, -(-room // 37)))[:, :room]
            batch["context_length"] = np.full(rows, room, np.int32)
        if self.layout is None:
            return jax.tree.map(jnp.asarray, batch)
        return self.layout.put_batch(batch)

    def key(self, number: int):
        key = jr.key(number)
        return key if self.layout is None else self.layout.put(key)

    def step(self, number: int) -> dict[str, float]:
        self.arrays, metrics = self.compiled(self.arrays, self.batch, self.key(number))
        return {name: float(x) for name, x in metrics.items()}

    def seconds(self, repeats: int) -> float:
        """The median of so many steps, after one that warms up."""
        found = []
        for number in range(1 + repeats):
            begun = time.perf_counter()
            self.step(number)
            found.append(time.perf_counter() - begun)
        return statistics.median(found[1:])

    @property
    def bytes_of_memory(self) -> tuple[int, int]:
        """Of the arguments of a step on each device, and of all of it."""
        return bytes_of(self.compiled)

    def share_of_exchange(self) -> float | None:
        """Of the time of the devices' kernels, that of NCCL's."""
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                self.step(99)
            ran = list(kernels(folder))
        whole = sum(took for _, _, took in ran)
        sent = sum(took for _, name, took in ran if "nccl" in name.lower())
        return sent / whole if whole else None


def compiled(pairs: list[tuple[TrainConfig, str]]) -> list[Program]:
    """All at once, since each takes a minute on one core; and none any more when the
    first is run, whose time that would be."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        return list(pool.map(lambda pair: Program(*pair), pairs))


def told(part: str, **values) -> None:
    print(json.dumps({"part": part, **values}), flush=True)


def equality(count: int, sizes: dict) -> None:
    """Twenty steps over each mesh beside those of one device."""
    meshes = [f"{axis}={count}" for axis in ("data", "model", "time")]
    if count >= 4:
        meshes += [f"data=2,time={count // 2}", f"model=2,time={count // 2}"]
    if count >= 8:
        meshes += [f"data=2,model=2,time={count // 4}"]
    config = config_of(SMALL, sizes["equal"], 32, batch_size=8)
    pairs = config_of(SMALL, sizes["equal"], 32, sizes["equal"], batch_size=8)
    # Not as a context, which other threads would not know of.
    jax.config.update("jax_default_matmul_precision", "highest")
    of_both = [(config, each) for each in ("", *meshes)]
    of_both += [(pairs, each) for each in ("", f"time={count}")]
    programs = compiled(of_both)
    jax.config.update("jax_default_matmul_precision", None)
    compare(programs[: len(meshes) + 1])
    compare(programs[len(meshes) + 1 :])


def compare(programs: list[Program]) -> None:
    """The runs of programs beside that of the first."""
    runs = []
    for program in programs:
        found = []
        for number in range(20):
            program.batch = program.put(number)
            found.append(program.step(number))
        runs.append(found)
    for program, run in zip(programs[1:], runs[1:], strict=True):
        apart = {
            name: max(
                abs(mine[name] / theirs[name] - 1)
                for mine, theirs in zip(run, runs[0], strict=True)
            )
            for name in ("bits_per_byte", "gradient_norm")
        }
        same = all(x <= ROUNDING for x in apart.values())
        losses = [round(run[at]["bits_per_byte"], 4) for at in (0, 19)]
        context = program.config.model.use_context
        found = {"mesh": program.sizes, "context": context, "same": same}
        told("equality", losses=losses, **found, **apart)


def weak(count: int, sizes: dict) -> None:
    """As much for each device, whatever their number."""
    one = config_of(BIG, sizes["own"], sizes["chunk"])
    wide = replace(one, batch_size=count)
    long = config_of(BIG, sizes["own"] * count, sizes["chunk"])
    meshes = [(wide, "data"), (long, "time"), (wide, "model")]
    scaling(count, one, meshes, 1.0, sizes["repeats"])


def strong(count: int, sizes: dict) -> None:
    """One input, split over more and more devices."""
    one = config_of(BIG, sizes["strong"], sizes["chunk"])
    scaling(count, one, [(one, "time")], 1 / count, sizes["repeats"])


def ring(count: int, sizes: dict) -> None:
    """As `strong`, of latents that see all steps before their own."""
    seeing = replace(BIG, latent_window=None)
    one = config_of(seeing, sizes["ring"], sizes["chunk"])
    scaling(count, one, [(one, "time")], 1 / count, sizes["repeats"])


def scaling(
    count: int,
    one: TrainConfig,
    others: list[tuple[TrainConfig, str]],
    ideal: float,
    repeats: int,
) -> None:
    """Times and memory over meshes, beside those of one device."""
    pairs = [(one, ""), *((config, f"{axis}={count}") for config, axis in others)]
    alone = None
    for program in compiled(pairs):
        seconds, model = program.seconds(repeats), program.config.model
        alone = seconds if alone is None else alone
        data = program.config.data
        rate = program.config.batch_size * data.window_bytes
        state, step = program.bytes_of_memory
        found = {
            "mesh": program.sizes or "one device",
            "batch": program.config.batch_size,
            "window_bytes": data.window_bytes,
            "context_bytes": data.context_bytes if model.use_context else 0,
            "latent_window": model.latent_window,
            "seconds": seconds,
            "bytes_per_second": rate / seconds,
            "state_bytes": state,
            "step_bytes": step,
        }
        if program.sizes:
            found["efficiency"] = ideal * alone / seconds
            shapes = eqx.filter_eval_shape(partial(new_state, one), jr.key(0))
            work = Work(*step_flops(program.config, shapes.model), REACHED["gpu"])
            told_seconds = estimate(
                program.config, program.layout, program.compiled, work
            ).seconds
            found["planned_seconds"] = told_seconds
            found["planned_over_measured"] = told_seconds / seconds
            found["nccl_share"] = program.share_of_exchange()
        told("scaling", **found)


def context(count: int, sizes: dict) -> None:
    """A context as many times longer as there are devices, of one target."""
    target, own = sizes["target"], sizes["own"]
    one, long = (
        config_of(BIG, target, sizes["chunk"], own * times) for times in (1, count)
    )
    scaling(count, one, [(long, "time")], 1.0, sizes["repeats"])


def largest(count: int, sizes: dict) -> None:
    """One input of as many times 33,554,432 bytes as there are devices."""
    config = config_of(BIG, sizes["largest"] * count, sizes["chunk"])
    program = Program(config, f"time={count}")
    begun = time.perf_counter()
    first = program.step(0)
    middle = time.perf_counter()
    second = program.step(1)
    stats = jax.devices()[0].memory_stats() or {}
    told(
        "largest",
        mesh=program.sizes,
        bytes=config.data.window_bytes,
        seconds=[middle - begun, time.perf_counter() - middle],
        losses=[first["bits_per_byte"], second["bits_per_byte"]],
        step_bytes=program.bytes_of_memory[1],
        peak_bytes=stats.get("peak_bytes_in_use"),
    )


PARTS = {
    "equality": equality,
    "weak": weak,
    "strong": strong,
    "ring": ring,
    "context": context,
    "largest": largest,
}
REAL = {
    "equal": 2048,
    "own": MILLION,
    "chunk": 8192,
    "strong": 8 * MILLION,
    "ring": 4 * MILLION,
    "target": MILLION // 4,
    "largest": 32 * MILLION,
    "repeats": 5,
}
DRY = {
    "equal": 512,
    "own": 2**14,
    "chunk": 512,
    "strong": 2**15,
    "ring": 2**14,
    "target": 2**13,
    "largest": 2**15,
    "repeats": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", type=int, help="devices that a processor plays")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    if args.simulate:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.simulate)
    count = len(jax.devices())
    told("devices", count=count, kind=jax.devices()[0].device_kind, jax=jax.__version__)
    for part in args.only:
        PARTS[part](count, DRY if args.simulate else REAL)


if __name__ == "__main__":
    main()
