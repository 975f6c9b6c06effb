"""The seven Perceiver models of transformers, beside the real classes of it."""

import json

import numpy as np
import pytest

from perceiver_eqx.pretrained import huggingface, load
from tests.pretrained.foreign import (
    EXPECTED,
    assert_equal,
    config_of,
    inputs_of,
    outputs_of,
    write,
)
from tests.pretrained.numbers import tensor_of


pytestmark = pytest.mark.parity

TEXT = "PerceiverForMaskedLM", "PerceiverForSequenceClassification"
# What differs from the configurations that `test` knows.
OTHERS = {
    "larger": {
        "num_latents": 10,
        "d_latents": 32,
        "num_self_attends_per_block": 3,
        "self_attention_widening_factor": 3,
        "cross_attention_widening_factor": 2,
    },
    "flags": {
        "use_query_residual": False,
        "cross_attention_shape_for_attention": "q",
        "hidden_act": "gelu_new",
        "num_blocks": 3,
    },
    "widths": {"qk_channels": 8, "v_channels": 16, "num_cross_attention_heads": 2},
}


def real(architecture, **changes):
    """The model of transformers, with the parameters that are drawn from their names,
    and the shapes of all."""
    import torch
    import transformers

    config = config_of(architecture, **changes)
    kind = getattr(transformers, architecture)
    model = kind(transformers.PerceiverConfig(**config)).eval()
    state = model.state_dict()
    shapes = {n: tuple(x.shape) for n, x in state.items() if x.is_floating_point()}
    with torch.no_grad():
        for name, shape in shapes.items():
            state[name].copy_(torch.tensor(tensor_of(name, shape)))
    return model, shapes


def real_outputs(architecture, model) -> np.ndarray:
    """What transformers gives for the example, as `outputs_of` gives it."""
    import torch

    inputs = {name: torch.tensor(x) for name, x in inputs_of(architecture).items()}
    with torch.no_grad():
        if architecture in TEXT:
            mask = inputs["mask"][None].long()
            found = model(inputs=inputs["inputs"][None], attention_mask=mask).logits[0]
            if architecture == "PerceiverForMaskedLM":
                # It reads out places past the end of the text too.
                found = found[: inputs["inputs"].shape[0]]
            return found.numpy().ravel()
        if architecture == "PerceiverForMultimodalAutoencoding":
            found = model(
                inputs={
                    "image": inputs["video"].permute(0, 3, 1, 2)[None],
                    "audio": inputs["audio"][None],
                    "label": torch.zeros(1, model.config.num_labels),
                },
                subsampled_output_points={
                    "image": inputs["video_places"],
                    "audio": inputs["audio_places"],
                    "label": None,
                },
            ).logits
            parts = [found[name].ravel() for name in ("audio", "image", "label")]
            return torch.cat(parts).numpy()
        axes = (0, 3, 1, 2) if inputs["inputs"].ndim == 4 else (2, 0, 1)
        return model(inputs=inputs["inputs"].permute(axes)[None]).logits.numpy().ravel()


@pytest.mark.parametrize("changes", ["none", *OTHERS])
@pytest.mark.parametrize("architecture", huggingface.ARCHITECTURES)
def test_it_gives_the_same_both_ways(tmp_path, architecture, changes):
    changes = dict(OTHERS.get(changes, {}))
    if "Image" in architecture or "Flow" in architecture or "Multi" in architecture:
        # Widths that other numbers of heads do not divide.
        changes.pop("num_cross_attention_heads", None)
    model, shapes = real(architecture, **changes)
    expected = real_outputs(architecture, model)
    write(tmp_path, architecture, shapes, **changes)
    task = load(tmp_path)
    found = outputs_of(task, inputs_of(architecture))
    assert_equal(architecture, found, expected)
    exported = tmp_path / "exported"
    huggingface.save(exported, task, config_of(architecture, **changes))
    again, told = type(model).from_pretrained(exported, output_loading_info=True)
    assert not any(told.values()), told
    assert np.array_equal(real_outputs(architecture, again.eval()), expected)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_what_transformers_and_torch_save_is_read(tmp_path, kind):
    import torch

    model, _ = real("PerceiverForImageClassificationConvProcessing")
    model.save_pretrained(tmp_path)
    if kind == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    task = load(tmp_path)
    found = outputs_of(task, inputs_of(type(model).__name__))
    expected = real_outputs(type(model).__name__, model)
    assert_equal(type(model).__name__, found, expected)


def test_what_the_other_tests_compare_with_is_what_transformers_gives():
    held, found = json.loads(EXPECTED.read_text()), json.loads(json.dumps(to_expect()))
    assert held.keys() == found.keys()
    for architecture, one in held.items():
        assert one["shapes"] == found[architecture]["shapes"]
        # Sums on another machine are in another order.
        outputs = found[architecture]["outputs"]
        np.testing.assert_allclose(one["outputs"], outputs, rtol=0, atol=2e-6)


def to_expect() -> dict:
    """The contents of `EXPECTED`; `python -m tests.parity` writes them."""
    found = {}
    for architecture in huggingface.ARCHITECTURES:
        model, shapes = real(architecture)
        outputs = real_outputs(architecture, model)
        every = -(-outputs.size // 100) | 1  # odd, to meet all channels
        rounded = [round(float(x), 7) for x in outputs[::every]]
        found[architecture] = {"shapes": shapes, "every": every, "outputs": rounded}
    return found
