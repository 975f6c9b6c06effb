"""Small models of transformers, told without it: configurations, tensors that are drawn
from their names, and inputs."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from .numbers import tensor_of


EXPECTED = Path(__file__).with_name("huggingface.json")
KNOWN_KRASSERM = Path(__file__).with_name("krasserm.json")
# The largest difference from transformers; optical flow is divided by 100 at the end.
TOLERANCE = {"PerceiverForOpticalFlow": 1e-6}
SIZES = {
    "num_latents": 6,
    "d_latents": 16,
    "d_model": 16,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 1,
    "max_position_embeddings": 20,
    "image_size": 16,
    "train_size": [8, 12],
    "num_frames": 4,
    "audio_samples_per_frame": 32,
    "samples_per_patch": 16,
    "output_shape": [1, 4, 16, 16],
    "output_num_channels": 20,
    "attention_probs_dropout_prob": 0.0,
}
LABELS = 5


def config_of(architecture: str, **changes) -> dict:
    """What stands in its `config.json`."""
    labels = {"id2label": {str(label): f"LABEL_{label}" for label in range(LABELS)}}
    kind = {"model_type": "perceiver", "architectures": [architecture]}
    return kind | labels | SIZES | changes


def write(folder: Path, architecture: str, shapes: dict, **changes) -> None:
    """A folder as transformers' `save_pretrained` leaves it."""
    config = config_of(architecture, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor_of(name, tuple(shape)) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def inputs_of(architecture: str) -> dict[str, np.ndarray]:
    """One example, as the tasks of this library take it."""
    rng = np.random.default_rng(0)

    def normals(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    if architecture in ("PerceiverForMaskedLM", "PerceiverForSequenceClassification"):
        return {"inputs": rng.integers(0, 262, 17), "mask": np.arange(17) < 14}
    if architecture == "PerceiverForOpticalFlow":
        return {"inputs": normals(2, 8, 12, 27)}
    if architecture == "PerceiverForMultimodalAutoencoding":
        return {
            "video": normals(4, 16, 16, 3),
            "audio": normals(128, 1),
            "video_places": np.arange(10, 300, 37),
            "audio_places": np.array([0, 3, 5]),
        }
    size = 32 if architecture.endswith("ConvProcessing") else 16
    return {"inputs": normals(size, size, 3)}


def assert_equal(architecture: str, found: np.ndarray, expected) -> None:
    """To 1e-4, of outputs that are much larger and differ much more."""
    tolerance = TOLERANCE.get(architecture, 1e-4)
    assert np.std(expected) > 100 * tolerance
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@eqx.filter_jit
def _run(task, inputs: dict):
    first = "inputs" if "inputs" in inputs else "video"
    rest = {name: jnp.asarray(x) for name, x in inputs.items() if name != first}
    return task(jnp.asarray(inputs[first]), **rest)


def outputs_of(task, inputs: dict) -> np.ndarray:
    """All that a task of this library gives for one example, in a row."""
    with jax.default_matmul_precision("highest"):
        found = _run(task, inputs)
    if isinstance(found, dict):
        parts = [np.ravel(found[name]) for name in ("audio", "video", "label")]
        return np.concatenate(parts)
    return np.ravel(found)
