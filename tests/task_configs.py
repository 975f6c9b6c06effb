"""Every task config at a small setting, one after the other, on real data.

    python -m tests.task_configs [NAME ...]

Each is trained for a few steps of few bytes by a narrow model, which ends with an
evaluation of what is held out, and a sample. It shows that the commands work, not how
well a task is done.
"""

import shutil
import sys
import time
from pathlib import Path

from train.__main__ import main as train_main


ROOT = Path("runs/tasks")
NARROW = """--model.latent-dim 32 --model.num-heads 2 --model.num-layers 1
    --model.local-heads 2 --model.local-window 16 --model.input-layers 1
    --model.output-layers 1 --model.dtype float32""".split()
SHORT = """--optim.warmup-steps 2 --log-every 4 --save-every 1000
    --validate-every 1000 --sample-every 1000 --sample.num-bytes 56""".split()
DATA = ROOT / "data"
DIGITS, PAGES, CHORALES = DATA / "digits", DATA / "manpages", DATA / "chorales"
MADE_UP = (
    "--data.shortest-bytes 64 --data.context-bytes 256 --data.validation-bytes 256"
)


def pair_of(folder: Path, source: str, target: str) -> str:
    return f"--data.path {folder / source} --data.target-path {folder / target}"


# Of each config: the task whose data it takes, and what is changed in it.
TASKS = {
    "copy": (None, f"{MADE_UP} --data.window-bytes 256 --batch-size 2"),
    "needle": (None, f"{MADE_UP} --batch-size 2"),
    "phonemes": ("phonemes", f"--data.path {DATA / 'phonemes.tsv'} --batch-size 8"),
    "verses": ("verses", f"--data.path {DATA / 'verses.tsv'} --batch-size 2"),
    "manpages": (
        "manpages",
        f"{pair_of(PAGES, 'en', 'de')} --chunk-steps 1024 --data.validation-bytes "
        "245760",
    ),
    "chorales": (
        "chorales",
        f"--data.path {CHORALES / 'train.jsonl'} --data.validation-path "
        f"{CHORALES / 'valid.jsonl'} --batch-size 4",
    ),
    "digits": ("digits", f"{pair_of(DIGITS, 'labels', 'images')} --batch-size 4"),
    "read_digits": ("digits", f"{pair_of(DIGITS, 'images', 'labels')} --batch-size 4"),
    "captions": ("digits", f"{pair_of(DIGITS, 'images', 'captions')} --batch-size 4"),
    "songs": (
        "songs",
        f"--data.path {DATA / 'songs'} --data.window-bytes 1024 "
        "--data.validation-bytes 4096",
    ),
}
PLACES = {"phonemes": DATA / "phonemes.tsv", "verses": DATA / "verses.tsv"}
STEPS = {"manpages": 3}


def prepared(name: str) -> None:
    """Makes the data of a task unless they are there."""
    place = PLACES.get(name, DATA / name)
    if not place.exists():
        train_main(["prepare", name, "--out", str(place)])


def run(name: str) -> None:
    """Trains a task from the start, small."""
    data, changes = TASKS[name]
    if data is not None:
        prepared(data)
    out = ROOT / name
    shutil.rmtree(out, ignore_errors=True)
    steps = ["--steps", str(STEPS.get(name, 8)), "--out", str(out)]
    train_main(["train", name, *NARROW, *SHORT, *steps, *changes.split()])


def main(names: list[str]) -> None:
    missing = []
    for name in names or list(TASKS):
        begun = time.perf_counter()
        print(f"=== {name}", flush=True)
        if TASKS[name][0] in ("verses", "manpages", "songs") and not (
            shutil.which("apt-get") and shutil.which("dpkg-deb")
        ):
            missing.append(name)
            print(
                "left out: its data are of Debian's packages, and there is no apt-get"
            )
            continue
        run(name)
        print(f"=== {name}: {time.perf_counter() - begun:.0f} s", flush=True)
    done = len(names or TASKS) - len(missing)
    print(f"{done} of {len(names or TASKS)} tasks run, left out: {missing or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
