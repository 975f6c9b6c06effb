"""The seven Perceiver models of Hugging Face transformers, both ways.

Names and shapes are those of its `PerceiverFor...` classes; all of them compute with
layer norms of epsilon 1e-5, whatever their configuration says.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from safetensors.numpy import save as serialize

from ..adapters.grid import ConvStem, FourierPositions, GridInput, LearnedGrid
from ..adapters.text import TextInput
from ..draws import split_key
from ..layers import Linear
from ..parents import PerceiverIO
from ..tasks import Classifier, MaskedLM, MultimodalAutoencoder, OpticalFlow
from . import huggingface_places as places
from .places import Place, fill, take
from .settings import checked, read_json
from .tensors import TENSOR_FILES, find, open_tensors, write_whole


# Counts that no model needs.
UNUSED = (".num_batches_tracked",)

Task = MaskedLM | Classifier | OpticalFlow | MultimodalAutoencoder


@dataclass(frozen=True)
class Config:
    """What of a `config.json` decides the model; the names and defaults are those of
    transformers' `PerceiverConfig`."""

    architecture: str = "PerceiverForMaskedLM"
    num_latents: int = 256
    d_latents: int = 1280
    d_model: int = 768
    num_blocks: int = 1
    num_self_attends_per_block: int = 26
    num_self_attention_heads: int = 8
    num_cross_attention_heads: int = 8
    qk_channels: int | None = None
    v_channels: int | None = None
    cross_attention_shape_for_attention: str = "kv"
    self_attention_widening_factor: int = 1
    cross_attention_widening_factor: int = 1
    hidden_act: str = "gelu"
    use_query_residual: bool = True
    vocab_size: int = 262
    max_position_embeddings: int = 2048
    image_size: int = 56
    train_size: tuple[int, int] = (368, 496)
    num_frames: int = 16
    audio_samples_per_frame: int = 1920
    samples_per_patch: int = 16
    output_shape: tuple[int, int, int, int] = (1, 16, 224, 224)
    output_num_channels: int = 512
    label_channels: int = 1024
    num_labels: int = 2

    @classmethod
    def read(cls, found: dict[str, Any]) -> "Config":
        """Of the contents of a `config.json`.

        Raises:
            ValueError: for another kind of model, or a value of another kind.
        """
        architectures = found.get("architectures")
        if not isinstance(architectures, list):
            architectures = []
        if found.get("model_type") != "perceiver" or len(architectures) != 1:
            raise ValueError(
                "the configuration must be of one of transformers' Perceiver models, "
                f"got model_type {found.get('model_type')!r} and architectures "
                f"{architectures!r}."
            )
        if not isinstance(architectures[0], str):
            raise ValueError(
                f"`architectures` must be one of {sorted(ARCHITECTURES)}, got "
                f"{architectures[0]!r}."
            )
        renamed = {"_label_trainable_num_channels": "label_channels"}
        found = {renamed.get(name, name): value for name, value in found.items()}
        labels = found.get("id2label")
        if isinstance(labels, dict):
            found["num_labels"] = len(labels)
        given: dict[str, Any] = {"architecture": architectures[0]}
        for of in fields(cls):
            if of.name in found and of.name != "architecture":
                given[of.name] = checked(of.name, found[of.name], of.default)
        config = cls(**given)
        if config.architecture not in ARCHITECTURES:
            raise ValueError(
                f"`architectures` must be one of {sorted(ARCHITECTURES)}, got "
                f"{config.architecture!r}."
            )
        if config.hidden_act not in GELUS:
            raise ValueError(
                f"`hidden_act` must be one of {sorted(GELUS)}, got "
                f"{config.hidden_act!r}."
            )
        if config.cross_attention_shape_for_attention not in ("q", "kv"):
            raise ValueError(
                "`cross_attention_shape_for_attention` must be 'q' or 'kv', got "
                f"{config.cross_attention_shape_for_attention!r}."
            )
        return config

    @property
    def tanh_gelu(self) -> bool:
        """Whether GELUs are approximated."""
        return GELUS[self.hidden_act]

    @property
    def places(self) -> dict[str, Place]:
        """Where each tensor of a file belongs."""
        of = ARCHITECTURES[self.architecture]
        return of.places(self.num_self_attends_per_block)


