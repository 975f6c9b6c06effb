"""The models of M. Krasser's PyTorch library perceiver-io, version 0.11: Perceiver AR
of text and of symbolic audio; Perceiver IO for masked language and classification.

Its rotary positions turn neighbouring channels, ours those of two halves: so channels
of queries and keys are put into another order, which attention does not see.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np

from ..adapters.grid import FourierPositions, GridInput
from ..adapters.text import TextInput
from ..parents import PerceiverIO
from ..perceiver_ar import PerceiverAR
from ..tasks import Classifier, MaskedLM
from .places import TRANSPOSED, Form, Place, Places, fill, linear, norm
from .settings import checked
from .tensors import TENSOR_FILES, Tensor, find, open_tensors


Model = PerceiverAR | MaskedLM | Classifier

# What is computed anew.
UNUSED = ".inv_freq", ".position_encoding.position_encoding"
# Of transformers' files, and of Lightning's checkpoints.
PREFIXES = "backend_model.", "model."


def load(folder: Path, config: dict[str, Any]) -> Model:
    """The model in a folder that its `save_pretrained` wrote.

    Args:
        config: the contents of its `config.json`.

    Raises:
        FileNotFoundError: the tensors are not there.
        ValueError: for a configuration of another model, links, and tensors that are
            not those that it describes.
    """
    path = find(folder, *TENSOR_FILES)
    if path is None:
        raise FileNotFoundError(
            f"there is neither model.safetensors nor pytorch_model.bin in "
            f"{str(folder)!r}."
        )
    settings = config.get("model_config")
    if not isinstance(settings, dict):
        raise ValueError(
            f"the config.json in {str(folder)!r} must hold a `model_config`, got "
            f"{settings!r}."
        )
    return load_tensors(path, config["model_type"], settings)


def load_tensors(path: str | os.PathLike, kind: str, settings: dict[str, Any]) -> Model:
    """The model in a file of tensors, such as a checkpoint of Lightning.

    Args:
        path: the file.
        kind: one of `KINDS`.
        settings: by the names of its configuration classes; what is left out is as it
            is there by default.

    Raises:
        ValueError: for settings of another kind of value, and tensors that are not
            those that they describe.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {sorted(KINDS)}, got {kind!r}.")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    build, places_of = KINDS[kind]
    shapes = eqx.filter_eval_shape(build, settings, key=jr.key(0))
    tensors = _without_prefix(open_tensors(path))
    return fill(shapes, places_of(settings), tensors, repr(str(path)))


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    used = {n: t for n, t in tensors.items() if not n.endswith(UNUSED)}
    for prefix in PREFIXES:
        if used and all(name.startswith(prefix) for name in used):
            return {name.removeprefix(prefix): t for name, t in used.items()}
    return used


class _Settings:
    """Values by name, of the kind that they have by default."""

    def __init__(self, found: dict[str, Any], defaults: dict[str, Any]):
        self.found, self.defaults = found, defaults

    def __getattr__(self, name: str) -> Any:
        default = self.defaults[name]
        return checked(name, self.found.get(name, default), default)

    def part(self, name: str, defaults: dict[str, Any]) -> "_Settings":
        found = self.found.get(name, {})
        if not isinstance(found, dict):
            raise ValueError(f"`{name}` must hold settings, got {found!r}.")
        return _Settings(found, defaults)


# Perceiver AR.

_CAUSAL = {
    "vocab_size": 262,
    "max_seq_len": 4096,
    "max_latents": 512,
    "num_channels": 512,
    "num_heads": 8,
    "num_self_attention_layers": 8,
    "self_attention_widening_factor": 4,
    "cross_attention_widening_factor": 4,
    "output_norm": False,
    "output_bias": True,
    "abs_pos_emb": True,
    "cross_attention_dropout": 0.5,
}


