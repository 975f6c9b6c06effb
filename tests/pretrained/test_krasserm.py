"""Models of perceiver-io 0.11, by what it once gave for them: `tests/parity` compares
with the real one, and holds `krasserm.json` to it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from perceiver_eqx import PerceiverAR
from perceiver_eqx.pretrained import load

from .foreign import KNOWN_KRASSERM
from .numbers import tensor_of


KNOWN = json.loads(KNOWN_KRASSERM.read_text())


def written(folder, name, **changes):
    """A folder as its `save_pretrained` leaves it, but for the kind of file."""
    known = KNOWN[name]
    settings = known["config"]["model_config"] | changes
    config = known["config"] | {"model_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {n: tensor_of(n, tuple(s)) for n, s in known["shapes"].items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_gives_what_it_gave_in_its_library(tmp_path, name):
    model, known = load(written(tmp_path, name)), KNOWN[name]
    with jax.default_matmul_precision("highest"):
        if isinstance(model, PerceiverAR):
            found = model(jnp.asarray(known["symbols"]), 12)
        else:
            given = known.get("symbols", known.get("picture"))
            mask = jnp.asarray(known["mask"]) if "mask" in known else None
            found = model(jnp.asarray(given), mask=mask)
    assert np.std(known["logits"]) > 0.01
    np.testing.assert_allclose(found, known["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_channels": "16"}, "`num_channels` must be like 512, .* got '16'"),
        ({"num_self_attention_rotary_layers": -2}, "must be -1 or a number of layers"),
        ({"max_latents": 9999}, "`max_latents` must be at most `max_symbols`"),
        ({"vocab_size": 31}, r"has shape \(30, 16\), not \(31, 16\)"),
        ({"output_norm": True}, "'out_norm.bias' is missing"),
    ],
)
def test_settings_of_another_model_are_refused(tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        load(written(tmp_path, "causal-absolute", **changes))


def test_a_configuration_without_settings_is_refused(tmp_path):
    kind = "perceiver-ar-causal-language-model"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor"):
        load(tmp_path)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="must hold a `model_config`, got None"):
        load(tmp_path)
