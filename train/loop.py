"""The training loop: data in, steps, and what a person sees of them."""

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from perceiver_eqx import ByteLM, generate
from perceiver_eqx.pretrained import save as save_model

from . import checkpoint
from .config import OptimConfig, SampleConfig, TrainConfig, check_resumable, to_json
from .data.files import ByteStream, find_files, fingerprint, split
from .data.windows import training_batches, validation_batches
from .evaluate import evaluate
from .loss import batch_bits
from .metrics import (
    MetricsLog,
    memory_bytes,
    plot_losses,
    progress_line,
    read_metrics,
)
from .step import TrainState, adamw, init_train_state, train_step


def train(config: TrainConfig, *, report: Callable[[str], None] = print) -> ByteLM:
    """Train a model, from the start or from the newest checkpoint of the run.

    The order of events at a step is: the step, its metrics, evaluation, sample,
    checkpoint. Whenever the process ends, the next one goes on from the newest
    checkpoint, and what it logs is what the unbroken run would have logged.

    Args:
        config: the run. Its folder receives `checkpoints/`, `metrics.jsonl`,
            `model.safetensors` and `loss.png`.
        report: takes each line for the person who watches.

    Returns:
        The trained model.

    Raises:
        ValueError: the run to resume had another config or other data.
        FileNotFoundError: there is nothing at the data's path.
    """
    train_segments, held_out = split(
        find_files(config.data.path),
        validation_fraction=config.data.validation_fraction,
    )
    stream, held_out_stream = ByteStream(train_segments), ByteStream(held_out)
    record = {
        "config": to_json(config),
        "data": fingerprint((*train_segments, *held_out)),
        "versions": _versions(),
    }

    schedule = _schedule(config.optim, config.steps)
    optim = adamw(
        schedule,
        b1=config.optim.b1,
        b2=config.optim.b2,
        weight_decay=config.optim.weight_decay,
        clip_norm=config.optim.clip_norm,
    )
    model_key, step_key, sample_key = jr.split(jr.key(config.seed), 3)
    model = ByteLM(**_model_arguments(config), key=model_key)
    state = init_train_state(model, optim)

    folder = config.out / "checkpoints"
    first_step = checkpoint.latest_step(folder)
    if first_step is not None:
        state = _resume(folder, state, record, config)
        report(f"going on from step {first_step} of {config.out}")
    start = first_step or 0
    if start >= config.steps:
        report(f"the run in {config.out} is complete; pass another --out for a new one")
        return state.model
    num_params = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    report(
        f"{num_params:,} parameters on {jax.devices()[0].device_kind}, "
        f"{len(stream):,} bytes to train on, {len(held_out_stream):,} held out; "
        "the first step compiles for a while"
    )

    loss_fn = partial(batch_bits, chunk_steps=config.chunk_steps)
    take_step = _jit_step(state, loss_fn, optim, config.micro_batches)
    eval_bits = eqx.filter_jit(lambda model, batch: loss_fn(model, batch, None))
    batches = training_batches(
        stream,
        window_bytes=config.data.window_bytes,
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
    )
    bytes_per_step = config.batch_size * config.data.window_bytes

    with MetricsLog(
        config.out, resume_step=first_step, tensorboard=config.tensorboard
    ) as log:
        clock = _Clock()

        def log_step(step: int, metrics: dict[str, Array]) -> None:
            row = {
                "step": step,
                "kind": "train",
                "bits_per_byte": float(metrics["bits_per_byte"]),
                "learning_rate": float(schedule(step - 1)),
                "gradient_norm": float(metrics["gradient_norm"]),
                "bytes_per_second": int(metrics["num_bytes"]) / clock.lap(),
                "memory_bytes": memory_bytes(),
                "bytes_seen": step * bytes_per_step,
            }
            log.write(row)
            if step % config.log_every == 0 or step in (start + 1, config.steps):
                shown = {
                    k: v for k, v in row.items() if k not in ("kind", "bytes_seen")
                }
                report(
                    progress_line(
                        total_steps=config.steps,
                        elapsed_seconds=clock.elapsed(),
                        first_step=start,
                        **shown,
                    )
                )

        def validate(step: int, model: ByteLM) -> None:
            held_out_batches = validation_batches(
                held_out_stream,
                window_bytes=config.data.window_bytes,
                batch_size=config.batch_size,
                max_bytes=config.data.validation_bytes,
            )
            bits_per_byte = evaluate(model, held_out_batches, eval_bits)
            log.write(
                {
                    "step": step,
                    "kind": "validation",
                    "bits_per_byte": bits_per_byte,
                    "bytes_seen": step * bytes_per_step,
                }
            )
            report(f"step {step:>7}: validation bits/byte {bits_per_byte:.4f}")

        def show_sample(step: int, model: ByteLM) -> None:
            text = sample_text(model, config.sample, jr.fold_in(sample_key, step))
            log.write({"step": step, "kind": "sample", "text": text})
            report(f"--- sample at step {step} ---\n{text}\n---")

        # Metrics are read one step late, while the next step runs.
        waiting: tuple[int, dict[str, Array]] | None = None
        for step in range(start + 1, config.steps + 1):
            batch = jax.tree.map(jnp.asarray, next(batches))
            state, metrics = take_step(state, batch, jr.fold_in(step_key, step))
            if waiting is not None:
                log_step(*waiting)
            waiting = step, metrics
            last = step == config.steps
            due = [
                last or step % every == 0
                for every in (
                    config.validate_every,
                    config.sample_every,
                    config.save_every,
                )
            ]
            if any(due):
                log_step(*waiting)
                waiting = None
                with clock.paused():
                    if due[0]:
                        validate(step, state.model)
                    if due[1]:
                        show_sample(step, state.model)
                    if due[2]:
                        checkpoint.save(folder, step, state, record)
    batches.close()
    save_model(config.out / "model.safetensors", state.model)
    plot_losses(read_metrics(config.out / "metrics.jsonl"), config.out / "loss.png")
    report(
        f"saved {config.out / 'model.safetensors'} and {config.out / 'loss.png'}; "
        f"sample more with: python -m train sample --model "
        f"{config.out / 'model.safetensors'}"
    )
    return state.model


