"""The training loop: data in, steps out, and a checkpoint to go on from."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from perceiver_eqx import ByteLM
from perceiver_eqx.pretrained import save as save_model

from . import checkpoint
from .config import TrainConfig, to_json
from .data.source import Source, open_source
from .distributed import Processes, processes
from .evaluate import evaluate
from .memory import advised
from .metrics import MetricsLog, plot_losses, read_metrics
from .process import Stopped, hang_watch, stop_requests, until
from .program import compile_bits, compile_step, layout_of, new_state, schedule_of
from .provenance import versions, write_start
from .report import Reporter
from .resumable import check_resumable
from .samples import SAMPLED_KINDS, make_samples, save_samples, text_of
from .step import TrainState


class NotFinite(RuntimeError):
    """Too many steps in a row had no finite loss and gradient."""


def train(config: TrainConfig, *, report: Callable[[str], None] = print) -> ByteLM:
    """Trains a model, from the start or from the newest checkpoint of the run.

    The order at a step is: the step, its metrics, evaluation, sample, checkpoint.
    Whenever the process ends, the next one goes on from the newest checkpoint, and
    logs what the unbroken run would have logged. Ctrl-C and SIGTERM save one first.

    Args:
        config: the run. Its folder receives `starts.jsonl`, `metrics.jsonl`,
            `checkpoints/`, `model.safetensors` and `loss.png`.
        report: takes each line for the person who watches.

    Returns:
        The model: trained, or as far as it was when the run was asked to stop.

    Raises:
        ValueError: the run's folder cannot be written, or the run to resume had
            another config or other data, or its checkpoint is damaged.
        FileNotFoundError: there is nothing at the data's path.
        NotFinite: `max_skipped` steps in a row were skipped.
        OutOfMemory: the device has not enough.
        FirstFailed, ProcessLost: another of the processes of the run ended.
    """
    with processes(config) as group, advised(config):
        return _train(config, group, report)


def _train(
    config: TrainConfig, group: Processes, report: Callable[[str], None]
) -> ByteLM:
    def say(line: str) -> None:
        if group.first:
            report(line)

    layout = layout_of(config)
    _make_folder(config.out)
    source = open_source(config)
    record = {
        "config": to_json(config),
        "data": source.fingerprint,
        "versions": versions(),
    }
    schedule = schedule_of(config.optim, config.steps)
    model_key, step_key, sample_key = jr.split(jr.key(config.seed), 3)
    state = new_state(config, model_key)

    folder, model_file = config.out / "checkpoints", config.out / "model.safetensors"
    resumed = _resume(folder, state, record, config)
    start, finished, goes_on = 0, True, resumed is not None
    if resumed is not None:
        state, start, finished = resumed
        # Nothing else shall hold the arrays of the state.
        resumed = None
    complete = goes_on and model_file.exists() and finished and start >= config.steps
    group.check_alike(
        {
            **record["config"],
            "fingerprint of the data": record["data"],
            "versions": record["versions"],
            "checkpoint to go on from": start,
            "complete": complete,
        }
    )
    if config.resume_step is not None and group.first:
        checkpoint.set_aside_after(folder, start)
    if complete:
        say(f"the run in {config.out} is complete; a new one needs another --out")
        return state.model
    if goes_on:
        say(f"going on from step {start} of {config.out}")
    if group.first:
        write_start(config, step=start)
    count = sum(x.size for x in jax.tree.leaves(eqx.filter(state.model, eqx.is_array)))
    where = jax.devices()[0].device_kind
    if layout is not None:
        where += f", {layout.described}"
    if group.count > 1:
        where += f", in {group.count} processes"
    say(
        f"{count:,} parameters on {where}, {source.description}; "
        "the first step compiles for a while"
    )
    say(
        f"the run is in {config.out}, saved every {config.save_every} steps; started "
        "again, it goes on from there"
    )

    take_step = compile_step(config, state, layout)
    eval_bits = compile_bits(config, layout)
    put, here = partial(jax.tree.map, jnp.asarray), lambda part: part
    if layout is not None:
        put, here = layout.put_batch, layout.local
        state = layout.put_state(state)
    static = eqx.filter(state, eqx.is_array, inverse=True)
    hang = "hang.txt" if group.first else f"hang_{group.index}.txt"
    with (
        stop_requests() as heard,
        hang_watch(config.hang_seconds, config.out / hang) as alive,
        source.training(start) as batches,
        MetricsLog(
            config.out,
            resume_step=start if goes_on else None,
            whole=finished,
            tensorboard=config.tensorboard,
        )
        if group.first
        else nullcontext() as log,
    ):
        asked = group.agreed(heard)
        reporter = Reporter(config, log, schedule, first_step=start, report=report)

        def look(step: int, state: TrainState) -> bool:
            """Evaluates and samples where it is due. False if that was given up."""
            due = _Due.at(step, config)
            with reporter.paused():
                try:
                    if due.validates:
                        held_out = until(asked, _each(alive, source.validation()))
                        found = evaluate(state.model, held_out, eval_bits)
                        reporter.validation(step, found)
                    if due.samples and config.data.kind in SAMPLED_KINDS:
                        alive()
                        model = here(state.model)
                        if group.first:
                            _sample(model, config, sample_key, step, source, reporter)
                except Stopped:
                    return False
            return True

        def tell(step: int, metrics: dict[str, Array]) -> None:
            reporter.step(step, metrics)
            if int(metrics["skipped_in_a_row"]) >= config.max_skipped:
                last = checkpoint.latest_step(folder)
                raise NotFinite(
                    f"`max_skipped` = {config.max_skipped} steps in a row had no "
                    f"finite loss and gradient, the last one step {step}; the last "
                    f"checkpoint, of step {last}, is as it was. Lower "
                    "optim.learning_rate or clip_norm in a new run, or look at the "
                    "data of these steps."
                )

        def save(step: int, state: TrainState, finished: bool) -> None:
            if group.count > 1:
                state = here(state)

            def write() -> None:
                _check_folder(config.out)
                checkpoint.save(folder, step, state, {**record, "finished": finished})

            with reporter.paused():
                group.by_first(write)

        if not finished:
            finished = look(start, state)
        # Metrics are read one step late, while the next step runs.
        waiting: tuple[int, dict[str, Array]] | None = None
        step, saved = start, start
        while step < config.steps and not asked():
            step += 1
            alive()
            batch, key = put(next(batches)), jr.fold_in(step_key, step)
            arrays = eqx.filter(state, eqx.is_array)
            arrays, metrics = take_step(arrays, batch, key)
            state = eqx.combine(arrays, static)
            if waiting is not None:
                tell(*waiting)
            waiting = step, metrics
            due = _Due.at(step, config)
            if any(due) or asked():
                tell(*waiting)
                waiting = None
                finished = look(step, state)
                if due.saves or asked():
                    save(step, state, finished)
                    saved = step
        if waiting is not None:
            tell(*waiting)
        if step < config.steps or not finished:
            if saved < step:
                save(step, state, finished)
            report(
                f"stopped, and saved, at step {step} of {config.steps}; the same "
                "command goes on from there"
            )
            return here(state.model)

    model = here(state.model)

    def write_all() -> None:
        save_model(model_file, model)
        plot_losses(read_metrics(config.out / "metrics.jsonl"), config.out / "loss.png")

    group.by_first(write_all)
    say(
        f"saved {model_file} and {config.out / 'loss.png'}; sample more with\n"
        f"  python -m train sample --model {model_file}"
    )
    return model


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the run's folder {str(folder)!r} is gone, and all that was saved with it."
        )


class _Due(NamedTuple):
    """What follows a step."""

    validates: bool
    samples: bool
    saves: bool

    @classmethod
    def at(cls, step: int, config: TrainConfig) -> "_Due":
        every = config.validate_every, config.sample_every, config.save_every
        return cls(*(step == config.steps or step % each == 0 for each in every))


def _each(call: Callable[[], None], items: Iterator) -> Iterator:
    for item in items:
        call()
        yield item


def _sample(
    model: ByteLM,
    config: TrainConfig,
    key: PRNGKeyArray,
    step: int,
    source: Source,
    reporter: Reporter,
) -> None:
    made = make_samples(model, config, jr.fold_in(key, step), source.held_out)
    path = save_samples(made, config, step) if config.sample.suffix else None
    reporter.sample(step, text_of(made), path)


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


def _resume(
    folder: Path, state: TrainState, record: dict[str, Any], config: TrainConfig
) -> tuple[TrainState, int, bool] | None:
    """The state of a run to go on with, its step, and whether all that belongs to that
    step was done; `None` for a run that begins."""
    step = checkpoint.latest_step(folder)
    if config.resume_step is not None:
        step = config.resume_step
    if step is None:
        return None
    if not config.resume:
        raise ValueError(
            f"`resume` is off, but {config.out} holds a run. Pass another --out, or "
            "delete that folder."
        )
    state, recorded = checkpoint.restore(folder, state, step)
    if not config.resume_changed:
        check_resumable(recorded["config"], record["config"])
        if recorded["data"] != record["data"]:
            raise ValueError(
                f"`data.path` holds other content than when the run in {config.out} "
                f"was saved (fingerprint {recorded['data']}, now {record['data']}). "
                "Restore the data, start a new run with another --out, or pass "
                "--resume-changed."
            )
    return state, step, recorded["finished"]
