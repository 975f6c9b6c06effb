"""The training loop: data in, steps out, and a checkpoint to go on from."""

import errno
import importlib.metadata
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array

from perceiver_eqx import ByteLM
from perceiver_eqx.pretrained import save as save_model

from . import checkpoint
from .config import (
    OptimConfig,
    TrainConfig,
    check_resumable,
    to_json,
)
from .data.source import open_source
from .evaluate import evaluate
from .loss import Loss, batch_bits
from .metrics import MetricsLog, plot_losses, read_metrics
from .optim import adamw, muon
from .report import Reporter
from .samples import SAMPLED_KINDS, make_samples, save_samples, text_of
from .step import TrainState, init_train_state, train_step


def train(config: TrainConfig, *, report: Callable[[str], None] = print) -> ByteLM:
    """Trains a model, from the start or from the newest checkpoint of the run.

    The order at a step is: the step, its metrics, evaluation, sample, checkpoint.
    Whenever the process ends, the next one goes on from the newest checkpoint, and
    logs what the unbroken run would have logged.

    Args:
        config: the run. Its folder receives `checkpoints/`, `metrics.jsonl`,
            `model.safetensors` and `loss.png`.
        report: takes each line for the person who watches.

    Returns:
        The trained model.

    Raises:
        ValueError: the run's folder cannot be written, or the run to resume had
            another config or other data.
        FileNotFoundError: there is nothing at the data's path.
    """
    _make_folder(config.out)
    source = open_source(config)
    record = {
        "config": to_json(config),
        "data": source.fingerprint,
        "versions": _versions(),
    }
    schedule = schedule_of(config.optim, config.steps)
    optim = optimizer_of(config.optim, schedule, config.model.dtype)
    model_key, step_key, sample_key = jr.split(jr.key(config.seed), 3)
    state = init_train_state(ByteLM(**vars(config.model), key=model_key), optim)

    folder = config.out / "checkpoints"
    resumed = checkpoint.latest_step(folder)
    if resumed is not None:
        state = _resume(folder, state, record, config)
        report(f"going on from step {resumed} of {config.out}")
    start = resumed or 0
    if start >= config.steps:
        report(f"the run in {config.out} is complete; a new one needs another --out")
        return state.model
    params = jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
    report(
        f"{sum(x.size for x in params):,} parameters on "
        f"{jax.devices()[0].device_kind}, {source.description}; the first step "
        "compiles for a while"
    )
    report(
        f"the run is in {config.out}, saved every {config.save_every} steps; started "
        "again, it goes on from there"
    )

    loss_fn = partial(batch_bits, chunk_steps=config.chunk_steps)
    take_step = _jit_step(state, loss_fn, optim, config.micro_batches)
    eval_bits = eqx.filter_jit(lambda model, batch: loss_fn(model, batch, None))
    with (
        source.training(start) as batches,
        MetricsLog(
            config.out, resume_step=resumed, tensorboard=config.tensorboard
        ) as log,
    ):
        reporter = Reporter(config, log, schedule, first_step=start, report=report)
        # Metrics are read one step late, while the next step runs.
        waiting: tuple[int, dict[str, Array]] | None = None
        for step in range(start + 1, config.steps + 1):
            batch = jax.tree.map(jnp.asarray, next(batches))
            state, metrics = take_step(state, batch, jr.fold_in(step_key, step))
            if waiting is not None:
                reporter.step(*waiting)
            waiting = step, metrics
            validates, samples, saves = (
                step == config.steps or step % every == 0
                for every in (
                    config.validate_every,
                    config.sample_every,
                    config.save_every,
                )
            )
            if not (validates or samples or saves):
                continue
            reporter.step(*waiting)
            waiting = None
            with reporter.paused():
                if validates:
                    held_out = source.validation()
                    reporter.validation(
                        step, evaluate(state.model, held_out, eval_bits)
                    )
                if samples and config.data.kind in SAMPLED_KINDS:
                    key = jr.fold_in(sample_key, step)
                    made = make_samples(state.model, config, key, source.held_out)
                    reporter.sample(step, text_of(made))
                    if config.sample.suffix and (
                        path := save_samples(made, config, step)
                    ):
                        report(f"saved {path}")
                if saves:
                    checkpoint.save(folder, step, state, record)

    model_file = config.out / "model.safetensors"
    save_model(model_file, state.model)
    plot_losses(read_metrics(config.out / "metrics.jsonl"), config.out / "loss.png")
    report(
        f"saved {model_file} and {config.out / 'loss.png'}; sample more with\n"
        f"  python -m train sample --model {model_file}"
    )
    return state.model


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(
            f"`out` must be a folder that can be written, got {str(folder)!r}: "
            f"{error.strerror}. Pass another --out."
        ) from error


def schedule_of(optim: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step of so many."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optim.learning_rate,
        warmup_steps=optim.warmup_steps,
        decay_steps=steps,
        end_value=optim.learning_rate * optim.final_share,
    )


def optimizer_of(
    optim: OptimConfig, schedule: optax.Schedule, dtype: str
) -> optax.GradientTransformation:
    """The optimizer of a run, for a model that computes in `dtype`."""
    options = {
        "b1": optim.b1,
        "b2": optim.b2,
        "weight_decay": optim.weight_decay,
        "clip_norm": optim.clip_norm,
    }
    if optim.name == "adamw":
        return adamw(schedule, **options)
    return muon(schedule, **options, dtype=dtype)


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
    state: TrainState,
    loss_fn: Loss,
    optim: optax.GradientTransformation,
    micro_batches: int,
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
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **versions}
