"""What a run tells: a line in the terminal, a line in a file, a picture of the loss."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter


Record = Mapping[str, Any]


class MetricsLog:
    """Appends records to `metrics.jsonl` in a run's folder, one JSON object a line.

    Log the records of a step before saving its checkpoint. A run that resumes from
    that checkpoint then finds each step in the file exactly once, however it ended.

    Args:
        folder: of the run. Made if missing.
        resume_step: the step of the checkpoint that the run resumes from: lines of
            later steps are dropped, and so is a line torn by a kill. `None` starts the
            file anew.
        whole: whether that step was evaluated and sampled as is due; if not, what of it
            was, is dropped too, to be done again.
        tensorboard: whether to write the records for TensorBoard too, in
            `folder / "tensorboard"`.

    Attributes:
        last: the last record that was there; empty if there was none.

    Raises:
        ValueError: the file to resume has a damaged line before its last.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int | None,
        whole: bool = True,
        tensorboard: bool = False,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = []
        if resume_step is not None and path.exists():
            before = resume_step + whole
            kept = [
                record
                for record in read_metrics(path)
                if record["step"] < before
                or (record["step"] == resume_step and record["kind"] == "train")
            ]
        # Replacing the file whole keeps the old one good if we are killed here.
        draft = path.with_suffix(".tmp")
        draft.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(draft, path)
        self._file = path.open("a", encoding="utf-8")
        self.last: Record = kept[-1] if kept else {}
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            first = None if resume_step is None else resume_step + 1
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def write(self, record: Record):
        """Appends one record and flushes it.

        Args:
            record: `step`, `kind` ("train", "validation" or "sample"), and numbers
                or texts by name.

        Raises:
            ValueError: `record` has no `step` or no `kind`.
        """
        if missing := {"step", "kind"} - record.keys():
            raise ValueError(
                f"`record` must have `step` and `kind`; {sorted(missing)} missing in "
                f"{dict(record)}."
            )
        self._file.write(_line(record))
        self._file.flush()
        if self._board is not None:
            step, kind = int(record["step"]), record["kind"]
            for name in record.keys() - {"step", "kind"}:
                tag, value = f"{kind}/{name}", record[name]
                if isinstance(value, str):
                    self._board.add_text(tag, value, step)
                else:
                    self._board.add_scalar(tag, float(value), step)

    def close(self):
        """Closes the files. Safe to call twice."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_):
        self.close()


def _line(record: Record) -> str:
    plain = {name: _plain(value) for name, value in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    # NumPy and JAX scalars know their Python number.
    value = value.item() if hasattr(value, "item") else value
    # JSON knows no number that is not finite.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a run, also while it goes on.

    Args:
        path: a file that `MetricsLog` wrote. A last line without its end is left out.

    Returns:
        The records in the order of the file.

    Raises:
        ValueError: a line is no JSON object with a `step`.
    """
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not (isinstance(record, dict) and "step" in record):
            raise ValueError(
                f"Line {number} of {str(path)!r} must be a JSON object with a `step`; "
                f"found {line[:60]!r}. Delete the line or the file."
            )
        records.append(record)
    return records


def progress_line(
    *,
    step: int,
    total_steps: int,
    bits_per_byte: float,
    learning_rate: float,
    gradient_norm: float,
    bytes_per_second: float,
    memory_bytes: int,
    elapsed_seconds: float,
    first_step: int = 0,
) -> str:
    """Formats the state of a run in at most 110 characters, in columns that stay.

    Args:
        step: steps done, of the whole run.
        total_steps: steps of the whole run, up to 7 digits.
        bits_per_byte: the loss.
        learning_rate: the optimizer's.
        gradient_norm: before clipping.
        bytes_per_second: target bytes trained on per second.
        memory_bytes: memory in use.
        elapsed_seconds: since `first_step`.
        first_step: the step this process began at; later than 0 when it resumed. The
            time left follows from the speed since then.

    Returns:
        One line, without its end.
    """
    # The first step compiles; its pace says nothing of the others'.
    done = step - first_step
    pace = elapsed_seconds / done if done > 1 else math.nan
    left = pace * (total_steps - step)
    return "  ".join(
        (
            f"step {step:>7}/{total_steps:<7}",
            f"bits/byte {_loss(bits_per_byte)}",
            f"lr {learning_rate:8.2e}",
            f"grad {gradient_norm:8.2e}",
            f"{amount(bytes_per_second)}/s",
            amount(float(memory_bytes)),
            f"{duration(elapsed_seconds)}, {duration(left)} left",
        )
    )


def _loss(bits_per_byte: float) -> str:
    diverged = abs(bits_per_byte) >= 99.99995
    return f"{bits_per_byte:7.1e}" if diverged else f"{bits_per_byte:7.4f}"


def amount(count: float) -> str:
    """A number of bytes to be read, in eight characters."""
    for unit in ("B ", "kB", "MB", "GB", "TB"):
        # 999.95 would be printed as 1000.0.
        if not abs(count) >= 999.95 or unit == "TB":
            break
        count /= 1000
    return f"{count:5.1f} {unit}"


def duration(seconds: float) -> str:
    """A time to be read, in six characters."""
    if not math.isfinite(seconds):
        return "    --"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days > 99:
        return "  >99d"
    if days:
        return f"{days:2}d{hour:02}h"
    return f"{hour:2}h{minute:02}m" if hour else f"{minute:2}m{second:02}s"


def plot_losses(records: Sequence[Record], path: Path):
    """Draws bits per byte over bytes seen, or over steps where those were not logged.

    Args:
        records: as `read_metrics` gives them.
        path: of the PNG to write.

    Raises:
        ValueError: no record has `bits_per_byte`.
    """
    losses = [record for record in records if "bits_per_byte" in record]
    train = [record for record in losses if record["kind"] == "train"]
    validation = [record for record in losses if record["kind"] == "validation"]
    if not (train or validation):
        raise ValueError(
            "`records` must have `bits_per_byte` of kind train or validation; none of "
            f"{len(records)} has. Pass what `read_metrics` gives."
        )
    in_bytes = bool(train) and all("bytes_seen" in record for record in train)

    def column(rows: list[Record], name: str) -> Float[np.ndarray, " rows"]:
        return np.array([row[name] for row in rows], np.float64)

    def position(rows: list[Record]) -> Float[np.ndarray, " rows"]:
        steps = column(rows, "step")
        if not in_bytes:
            return steps
        known, seen = column(train, "step"), column(train, "bytes_seen")
        return np.interp(steps, np.append(0, known), np.append(0, seen))

    # No pyplot: it would choose a backend for the whole process.
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    blue, orange = "#0072B2", "#D55E00"
    if train:
        x, loss = position(train), column(train, "bits_per_byte")
        axes.plot(x, loss, color=blue, alpha=0.25, linewidth=0.8, label="train")
        smooth = _running_mean(loss)
        axes.plot(x, smooth, color=blue, linewidth=1.8, label="train, running mean")
    if validation:
        loss = column(validation, "bits_per_byte")
        style: dict[str, Any] = dict(color=orange, marker="o", markersize=4)
        axes.plot(position(validation), loss, label="validation", **style)
    axes.set_xlabel("training bytes seen" if in_bytes else "step")
    if in_bytes:
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.set_ylabel("loss (bits per byte)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def _running_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    window = np.ones(min(len(values), max(1, len(values) // 50)))
    total = np.convolve(values, window, "same")
    return total / np.convolve(np.ones_like(values), window, "same")