def _causal(found: dict[str, Any]) -> tuple[_Settings, int, int]:
    """The settings; how many channels of a head turn, and in how many layers."""
    settings = _Settings(found, _CAUSAL)
    dims = settings.num_channels // settings.num_heads
    if settings.num_channels % settings.num_heads or dims % (
        4 if settings.abs_pos_emb else 2
    ):
        raise ValueError(
            "`num_channels` must give each of `num_heads` channels that turn in pairs, "
            f"got {settings.num_channels} for {settings.num_heads}."
        )
    turning = found.get("num_self_attention_rotary_layers", 1)
    if turning == -1:
        turning = settings.num_self_attention_layers
    if type(turning) is not int or turning < 0:
        raise ValueError(
            "`num_self_attention_rotary_layers` must be -1 or a number of layers, got "
            f"{turning!r}."
        )
    turning = min(turning, settings.num_self_attention_layers)
    return settings, dims // 2 if settings.abs_pos_emb else dims, turning


def _build_causal(found: dict[str, Any], *, key) -> PerceiverAR:
    settings, dims, turning = _causal(found)
    return PerceiverAR(
        settings.vocab_size,
        max_symbols=settings.max_seq_len,
        max_latents=settings.max_latents,
        dim=settings.num_channels,
        num_layers=settings.num_self_attention_layers,
        num_heads=settings.num_heads,
        absolute_positions=settings.abs_pos_emb,
        rotary_dims=dims,
        rotary_layers=turning,
        mlp_widening=settings.self_attention_widening_factor,
        cross_widening=settings.cross_attention_widening_factor,
        output_norm=settings.output_norm,
        output_bias=settings.output_bias,
        prefix_dropout=settings.cross_attention_dropout,
        key=key,
    )


def _places_of_causal(found: dict[str, Any]) -> Places:
    settings, dims, turning = _causal(found)
    turned = _turned(settings.num_heads, dims)
    places = {"input_adapter.txt_embedding.weight": Place("embedding.table")}
    if settings.abs_pos_emb:
        places["input_adapter.pos_embedding.weight"] = Place("positions")
    places |= _attention_layer(
        "cross_attention", "cross", query_key=turned, qkv_bias=False, mlp_bias=False
    )
    for layer in range(settings.num_self_attention_layers):
        later = layer >= turning
        places |= _attention_layer(
            f"self_attention.{layer}",
            f"processors.{int(later and turning > 0)}.blocks",
            crosses=False,
            layer=layer - turning if later else layer,
            query_key=TRANSPOSED if later else turned,
            qkv_bias=False,
            output_bias=False,
            mlp_bias=False,
        )
    if settings.output_norm:
        places |= norm("out_norm", "norm")
    if settings.output_bias:
        places["output_adapter.bias"] = Place("bias")
    return places


def _turned(num_heads: int, dims: int) -> Form:
    """Of a linear map of queries or keys, whose first channels of each head turn:
    theirs by neighbours, ours by halves."""

    def order(width: int) -> np.ndarray:
        places = np.arange(width).reshape(num_heads, -1)
        places[:, :dims] = np.concatenate(
            [places[:, 0:dims:2], places[:, 1:dims:2]], axis=1
        )
        return places.ravel()

    return Form(
        lambda x: x.T[:, order(x.shape[0])],
        lambda x: x[:, np.argsort(order(x.shape[1]))].T,
    )


# Perceiver IO.

_ENCODER = {
    "num_cross_attention_heads": 8,
    "num_cross_attention_qk_channels": None,
    "num_cross_attention_v_channels": None,
    "num_cross_attention_layers": 1,
    "first_cross_attention_layer_shared": False,
    "cross_attention_widening_factor": 1,
    "num_self_attention_heads": 8,
    "num_self_attention_qk_channels": None,
    "num_self_attention_v_channels": None,
    "num_self_attention_layers_per_block": 8,
    "num_self_attention_blocks": 1,
    "first_self_attention_block_shared": True,
    "self_attention_widening_factor": 1,
}
_OF_TEXT = {"vocab_size": 10003, "max_seq_len": 256, "num_input_channels": 64}
_OF_IMAGES = {"image_shape": (224, 224, 3), "num_frequency_bands": 32}
_DECODER = {
    "num_cross_attention_heads": 8,
    "num_cross_attention_qk_channels": None,
    "num_cross_attention_v_channels": None,
    "cross_attention_widening_factor": 1,
    "cross_attention_residual": True,
}
_OF_MASKED = {"num_output_query_channels": None, "vocab_size": 10003}
_OF_CLASSES = {"num_output_query_channels": 256, "num_classes": 100}
_LATENTS = {"num_latents": 512, "num_latent_channels": 512}


