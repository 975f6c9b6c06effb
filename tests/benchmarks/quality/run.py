"""One run: a row trained under a budget, and scored."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import jax.random as jr
import numpy as np

from .data import Splits, Windows
from .evaluate import bits_of_text, check_before, mean, stride_of
from .positions import bits_by_position
from .programs import Programs
from .results import Run, identity


CURVE_BYTES = 256 << 10
CURVE_POINTS = 6
# The device is waited for once in so many steps, for metrics of as many steps ago.
READ_EVERY = 20
# A GPU slows down in its first seconds at work: a step is timed after so many.
TIMED_SECONDS, TIMED_STEPS = 5.0, 20


@dataclass
class Clock:
    """Seconds of training: evaluation is not counted."""

    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.since

    def go_on(self) -> None:
        self.since = time.perf_counter()


def train_row(
    programs: Programs,
    run: Run,
    splits: Splits,
    *,
    test: bool = False,
    positions: bool = False,
    report: Callable[[str], None] = print,
) -> dict:
    """Trains a row and returns its line of the results.

    Every byte of `validation` and `test` has at least 7/8 of the model's context before
    it. In `validation_plain` and `test_plain` rows lie end to end: there a byte has
    what precedes it in its row, so `context - targets` bytes or more.

    Args:
        programs: the row, compiled.
        run: learning rate, seed, budget and the rest.
        splits: of the text.
        test: score the test split too, at the very end.
        positions: add the loss by position.
        report: takes each line for the person who watches.

    Raises:
        ValueError: before anything is trained, if there is too little text before what
            is to be scored.
    """
    for of_test in (False, True) if test else (False,):
        check_before(programs, splits.held_out(of_test)[1], stride_of(programs))
    row, key = programs.row, jr.key(run.seed)
    model_key, step_key = jr.split(key)
    windows = Windows(splits.train, run.window, run.seed)
    batch_rows = row.batch_bytes // programs.context
    peak = np.float32(run.learning_rate)

    def batches() -> Iterator[np.ndarray]:
        return windows.batches(batch_rows, programs.context)

    def take(carried, batch, number: int, steps: int):
        return programs.step(
            carried, batch, np.int32(number), np.int32(steps), peak, step_key
        )

    if run.budget.flops is not None:
        steps = max(1, int(run.budget.flops / programs.step_flops))
    else:
        seconds = _step_seconds(programs.init(model_key), batches(), take)
        steps = max(1, int((run.budget.seconds or 0) / seconds))
    marks = {math.ceil(steps * part / CURVE_POINTS) for part in range(1, CURVE_POINTS)}
    carried = jax.block_until_ready(programs.init(model_key))
    losses: list[float] = []
    waiting: list[jax.Array] = []
    curve: list[dict] = []
    ordered = batches()
    clock = Clock()
    done = 0
    for done in range(1, steps + 1):
        carried, bits = take(carried, next(ordered), done - 1, steps)
        waiting.append(bits)
        if len(waiting) >= 2 * READ_EVERY:
            losses += map(float, jax.device_get(waiting[:READ_EVERY]))
            del waiting[:READ_EVERY]
            if not math.isfinite(losses[-1]):
                break
        if done in marks and done < steps:
            jax.block_until_ready(carried)
            clock.stop()
            curve.append(_point(programs, carried, splits, done, clock.seconds))
            report(f"  {_told(curve[-1])} of {steps} steps")
            clock.go_on()
    jax.block_until_ready(carried)
    clock.stop()
    losses += map(float, jax.device_get(waiting))
    curve.append(_point(programs, carried, splits, done, clock.seconds))

    started = time.perf_counter()
    result = _result(programs, run, splits, done, clock.seconds, losses, curve)
    result |= _scores(programs, carried, splits, "validation", test=False)
    if test:
        result |= _scores(programs, carried, splits, "test", test=True)
    result["scoring_seconds"] = time.perf_counter() - started
    if positions:
        result["positions"] = bits_by_position(programs, carried, *splits.held_out())
    stats = jax.devices()[0].memory_stats() or {}
    # Of the process so far, so only of this row where it is the first or the largest.
    result["peak_bytes"] = stats.get("peak_bytes_in_use")
    return result


def _step_seconds(carried, batches: Iterator[np.ndarray], take) -> float:
    """Seconds of a step, by some that are thrown away, of which the last ones count."""
    begun, number = time.perf_counter(), 0
    while True:
        start = time.perf_counter()
        for _ in range(TIMED_STEPS):
            carried, _ = take(carried, next(batches), number, 1000)
            number += 1
        jax.block_until_ready(carried)
        now = time.perf_counter()
        # The first ones, by which a device wakes up, never count.
        if number > TIMED_STEPS and now - begun > TIMED_SECONDS:
            return (now - start) / TIMED_STEPS


def _point(
    programs: Programs, carried, splits: Splits, step: int, seconds: float
) -> dict:
    """A point of the validation curve: the first bytes, in rows that do not overlap."""
    text, before = splits.held_out()
    bits = bits_of_text(programs, carried, text[:CURVE_BYTES], before, programs.targets)
    return {
        "step": step,
        "flops": step * programs.step_flops,
        "seconds": seconds,
        "bits_per_byte": mean(bits),
    }


def _scores(
    programs: Programs, carried, splits: Splits, name: str, *, test: bool
) -> dict:
    """Bits per byte of a whole split, by `stride_of` and, as `_plain`, by rows whose
    targets lie end to end."""
    text, before = splits.held_out(test)
    plain = mean(bits_of_text(programs, carried, text, before, programs.targets))
    stride, bits = stride_of(programs), plain
    if stride < programs.targets:
        bits = mean(bits_of_text(programs, carried, text, before, stride))
    return {name: bits, f"{name}_plain": plain}


def _result(
    programs: Programs,
    run: Run,
    splits: Splits,
    steps: int,
    seconds: float,
    losses: list[float],
    curve: list[dict],
) -> dict:
    tail = losses[-max(READ_EVERY, len(losses) // 20) :]
    seen = steps * programs.row.batch_bytes
    return {
        "run": identity(run),
        "parameters": programs.num_parameters,
        "steps": steps,
        "bytes_seen": seen,
        "targets_seen": seen // programs.context * programs.targets,
        "flops": steps * programs.step_flops,
        "seconds": seconds,
        "bytes_per_second": seen / seconds,
        "flops_per_second": steps * programs.step_flops / seconds,
        "train_tail": mean(np.array(tail)),
        "curve": curve,
        "temp_bytes": programs.temp_bytes,
        "compile_seconds": programs.compile_seconds,
        "hashes": splits.hashes,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _told(point: dict) -> str:
    return (
        f"step {point['step']}: {point['bits_per_byte']:.4f} bits per byte after "
        f"{point['flops']:.2e} operations, {point['seconds']:.1f} s"
    )
