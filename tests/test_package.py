"""What a user gets: the public names, a light import, and the README's example."""

import subprocess
import sys
from pathlib import Path

import perceiver_eqx as pqx
from tests.readme_example import example


ROOT = Path(__file__).parent.parent
NAMES = (
    "ByteLM CausalPerceiver SoftmaxAverage StepMask attend generate merge prefix_attend"
)


def test_the_public_names_are_there_with_docstrings():
    for name in NAMES.split():
        assert getattr(pqx, name).__doc__


def test_importing_the_library_imports_none_of_the_trainers_packages():
    program = (
        "import sys, perceiver_eqx; "
        "print(sorted({'optax', 'grain', 'orbax', 'matplotlib', 'tyro', 'train'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_readmes_example_runs():
    exec(compile(example(ROOT / "README.md"), "README.md", "exec"), {})
