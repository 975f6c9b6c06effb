"""Mistakes to plant in a copy of the tree, where a named test must catch them."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """One line of source, its mistaken form, and the test that must fail."""

    mistake: str
    file: str
    source: str
    mistaken: str
    test: str


def is_caught(mutant: Mutant) -> bool:
    """Whether the mutant's test fails where the mistake is made.

    Raises:
        ValueError: the line that the mistake replaces is not there once.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("perceiver_eqx", "train", "tests"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", tree)
        file = tree / mutant.file
        text = file.read_text()
        if text.count(mutant.source) != 1:
            raise ValueError(
                f"{mutant.file} must hold {mutant.source!r} once to plant the mistake "
                f"{mutant.mistake!r}, it does {text.count(mutant.source)} times."
            )
        file.write_text(text.replace(mutant.source, mutant.mistaken))
        path, name = mutant.test.split("::")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-m", "not slow"]
        function, _, option = name.partition("[")
        words = f"{function} and {option}" if option else function
        done = subprocess.run(
            [*command, path, "-k", words], cwd=tree, capture_output=True, text=True
        )
    # 1 is a failed test; anything else but 0 is a test that could not be run.
    if done.returncode not in (0, 1):
        raise ValueError(f"{mutant.test} could not be run:\n{done.stdout}")
    return done.returncode == 1
