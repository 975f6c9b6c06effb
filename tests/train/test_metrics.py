import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.memory import memory_bytes
from train.metrics import (
    MetricsLog,
    plot_losses,
    progress_line,
    read_metrics,
)


def train_record(step: int) -> dict:
    loss = 1.5 + 6 * np.exp(-step / 100) + 0.2 * np.sin(7 * step)
    return {
        "step": step,
        "kind": "train",
        "bits_per_byte": loss,
        "bytes_seen": 1000 * step,
    }


def write(folder: Path, steps: range, resume_step: int | None = None) -> Path:
    with MetricsLog(folder, resume_step=resume_step) as log:
        for step in steps:
            log.write(train_record(step))
    return folder / "metrics.jsonl"


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with MetricsLog(tmp_path / "new" / "run", resume_step=None) as log:
        log.write({"step": 1, "kind": "train", "bits_per_byte": 3.5})
        text = (tmp_path / "new" / "run" / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "kind": "train", "bits_per_byte": 3.5}
    assert text.endswith("}\n")


def test_array_scalars_are_written_as_numbers(tmp_path):
    with MetricsLog(tmp_path, resume_step=None) as log:
        log.write({"step": np.int64(2), "kind": "train", "x": jnp.float32(0.5)})
    [record] = read_metrics(tmp_path / "metrics.jsonl")
    assert record == {"step": 2, "kind": "train", "x": 0.5}
    assert isinstance(record["step"], int)


@given(
    written=st.integers(0, 8),
    torn=st.integers(0, 60),
    resume_step=st.integers(0, 8),
)
def test_a_resumed_file_has_each_step_once(written: int, torn: int, resume_step: int):
    resume_step = min(resume_step, written)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), range(1, written + 1))
        with path.open("a") as file:
            file.write(json.dumps(train_record(written + 1))[:torn])
        assert steps_in(path) == list(range(1, written + 1))
        write(Path(folder), range(resume_step + 1, 10), resume_step)
        assert steps_in(path) == list(range(1, 10))
        assert [file.name for file in Path(folder).iterdir()] == ["metrics.jsonl"]


def test_a_new_run_starts_its_file_anew(tmp_path):
    write(tmp_path, range(5))
    assert steps_in(write(tmp_path, range(2))) == [0, 1]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"kind": "train"}', ""])
def test_a_damaged_line_is_an_error(tmp_path, line):
    path = write(tmp_path, range(2))
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(ValueError, match="Line 3 of .*metrics.jsonl' must be a JSON"):
        read_metrics(path)


def test_a_record_without_step_or_kind_is_an_error(tmp_path):
    with (
        MetricsLog(tmp_path, resume_step=None) as log,
        pytest.raises(ValueError, match=r"\['kind'\] missing"),
    ):
        log.write({"step": 1})


def test_tensorboard_gets_numbers_and_samples_when_asked(tmp_path):
    with MetricsLog(tmp_path, resume_step=3, tensorboard=True) as log:
        log.write(train_record(4))
        log.write({"step": 4, "kind": "sample", "text": "once upon"})
    [events] = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    assert b"train/bits_per_byte" in written
    assert b"sample/text" in written
    assert b"once upon" in written


def line(**changes) -> str:
    values: dict[str, Any] = dict(
        step=120,
        total_steps=1000,
        bits_per_byte=2.34567,
        learning_rate=3e-4,
        gradient_norm=0.5,
        bytes_per_second=1.25e6,
        memory_bytes=3_400_000_000,
        elapsed_seconds=60.0,
    )
    return progress_line(**(values | changes))


def test_the_progress_line_tells_it_all():
    assert line() == (
        "step     120/1000     bits/byte  2.3457  lr 3.00e-04  grad 5.00e-01"
        "    1.2 MB/s    3.4 GB   1m00s,  7m20s left"
    )


def test_the_time_left_follows_from_the_speed_since_the_resume():
    assert "1m00s, 44m00s left" in line(first_step=100)
    assert "--" in line(first_step=120)


@given(
    step=st.integers(0, 9_999_999),
    total_steps=st.integers(1, 9_999_999),
    numbers=st.lists(
        st.floats(1e-30, 1e30) | st.sampled_from([0.0, np.nan, np.inf, 99.99996]),
        min_size=3,
        max_size=3,
    ),
    amounts=st.lists(
        st.floats(0, 9e14) | st.sampled_from([999.96, 999_960.0]),
        min_size=2,
        max_size=2,
    ),
    seconds=st.floats(0, 1e7),
)
def test_the_progress_line_keeps_its_columns(
    step: int,
    total_steps: int,
    numbers: list[float],
    amounts: list[float],
    seconds: float,
):
    text = line(
        step=min(step, total_steps),
        total_steps=total_steps,
        bits_per_byte=numbers[0],
        learning_rate=numbers[1],
        gradient_norm=numbers[2],
        bytes_per_second=amounts[0],
        memory_bytes=int(amounts[1]),
        elapsed_seconds=seconds,
    )
    assert len(text) == len(line()) <= 110
    for mark in ("bits/byte", "lr", "grad", "/s", "left"):
        assert text.index(mark) == line().index(mark)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.6, " 1m00s"), (3599, "59m59s"), (3600, " 1h00m"), (90_000, " 1d01h")],
)
def test_durations_read_well(seconds, text):
    assert f" {text}, " in line(elapsed_seconds=float(seconds))


def test_memory_is_that_of_the_process_where_the_backend_keeps_no_count():
    assert 10**7 < memory_bytes() < 10**12


def test_memory_is_the_highest_of_the_devices_that_count(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    peaks = [Device({"peak_bytes_in_use": count}) for count in (5, 7, 6)]
    monkeypatch.setattr(jax, "local_devices", lambda: [*peaks, Device(None)])
    assert memory_bytes() == 7


@pytest.mark.parametrize("kinds", [["train", "validation"], ["train"], ["validation"]])
def test_the_losses_are_drawn_without_a_global_backend(tmp_path, kinds):
    records = [train_record(step) for step in range(1, 300)] + [
        {"step": step, "kind": "validation", "bits_per_byte": 2.0 + 100 / (step + 20)}
        for step in range(0, 300, 50)
    ]
    backend = matplotlib.rcParams._get("backend")
    path = tmp_path / "loss.png"
    plot_losses([record for record in records if record["kind"] in kinds], path)
    assert re.match(rb"\x89PNG", path.read_bytes())
    assert matplotlib.rcParams._get("backend") == backend


def test_drawing_no_losses_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`records` must have `bits_per_byte`"):
        plot_losses([{"step": 1, "kind": "train"}], tmp_path / "loss.png")
