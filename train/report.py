"""What a run tells: metrics to the log, and lines for the person who watches."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optax
from jaxtyping import Array

from .config import TrainConfig
from .memory import memory_bytes
from .metrics import MetricsLog, progress_line


class Reporter:
    """Writes each record to the log, and some of them as a line.

    Args:
        config: of the run.
        log: the metrics file; `None` to write and to say nothing.
        schedule: learning rate by step, from 0.
        first_step: the step that this process goes on from.
        report: takes each line.
    """

    def __init__(
        self,
        config: TrainConfig,
        log: MetricsLog | None,
        schedule: optax.Schedule,
        *,
        first_step: int,
        report: Callable[[str], None],
    ):
        self._config = config
        self._log = log
        self._schedule = schedule
        self._first_step = first_step
        self._report = report if log is not None else lambda _: None
        self._begin = time.perf_counter()
        self._bytes_seen = int(log.last.get("bytes_seen", 0)) if log else 0
        # When each of the last steps was seen to be done, and its bytes.
        self._done = deque([(self._begin, 0)], maxlen=config.log_every + 1)

    def step(self, step: int, metrics: dict[str, Array]) -> None:
        """Records a training step; waits for its metrics."""
        num_bytes, skipped = int(metrics["num_bytes"]), int(metrics["skipped"])
        skips = int(metrics["skipped_in_a_row"]) > 0
        self._bytes_seen += num_bytes
        numbers = {
            "bits_per_byte": float(metrics["bits_per_byte"]),
            # The optimizer counts the steps that it took.
            "learning_rate": float(
                np.asarray(self._schedule(step - 1 - skipped + skips))
            ),
            "gradient_norm": float(metrics["gradient_norm"]),
            "bytes_per_second": self._bytes_per_second(num_bytes),
            "memory_bytes": memory_bytes(),
        }
        self._write(step, "train", **numbers, skipped=skipped)
        if skips:
            self._report(
                f"step {step:>7}: skipped, as its loss or gradient was not finite or "
                f"a spike ({skipped} in all)"
            )
        first, last = self._first_step + 1, self._config.steps
        if step % self._config.log_every == 0 or step in (first, last):
            line = progress_line(
                step=step,
                total_steps=self._config.steps,
                elapsed_seconds=time.perf_counter() - self._begin,
                first_step=self._first_step,
                **numbers,
            )
            self._report(line)

    def validation(self, step: int, bits_per_byte: float) -> None:
        """Records an evaluation."""
        self._write(step, "validation", bits_per_byte=bits_per_byte)
        self._report(f"step {step:>7}: validation bits/byte {bits_per_byte:.4f}")

    def sample(self, step: int, text: str, path: Path | None) -> None:
        """Records a sample, which may be in a file too."""
        self._write(step, "sample", text=text)
        self._report(f"--- sample at step {step} ---\n{text}\n---")
        if path is not None:
            self._report(f"saved {path}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of speed and remaining time."""
        before = time.perf_counter()
        yield
        pause = time.perf_counter() - before
        self._begin += pause
        later = [(seen + pause, num_bytes) for seen, num_bytes in self._done]
        self._done = deque(later, maxlen=self._done.maxlen)

    def _write(self, step: int, kind: str, **values) -> None:
        if self._log is None:
            return
        seen = {"bytes_seen": self._bytes_seen}
        self._log.write({"step": step, "kind": kind, **values, **seen})

    def _bytes_per_second(self, num_bytes: int) -> float:
        """Over the last `log_every` steps: single ones are seen too irregularly."""
        now = time.perf_counter()
        self._done.append((now, num_bytes))
        (start, _), *later = self._done
        return sum(size for _, size in later) / (now - start)
