"""What a run was made by: versions, the commit, the command."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from .config import TrainConfig, to_json


PACKAGES = "jax", "jaxlib", "equinox", "optax", "grain", "orbax-checkpoint"
PACKAGES += ("perceiver-eqx",)


def versions() -> dict[str, str]:
    """Of Python and of all that decides numbers."""
    found = {name: version_of(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def version_of(package: str) -> str:
    """As it is installed; of sources that are used where they lie, that they are."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_start(config: TrainConfig, *, step: int) -> None:
    """Adds a line to `starts.jsonl` in a run's folder: its config with all defaults,
    the versions, the commit, the command, the devices, and the time.

    Args:
        step: that the run goes on from; 0 for one that begins, which begins the file
            anew.
    """
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "from_step": step,
        "command": [sys.executable, *sys.argv],
        "commit": _commit(),
        "versions": versions(),
        "devices": [device.device_kind for device in jax.devices()],
        "config": to_json(config),
    }
    with (config.out / "starts.jsonl").open("a" if step else "w") as file:
        file.write(json.dumps(start) + "\n")


def _commit() -> dict[str, Any] | None:
    """Of the sources that run, and whether they were changed since; `None` where they
    are in no repository."""
    here = Path(__file__).parent
    try:
        name, changed = (
            subprocess.run(
                ["git", "-C", str(here), *command],
                check=True,
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout.strip()
            for command in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", str(here.parent)],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"name": name, "changed": bool(changed)}
