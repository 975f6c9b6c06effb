"""A hundred steps of a small run, as they were when golden.json was written:

python -m tests.train.test_golden
"""

import json
import re
import tempfile
from hashlib import blake2b
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.runs import numbers, smoke
from train.loop import train


GOLDEN = Path(__file__).with_name("golden.json")
# What the loss of float32 differs by between versions of JAX: 1e-6 was seen.
TOLERANCE = 1e-5


def hundred_losses(folder: Path) -> list[float]:
    never = {"validate_every": 1000, "sample_every": 1000, "save_every": 1000}
    config = smoke(folder, steps=100, **never)
    train(config, report=str)
    records = numbers(config.out)
    return [r["bits_per_byte"] for r in records if r["kind"] == "train"]


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    return hundred_losses(tmp_path_factory.mktemp("golden"))


def machine() -> str:
    """What XLA compiles for: its version, and what the processor can do."""
    cores = Path("/proc/cpuinfo").read_text().split("\n\n")
    told = re.findall(r"^(model name|flags)\s*: (.*)$", cores[0], re.MULTILINE)
    features = blake2b(repr(told).encode(), digest_size=4).hexdigest()
    return f"jax {jax.__version__}, {dict(told)['model name']} ({features})"


def test_a_hundred_losses_are_as_ever(losses):
    golden = json.loads(GOLDEN.read_text())["losses"]
    assert len(golden) == 100
    np.testing.assert_allclose(losses, golden, rtol=0, atol=TOLERANCE)


@pytest.mark.reliability
def test_on_the_same_machine_a_hundred_losses_are_the_same_to_the_bit(losses):
    golden = json.loads(GOLDEN.read_text())
    if machine() != golden["machine"]:
        pytest.skip(f"written with {golden['machine']}, this is {machine()}")
    assert losses == golden["losses"]


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  compile as the tests do

    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(), "losses": hundred_losses(Path(folder))}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
