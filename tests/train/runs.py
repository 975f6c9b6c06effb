"""Whole runs for tests: small data, a small config, processes, and what they logged."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from train.config import TrainConfig
from train.configs import load
from train.metrics import read_metrics


# As in conftest.py: both must compile alike to agree to the bit.
ENVIRONMENT = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

# What two sums of the same numbers in another order may differ by.
SAME = 1e-5


def corpus(folder: Path) -> Path:
    """Forty files of some words."""
    folder.mkdir()
    for i in range(40):
        words = [f"word{(i * 7 + j * j) % 50}" for j in range(60)]
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


def smoke(folder: Path, **changes) -> TrainConfig:
    """The config `smoke` on a corpus, to run in a folder."""
    config = load("smoke")
    data = dataclasses.replace(config.data, path=corpus(folder / "data"))
    return dataclasses.replace(config, data=data, out=folder / "run", **changes)


def start(config: TrainConfig, out: Path, *arguments: str) -> subprocess.Popen:
    """A process that runs such a config in another folder."""
    paths = "--data.path", str(config.data.path), "--out", str(out)
    return subprocess.Popen(
        [sys.executable, "-m", "train", "train", "smoke", *paths, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Reads what a process prints up to a line."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"no line began with {beginning!r}")


def numbers(folder: Path) -> list:
    """What a run logged, but for what tells of the machine."""
    machine = ("bytes_per_second", "memory_bytes")
    records = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in machine} for r in records]


def starts(folder: Path) -> list:
    """What a run noted when it began, and each time that it went on."""
    return list(map(json.loads, (folder / "starts.jsonl").read_text().splitlines()))


def arrays_of(checkpoint: Path) -> dict[str, bytes]:
    """The files of all arrays of a checkpoint: parameters, and what the optimizer
    keeps."""
    return {
        str(path.relative_to(checkpoint)): path.read_bytes()
        for path in checkpoint.glob("state/*/*")
    }


def ended_alike(one: Path, other: Path) -> bool:
    """Whether two runs logged the same, and ended with the same state and the same
    model, to the bit."""
    models = [(folder / "model.safetensors").read_bytes() for folder in (one, other)]
    step = max(record["step"] for record in numbers(one))
    ends = [arrays_of(folder / f"checkpoints/{step}") for folder in (one, other)]
    assert len(ends[0]) > 100
    same = models[0] == models[1] and ends[0] == ends[1]
    return same and numbers(one) == numbers(other)


def assert_near(one: Path, other: Path) -> None:
    """Two runs logged the same steps, and the same numbers up to rounding."""
    mine, theirs = numbers(one), numbers(other)
    steps = [[(r["step"], r["kind"]) for r in run] for run in (mine, theirs)]
    assert steps[0] == steps[1]
    for name in ("bits_per_byte", "gradient_norm", "learning_rate", "bytes_seen"):
        values = [[r[name] for r in run if name in r] for run in (mine, theirs)]
        np.testing.assert_allclose(*values, rtol=SAME)