def sample_text(model: ByteLM, sample: SampleConfig, key: PRNGKeyArray) -> str:
    """The prompt and what the model adds to it, as text."""
    prompt = sample.prompt.encode()
    added = generate(
        model,
        prompt,
        sample.num_bytes,
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        key=key,
    )
    return (prompt + np.asarray(added).tobytes()).decode(errors="replace")


def _model_arguments(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config.model, name) for name in vars(config.model)}


def _schedule(optim: OptimConfig, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optim.learning_rate,
        warmup_steps=optim.warmup_steps,
        decay_steps=steps,
        end_value=optim.learning_rate * optim.final_share,
    )


def _resume(
    folder: Path, state: TrainState, record: dict[str, Any], config: TrainConfig
) -> TrainState:
    if not config.resume:
        raise ValueError(
            f"`resume` is off, but {config.out} holds a run. Pass another --out, or "
            "delete that folder."
        )
    state, recorded = checkpoint.restore(folder, state)
    check_resumable(recorded["config"], record["config"])
    if recorded["data"] != record["data"]:
        raise ValueError(
            f"`data.path` holds other content than when the run in {config.out} was "
            f"saved (fingerprint {recorded['data']}, now {record['data']}). Restore "
            "the data, or start a new run with another --out."
        )
    return state


def _jit_step(
    state: TrainState, loss_fn, optim: optax.GradientTransformation, micro_batches: int
):
    """`train_step`, compiled, with the old state's memory given to the new one."""
    static = eqx.filter(state, eqx.is_array, inverse=True)

    @partial(jax.jit, donate_argnums=0)
    def step(arrays, batch, key):
        state, metrics = train_step(
            eqx.combine(arrays, static),
            batch,
            key,
            loss_fn=loss_fn,
            optim=optim,
            micro_batches=micro_batches,
        )
        return eqx.filter(state, eqx.is_array), metrics

    def take_step(state: TrainState, batch, key):
        arrays, metrics = step(eqx.filter(state, eqx.is_array), batch, key)
        return eqx.combine(arrays, static), metrics

    return take_step


def _versions() -> dict[str, str]:
    names = ("jax", "equinox", "optax", "grain", "orbax-checkpoint", "perceiver-eqx")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


class _Clock:
    """Wall-clock time of training alone: pauses do not count."""

    def __init__(self):
        self._begin = self._last = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self._begin

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        pause = time.perf_counter() - before
        self._begin, self._last = self._begin + pause, self._last + pause