def _perceiver_io(
    found: dict[str, Any],
    encoder: _Settings,
    decoder: _Settings,
    key,
    *,
    input_dim: int,
    query_dim: int,
    output_dim: int | None,
    cross_qk_dim: int | None,
) -> PerceiverIO:
    latents = _Settings(found, _LATENTS)
    return PerceiverIO(
        input_dim,
        query_dim,
        output_dim,
        num_latents=latents.num_latents,
        latent_dim=latents.num_latent_channels,
        num_layers=encoder.num_self_attention_layers_per_block,
        num_heads=encoder.num_self_attention_heads,
        cross_heads=encoder.num_cross_attention_heads,
        num_blocks=encoder.num_self_attention_blocks,
        num_crosses=encoder.num_cross_attention_layers,
        own_blocks=1 if encoder.first_self_attention_block_shared else 2,
        own_crosses=1 if encoder.first_cross_attention_layer_shared else 2,
        qk_dim=encoder.num_self_attention_qk_channels,
        v_dim=encoder.num_self_attention_v_channels,
        cross_qk_dim=encoder.num_cross_attention_qk_channels or cross_qk_dim,
        cross_v_dim=encoder.num_cross_attention_v_channels,
        mlp_widening=encoder.self_attention_widening_factor,
        cross_widening=encoder.cross_attention_widening_factor,
        query_heads=decoder.num_cross_attention_heads,
        query_qk_dim=decoder.num_cross_attention_qk_channels,
        query_v_dim=decoder.num_cross_attention_v_channels,
        query_widening=decoder.cross_attention_widening_factor,
        query_residual=decoder.cross_attention_residual,
        key=key,
    )


def _text_input(encoder: _Settings, key) -> TextInput:
    return TextInput(
        encoder.max_seq_len,
        encoder.num_input_channels,
        num_symbols=encoder.vocab_size,
        key=key,
    )


def _build_masked(found: dict[str, Any], *, key) -> MaskedLM:
    keys, settings = jr.split(key, 3), _Settings(found, {})
    encoder = settings.part("encoder", _ENCODER | _OF_TEXT)
    decoder = settings.part("decoder", _DECODER | _OF_MASKED)
    own = decoder.num_output_query_channels
    perceiver = _perceiver_io(
        found,
        encoder,
        decoder,
        keys[0],
        input_dim=encoder.num_input_channels,
        query_dim=own or encoder.num_input_channels,
        output_dim=own and decoder.vocab_size,
        cross_qk_dim=None,
    )
    return MaskedLM(_text_input(encoder, keys[1]), perceiver, key=keys[2])


def _build_classifier(of: dict[str, Any]) -> Callable[..., Classifier]:
    def build(found: dict[str, Any], *, key) -> Classifier:
        keys, settings = jr.split(key, 3), _Settings(found, {})
        encoder = settings.part("encoder", _ENCODER | of)
        decoder = settings.part("decoder", _DECODER | _OF_CLASSES)
        if of is _OF_TEXT:
            adapter, qk_dim = _text_input(encoder, keys[1]), None
        else:
            *shape, channels = encoder.image_shape
            positions = FourierPositions(encoder.num_frequency_bands, shape)
            adapter = GridInput(channels, positions)
            qk_dim = adapter.dim
        perceiver = _perceiver_io(
            found,
            encoder,
            decoder,
            keys[0],
            input_dim=adapter.dim,
            query_dim=decoder.num_output_query_channels,
            output_dim=decoder.num_classes,
            cross_qk_dim=qk_dim,
        )
        return Classifier(adapter, perceiver, key=keys[2])

    return build


