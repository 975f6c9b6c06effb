"""A run on a GPU, killed again and again: does it end as the unbroken one, to the bit?

    XLA_FLAGS="--xla_gpu_deterministic_ops=true \\
        --xla_gpu_enable_scatter_determinism_expander=false" \\
        python -m tests.benchmarks.killed

Without the flags sums may be added in any order; whether that is seen, and what the
flags cost, `--kills 0` tells without them. Prints a line of JSON.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.train.runs import ended_alike, wait_for
from train.checkpoint import all_steps
from train.metrics import read_metrics


STEPS = 40


def start(config: str, out: Path) -> subprocess.Popen:
    often = "--log-every", "1", "--save-every", "2", "--optim.warmup-steps", "5"
    few = "--steps", str(STEPS), "--data.validation-bytes", "65536"
    return subprocess.Popen(
        [sys.executable, "-m", "train", "train", config, "--out", out, *often, *few],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def to_the_end(config: str, out: Path) -> None:
    process = start(config, out)
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(printed)


def kill(config: str, out: Path, step: int, seconds: float) -> bool:
    """Kills a run some seconds after a step. Whether it was inside a save."""
    process = start(config, out)
    wait_for(process, f"step {step:>7}/")
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = out / "checkpoints"
    whole = {str(step) for step in all_steps(folder)}
    return {path.name for path in folder.iterdir()} != whole


def bytes_per_second(out: Path) -> float:
    records = read_metrics(out / "metrics.jsonl")
    return statistics.median(
        r["bytes_per_second"] for r in records if r["kind"] == "train"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    rng, inside = random.Random(0), 0
    with tempfile.TemporaryDirectory() as folder:
        unbroken, killed = Path(folder, "unbroken"), Path(folder, "killed")
        to_the_end(args.config, unbroken)
        for number in range(1, args.kills + 1):
            step = number * (STEPS - 8) // args.kills
            inside += kill(args.config, killed, step, rng.uniform(0, 1))
            print(f"killed after step {step}", file=sys.stderr, flush=True)
        to_the_end(args.config, killed)
        found = {
            "config": args.config,
            "flags": os.environ.get("XLA_FLAGS"),
            "kills": args.kills,
            "inside_a_save": inside,
            "ended_alike": ended_alike(unbroken, killed),
            "bytes_per_second": bytes_per_second(unbroken),
        }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
