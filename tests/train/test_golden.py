"""A hundred steps of a small run, as they were when golden.json was written:

python -m tests.train.test_golden
"""

import json
import tempfile
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


def test_a_hundred_losses_are_as_ever(losses):
    golden = json.loads(GOLDEN.read_text())["losses"]
    assert len(golden) == 100
    np.testing.assert_allclose(losses, golden, rtol=0, atol=TOLERANCE)


@pytest.mark.reliability
def test_with_the_same_jax_a_hundred_losses_are_the_same_to_the_bit(losses):
    golden = json.loads(GOLDEN.read_text())
    if jax.__version__ != golden["jax"]:
        pytest.skip(f"written with jax {golden['jax']}, this is {jax.__version__}")
    assert losses == golden["losses"]


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  compile as the tests do

    with tempfile.TemporaryDirectory() as folder:
        found = {"jax": jax.__version__, "losses": hundred_losses(Path(folder))}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