def _places_of_io(of: dict[str, Any], query: str) -> Callable[[dict[str, Any]], Places]:
    def places_of(found: dict[str, Any]) -> Places:
        settings = _Settings(found, {})
        encoder = settings.part("encoder", _ENCODER | of)
        decoder = settings.part("decoder", _DECODER | _OF_MASKED)
        ours = "perceiver.encoder"
        places = {"0.latent_provider._query": Place(f"{ours}.latents")}
        if of is _OF_TEXT:
            embedding = "0.input_adapter.txt_embedding.weight"
            places[embedding] = Place("inputs.embedding.table")
            places["0.input_adapter.pos_embedding.weight"] = Place("inputs.positions")
        crosses, blocks = ["1"], ["1"]
        shared = encoder.first_cross_attention_layer_shared
        if encoder.num_cross_attention_layers > 1 and not shared:
            crosses.append("n")
        shared = encoder.first_self_attention_block_shared
        if encoder.num_self_attention_blocks > 1 and not shared:
            blocks.append("n")
        for place, which in enumerate(crosses):
            places |= _attention_layer(
                f"0.cross_attn_{which}", f"{ours}.crosses.{place}"
            )
        for place, which in enumerate(blocks):
            for layer in range(encoder.num_self_attention_layers_per_block):
                places |= _attention_layer(
                    f"0.self_attn_{which}.{layer}",
                    f"{ours}.processors.{place}.blocks",
                    crosses=False,
                    layer=layer,
                )
        places["1.output_query_provider._query"] = Place(query)
        places |= _attention_layer(
            "1.cross_attn",
            "perceiver.decoder.cross",
            residual=decoder.cross_attention_residual,
        )
        if query == "queries" and decoder.num_output_query_channels is None:
            return places | {"1.output_adapter.bias": Place("bias")}
        output = "1.output_adapter.linear"
        return places | linear(output, "perceiver.decoder.output")

    return places_of


# The parts of both.


def _attention_layer(
    theirs: str,
    ours: str,
    *,
    crosses: bool = True,
    layer: int | None = None,
    query_key: Form = TRANSPOSED,
    qkv_bias: bool = True,
    output_bias: bool = True,
    mlp_bias: bool = True,
    residual: bool = True,
):
    # What is added to its input is wrapped.
    within = f"{theirs}.0.module" if residual else f"{theirs}.0"
    norms = {"q_norm": "query_norm", "kv_norm": "input_norm"}
    places = {}
    for name, own in norms.items() if crosses else {"norm": "norm"}.items():
        places |= norm(f"{within}.{name}", f"{ours}.{own}", layer)
    heads = f"{ours}.heads"
    for name, own, form, bias in (
        ("q_proj", "query", query_key, qkv_bias),
        ("k_proj", "key", query_key, qkv_bias),
        ("v_proj", "value", TRANSPOSED, qkv_bias),
        ("o_proj", "output", TRANSPOSED, output_bias),
    ):
        names = f"{within}.attention.{name}", f"{heads}.{own}"
        places |= linear(*names, form, layer, bias=bias)
    mlp = f"{theirs}.1.module"
    places |= norm(f"{mlp}.0", f"{ours}.mlp_norm", layer)
    places |= linear(f"{mlp}.1", f"{ours}.mlp.up", layer=layer, bias=mlp_bias)
    return places | linear(f"{mlp}.3", f"{ours}.mlp.down", layer=layer, bias=mlp_bias)


KINDS: dict[str, tuple[Callable[..., Model], Callable[[dict[str, Any]], Places]]] = {
    "perceiver-ar-causal-language-model": (_build_causal, _places_of_causal),
    "perceiver-ar-symbolic-audio-model": (_build_causal, _places_of_causal),
    "perceiver-io-masked-language-model": (
        _build_masked,
        _places_of_io(_OF_TEXT, "queries"),
    ),
    "perceiver-io-text-classifier": (
        _build_classifier(_OF_TEXT),
        _places_of_io(_OF_TEXT, "query"),
    ),
    "perceiver-io-image-classifier": (
        _build_classifier(_OF_IMAGES),
        _places_of_io(_OF_IMAGES, "query"),
    ),
}