# Whether it is the approximation by a tanh.
GELUS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}


def build(config: Config, *, tanh_gelu: bool | None = None, key) -> Task:
    """The model that a configuration describes, of random parameters.

    Args:
        tanh_gelu: as in `MLP`; `None` for what the configuration says.
    """
    approximate = config.tanh_gelu if tanh_gelu is None else tanh_gelu
    return ARCHITECTURES[config.architecture].build(config, approximate, key)


def load(folder: Path) -> Task:
    """The model in a folder that transformers' `save_pretrained` wrote.

    Raises:
        FileNotFoundError: `config.json`, or the tensors, are not there.
        ValueError: for a configuration of another model, links, and tensors that are
            not those that it describes.
    """
    config = Config.read(read_json(folder, "config.json"))
    path = find(folder, *TENSOR_FILES)
    if path is None:
        raise FileNotFoundError(
            f"there is neither model.safetensors nor pytorch_model.bin in "
            f"{str(folder)!r}."
        )
    tensors = open_tensors(path)
    tensors = {n: t for n, t in tensors.items() if not n.endswith(UNUSED)}
    shapes = eqx.filter_eval_shape(build, config, key=jr.key(0))
    return fill(shapes, config.places, tensors, repr(str(path)))


def save(folder: Path, model: Task, config: dict[str, Any]) -> None:
    """Write a model as transformers loads it.

    Args:
        folder: is made if it is not there; files of these names in it are replaced.
        model: as `load` gave it, with whatever parameters.
        config: the contents of its `config.json`.

    Raises:
        ValueError: the model is not the one that the configuration describes.
    """
    known = Config.read(config)
    shapes = eqx.filter_eval_shape(build, known, key=jr.key(0))
    same = eqx.tree_equal(eqx.filter_eval_shape(lambda: model), shapes, typematch=True)
    if same is not True:
        raise ValueError(
            "`model` must be what `config` describes; change the one or the other."
        )
    tensors = take(model, known.places)
    for name in list(tensors):
        if name.endswith("batchnorm.running_mean"):
            count = name.removesuffix("running_mean") + "num_batches_tracked"
            tensors[count] = np.zeros((), np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    content = serialize(tensors, metadata={"format": "pt"})
    write_whole(folder / "model.safetensors", content)
    settings = json.dumps(config, indent=2) + "\n"
    write_whole(folder / "config.json", settings.encode())


# What each architecture is made of.


def _perceiver(
    config: Config, input_dim: int, query_dim: int, output_dim: int | None, **options
) -> dict[str, Any]:
    """The arguments of the `PerceiverIO` in the middle of all of them."""
    by_inputs = config.cross_attention_shape_for_attention == "kv"
    cross_qk = input_dim if by_inputs else config.d_latents
    query_qk = config.d_latents if by_inputs else query_dim
    return {
        "input_dim": input_dim,
        "query_dim": query_dim,
        "output_dim": output_dim,
        "num_latents": config.num_latents,
        "latent_dim": config.d_latents,
        "num_layers": config.num_self_attends_per_block,
        "num_heads": config.num_self_attention_heads,
        "cross_heads": config.num_cross_attention_heads,
        "num_blocks": config.num_blocks,
        "qk_dim": config.qk_channels,
        "v_dim": config.v_channels,
        "cross_qk_dim": config.qk_channels or cross_qk,
        "cross_v_dim": config.v_channels,
        "mlp_widening": config.self_attention_widening_factor,
        "cross_widening": config.cross_attention_widening_factor,
        "latent_residual": config.use_query_residual,
        "query_heads": 1,
        "query_qk_dim": query_qk,
    } | options


def _text(config: Config, key) -> TextInput:
    return TextInput(
        config.max_position_embeddings,
        config.d_model,
        num_symbols=config.vocab_size,
        key=key,
    )


def _masked_lm(config: Config, tanh_gelu: bool, key) -> MaskedLM:
    keys = split_key(key, 3)
    dim = config.d_model
    arguments = _perceiver(config, dim, dim, None, query_residual=False)
    arguments |= {"query_heads": 8, "query_qk_dim": 256, "query_v_dim": dim}
    perceiver = PerceiverIO(**arguments, tanh_gelu=tanh_gelu, key=keys[1])
    return MaskedLM(_text(config, keys[0]), perceiver, key=keys[2])


def _classifier(inputs: Callable) -> Callable:
    def build(config: Config, tanh_gelu: bool, key) -> Classifier:
        keys = split_key(key, 3)
        adapter = inputs(config, keys[0])
        arguments = _perceiver(config, adapter.dim, config.d_latents, config.num_labels)
        perceiver = PerceiverIO(**arguments, tanh_gelu=tanh_gelu, key=keys[1])
        return Classifier(adapter, perceiver, key=keys[2])

    return build


def _learned_image(config: Config, key) -> GridInput:
    feature_key, position_key = split_key(key)
    shape = (config.image_size, config.image_size)
    positions = LearnedGrid(shape, 256, 256, key=position_key)
    return GridInput(3, positions, features=Linear(3, 256, key=feature_key))


def _fourier_image(config: Config, key) -> GridInput:
    return GridInput(3, FourierPositions(64, (224, 224)))


def _conv_image(config: Config, key) -> GridInput:
    positions = FourierPositions(64, (56, 56))
    return GridInput(3, positions, features=ConvStem(3, 64, key=key))


def _flow(config: Config, tanh_gelu: bool, key) -> OpticalFlow:
    feature_key, perceiver_key = split_key(key)
    inputs = GridInput(
        27,
        FourierPositions(64, config.train_size),
        block=(2, 1, 1),
        features=Linear(54, 64, key=feature_key),
    )
    arguments = _perceiver(config, inputs.dim, inputs.dim, 2, query_residual=False)
    perceiver = PerceiverIO(**arguments, tanh_gelu=tanh_gelu, key=perceiver_key)
    return OpticalFlow(inputs, perceiver)


def _multimodal(config: Config, tanh_gelu: bool, key) -> MultimodalAutoencoder:
    keys = split_key(key, 4)
    samples = config.num_frames * config.audio_samples_per_frame
    size = (config.num_frames, config.image_size, config.image_size)
    video = GridInput(3, FourierPositions(32, size), block=(1, 4, 4))
    audio = GridInput(
        1, FourierPositions(192, (samples,)), block=(config.samples_per_patch,)
    )
    dims = {"audio": audio.dim, "image": video.dim, "label": config.num_labels}
    query_dims = {
        "audio": audio.positions.dim,
        "image": video.positions.dim,
        "label": config.label_channels,
    }
    return MultimodalAutoencoder(
        video,
        audio,
        dims=dims,
        query_dims=query_dims,
        min_padding=(4, 2),
        head_dims={"audio": config.samples_per_patch, "image": 3}
        | {"label": config.num_labels},
        video_shape=config.output_shape[1:],
        audio_shape=(samples // config.samples_per_patch,),
        perceiver=lambda input_dim, query_dim, key: PerceiverIO(
            **_perceiver(
                config,
                input_dim,
                query_dim,
                config.output_num_channels,
                query_residual=False,
            ),
            tanh_gelu=tanh_gelu,
            key=key,
        ),
        key=keys[0],
    )


@dataclass(frozen=True)
class _Architecture:
    build: Callable[[Config, bool, Any], Task]
    places: Callable[[int], dict[str, Place]] = field(repr=False)


ARCHITECTURES = {
    "PerceiverForMaskedLM": _Architecture(_masked_lm, places.of_masked_lm),
    "PerceiverForSequenceClassification": _Architecture(
        _classifier(_text), places.of_classifier(places.of_text)
    ),
    "PerceiverForImageClassificationLearned": _Architecture(
        _classifier(_learned_image), places.of_classifier(places.of_learned_image)
    ),
    "PerceiverForImageClassificationFourier": _Architecture(
        _classifier(_fourier_image), places.of_classifier(dict)
    ),
    "PerceiverForImageClassificationConvProcessing": _Architecture(
        _classifier(_conv_image), places.of_classifier(places.of_conv_image)
    ),
    "PerceiverForOpticalFlow": _Architecture(_flow, places.of_flow),
    "PerceiverForMultimodalAutoencoding": _Architecture(
        _multimodal, places.of_multimodal
    ),
}
