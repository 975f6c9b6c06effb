"""The models of perceiver-io 0.11, by what it gives for them.

That library wants versions of its own: `PERCEIVER_IO_PYTHON` names a Python that has
it, which `nox -s parity` makes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx import PerceiverAR
from perceiver_eqx.pretrained import krasserm, load
from perceiver_eqx.pretrained.tensors import open_tensors
from tests import oracle_parents as oracle
from tests.pretrained.foreign import KNOWN_KRASSERM


pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
CAUSAL = "absolute", "relative", "all-rotary", "no-rotary", "wide"
OTHERS = "masked-tied", "masked-own", "masked-widths", "text", "image-one"
OTHERS += ("image-repeated",)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of small models, each with what the library gives for it."""
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


def make_models(folder: Path) -> None:
    python = os.environ.get("PERCEIVER_IO_PYTHON", sys.executable)
    script, numbers = HERE / "krasserm_models.py", HERE.parent / "pretrained/numbers.py"
    subprocess.run([python, script, numbers, folder], check=True)


def expected_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "expected.npz") as found:
        return dict(found)


def to_expect(models: Path) -> dict:
    """The contents of `KNOWN_KRASSERM`; `python -m tests.parity` writes them."""
    found = {}
    for name in ("causal-absolute", "masked-widths", "image-repeated"):
        tensors = open_tensors(models / name / "pytorch_model.bin")
        arrays = expected_of(models / name)
        arrays["logits"] = np.round(arrays["logits"].astype(float), 6)
        found[name] = {
            "config": json.loads((models / name / "config.json").read_text()),
            "shapes": {
                n: list(tensor.shape)
                for n, tensor in tensors.items()
                if not n.endswith(krasserm.UNUSED)
            },
            **{
                n: arrays[n].tolist()
                for n in ("symbols", "mask", "picture", "logits")
                if n in arrays
            },
        }
    return found


def test_what_the_other_tests_compare_with_is_what_the_library_gives(models):
    held, found = json.loads(KNOWN_KRASSERM.read_text()), to_expect(models)
    assert held.keys() == found.keys()
    for name, one in held.items():
        assert one["config"] == found[name]["config"]
        assert one["shapes"] == found[name]["shapes"]
        # Sums on another machine are in another order.
        np.testing.assert_allclose(one["logits"], found[name]["logits"], atol=2e-6)


def assert_equal(found, expected) -> None:
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*(f"causal-{name}" for name in CAUSAL), "audio"])
def test_a_causal_model_gives_the_same(models, name):
    model, expected = load(models / name), expected_of(models / name)
    assert isinstance(model, PerceiverAR)
    symbols, padding = jnp.asarray(expected["symbols"]), int(expected["padding"])
    with jax.default_matmul_precision("highest"):
        assert_equal(model(symbols, 12), expected["logits"])
        assert_equal(model(symbols, 12, padding=padding), expected["padded"])
        shorter = jnp.asarray(expected["shorter"])
        assert_equal(model(shorter, 1), expected["all_latents"])


@pytest.mark.parametrize("name", ["causal-absolute", "causal-relative"])
def test_what_is_generated_is_the_whole_model_of_what_it_remembers(models, name):
    """Past the last latent, and past the longest sequence, where the library's own
    cached logits are not those of its whole model."""
    model = load(models / name)
    state, logits = model.init_state(jnp.asarray([3, 1, 4]), latents=2)
    symbols, begun = [3, 1, 4], set()
    advance = jax.jit(lambda state, symbol: model.advance(state, symbol, stride=2))
    with jax.default_matmul_precision("highest"):
        for _ in range(40):
            symbols.append(int(jnp.argmax(logits)))
            state, logits = advance(state, jnp.int32(symbols[-1]))
            count, prefix = int(state.count), int(state.prefix)
            begun.add(len(symbols) - count)
            whole = oracle.perceiver_ar(model, symbols[-count:], prefix)[-1]
            np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-4)
    assert len(begun) > 5


def test_a_checkpoint_of_lightning_is_the_same_model(models):
    folder = models / "causal-wide"
    settings = json.loads((folder / "config.json").read_text())["model_config"]
    kind = "perceiver-ar-causal-language-model"
    model = krasserm.load_tensors(folder / "last.ckpt", kind, settings)
    expected = expected_of(folder)
    with jax.default_matmul_precision("highest"):
        assert_equal(model(jnp.asarray(expected["symbols"]), 12), expected["logits"])


@pytest.mark.parametrize("name", OTHERS)
def test_a_perceiver_io_gives_the_same(models, name):
    task, expected = load(models / name), expected_of(models / name)
    given = expected.get("symbols", expected.get("picture"))
    mask = jnp.asarray(expected["mask"]) if "mask" in expected else None
    with jax.default_matmul_precision("highest"):
        found = task(jnp.asarray(given), mask=mask)
    assert_equal(found, expected["logits"])
