"""DeepMind's own checkpoints of Perceiver IO: pickles of Haiku's parameters, read
without running code.

They tell no configuration, so it is asked for; those of the published files are in
`PUBLISHED`. Their GELUs are approximated by a tanh.
"""

import math
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np

from .huggingface import Config, Task, build
from .places import AS_IT_IS, ROW, Form, Place, fill
from .tensors import FLOATS, SafeUnpickler, Tensor


_IMAGE = Config(
    num_latents=512,
    d_latents=1024,
    num_blocks=8,
    num_self_attends_per_block=6,
    num_cross_attention_heads=1,
    num_labels=1000,
    image_size=224,
)
_CLASSIFIERS = {
    "learned": "PerceiverForImageClassificationLearned",
    "fourier": "PerceiverForImageClassificationFourier",
    "conv": "PerceiverForImageClassificationConvProcessing",
}
PUBLISHED = {
    "language": Config("PerceiverForMaskedLM", qk_channels=256, v_channels=1280),
    **{
        f"image-{name}": replace(_IMAGE, architecture=architecture)
        for name, architecture in _CLASSIFIERS.items()
    },
    "optical-flow": Config(
        "PerceiverForOpticalFlow",
        num_latents=2048,
        d_latents=512,
        num_self_attends_per_block=24,
        num_self_attention_heads=16,
        num_cross_attention_heads=1,
    ),
    "multimodal": Config(
        "PerceiverForMultimodalAutoencoding",
        num_latents=28 * 28,
        d_latents=512,
        num_self_attends_per_block=8,
        num_cross_attention_heads=1,
        num_labels=700,
        image_size=224,
    ),
}


def load(
    path: str | os.PathLike, config: Config | str, *, tanh_gelu: bool = True
) -> Task:
    """The model in a pickle.

    Args:
        path: the file.
        config: of the model, or the name of one of `PUBLISHED`.
        tanh_gelu: approximate GELUs, as DeepMind's code does; not, as the port to
            transformers does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for an unknown name, a file that holds or asks for anything but
            arrays, and arrays that are not those of the configuration.
    """
    if isinstance(config, str):
        if config not in PUBLISHED:
            raise ValueError(
                f"`config` must be a Config or one of {sorted(PUBLISHED)}, got "
                f"{config!r}."
            )
        config = PUBLISHED[config]
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    tensors = {
        name: tensor
        for name, tensor in read(path).items()
        # Counts and sums of the batch norm, beside its averages.
        if not name.endswith(("/counter", "/hidden"))
    }
    shapes = eqx.filter_eval_shape(build, config, tanh_gelu=tanh_gelu, key=jr.key(0))
    return fill(shapes, places_of(config), tensors, repr(str(path)))


def read(path: Path) -> dict[str, Tensor]:
    """The arrays of a pickle of parameters, and of a state beside them, by module and
    name.

    Raises:
        ValueError: it holds or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            found = _Arrays(file).load()
        parts = [found]
        if isinstance(found, Mapping) and set(found) == {"params", "state"}:
            parts = [found["params"], found["state"]]
        return {
            f"{module}/{name}": _tensor(array)
            for part in parts
            for module, of_module in part.items()
            for name, array in of_module.items()
        }
    except Exception as error:
        # A hostile file can fail in any way, and this is the only thing to say of it.
        raise ValueError(
            f"{str(path)!r} is not a pickle of Haiku's parameters, or not a whole one: "
            f"{error}. Nothing in it was run."
        ) from error


class _DType:
    """What a pickle says of a dtype."""

    def __init__(self, name: str, *_):
        self.name = name if type(name) is str else "?"

    def __setstate__(self, state):
        if state[1] not in ("<", "|", "="):
            raise pickle.UnpicklingError("its numbers are not little-endian")


class _Array:
    """What a pickle says of an array."""

    def __init__(self, *state):
        self.state: tuple = state

    def __setstate__(self, state):
        self.state = state


def _reconstruct(*_) -> _Array:
    return _Array()


def _from_buffer(content, dtype, shape, order) -> _Array:
    if type(content) is bytearray:
        content = bytes(content)
    return _Array(1, shape, dtype, order == "F", content)


def _mapping(*contents: Any) -> dict:
    for content in contents[:1]:
        if type(content) is dict and len(contents) == 1:
            return content
        raise pickle.UnpicklingError("it makes a mapping of something else")
    return {}


class _Bytes:
    """Text to bytes, as the oldest pickles have it; of one text once."""

    def __init__(self):
        self.known: dict[int, tuple[str, bytes]] = {}

    def __call__(self, text: str, *_) -> bytes:
        if type(text) is not str:
            raise pickle.UnpicklingError("it makes bytes of something else")
        if id(text) not in self.known:
            self.known[id(text)] = text, text.encode("latin1")
        return self.known[id(text)][1]


class _Arrays(SafeUnpickler):
    BUILT = _DType, _Array

    def __init__(self, file):
        super().__init__(file)
        self.KNOWN = _FUNCTIONS | {("_codecs", "encode"): _Bytes()}


_FUNCTIONS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    # Of this nothing is made; it is only named.
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _DType,
    ("haiku._src.data_structures", "frozendict"): _mapping,
    ("haiku._src.data_structures", "FlatMapping"): _mapping,
    ("haiku._src.data_structures", "FlatMap"): _mapping,
}
_NAMES = {"f8": "float64", "f4": "float32", "f2": "float16"}


def _tensor(array: Any) -> Tensor:
    if not isinstance(array, _Array) or len(array.state) != 5:
        raise ValueError(f"it holds a {type(array).__name__} and no array")
    _, shape, dtype, by_columns, content = array.state
    name = _NAMES.get(dtype.name, dtype.name) if isinstance(dtype, _DType) else "?"
    sizes = type(shape) is tuple and len(shape) <= 32
    sizes = sizes and all(type(size) is int and 0 <= size < 2**48 for size in shape)
    if not sizes or type(content) is not bytes:
        raise ValueError("it holds an array without a shape, or without numbers")
    if name not in FLOATS:
        return Tensor(shape, name, lambda: np.zeros(0))
    if len(content) != math.prod(shape) * np.dtype(name).itemsize:
        raise ValueError(f"an array of shape {shape} has {len(content)} bytes")

    def numbers() -> np.ndarray:
        flat = np.frombuffer(content, name)
        return flat.reshape(shape, order="F" if by_columns else "C")

    return Tensor(shape, name, numbers)


# Where each array belongs. Haiku's linear maps are laid out as ours.

_OF_A_PIXEL = Form(lambda x: x[0, 0], lambda x: x[None, None])
_OF_CHANNELS = Form(lambda x: x[0, 0, 0], lambda x: x[None, None, None])


def places_of(config: Config) -> dict[str, Place]:
    """The places of a configuration's model, by module and name."""
    inputs, decoder = _OF_TASKS[config.architecture]
    many = config.architecture == "PerceiverForMultimodalAutoencoding"
    encoder = "encoder/~" if many else "perceiver_encoder/~"
    ours = "perceiver.encoder"
    places = {
        f"{encoder}/trainable_position_encoding/pos_embs": Place(f"{ours}.latents")
    }
    places |= _attention(f"{encoder}/cross_attention", f"{ours}.crosses.0", True)
    for layer in range(config.num_self_attends_per_block):
        number = f"_{layer}" if layer else ""
        blocks = f"{ours}.processors.0.blocks"
        places |= _attention(f"{encoder}/self_attention{number}", blocks, False, layer)
    cross = f"{decoder}/cross_attention"
    places |= _attention(cross, "perceiver.decoder.cross", True)
    if config.architecture != "PerceiverForMaskedLM":
        places |= _linear(f"{decoder}/output", "perceiver.decoder.output")
    return places | inputs()


def _attention(theirs: str, ours: str, crosses: bool, layer: int | None = None):
    norms = (
        ("query_norm", "input_norm", "mlp_norm") if crosses else ("norm", "mlp_norm")
    )
    places = {}
    for number, own in zip(("", "_1", "_2"), norms, strict=False):
        norm = f"{theirs}/layer_norm{number}"
        places[f"{norm}/scale"] = Place(f"{ours}.{own}.scale", AS_IT_IS, layer)
        places[f"{norm}/offset"] = Place(f"{ours}.{own}.bias", AS_IT_IS, layer)
    for number, own in zip(
        ("", "_1", "_2", "_3"), ("query", "key", "value", "output"), strict=True
    ):
        linear = f"{theirs}/attention/linear{number}"
        places |= _linear(linear, f"{ours}.heads.{own}", AS_IT_IS, layer)
    for number, own in (("", "up"), ("_1", "down")):
        linear = f"{theirs}/mlp/linear{number}"
        places |= _linear(linear, f"{ours}.mlp.{own}", AS_IT_IS, layer)
    return places


def _linear(theirs: str, ours: str, form: Form = AS_IT_IS, layer: int | None = None):
    return {
        f"{theirs}/w": Place(f"{ours}.weight", form, layer),
        f"{theirs}/b": Place(f"{ours}.bias", AS_IT_IS, layer),
    }


_QUERY = "classification_decoder/~/basic_decoder/~/trainable_position_encoding/pos_embs"


def _of_masked_lm() -> dict[str, Place]:
    queries = "basic_decoder/~/trainable_position_encoding/pos_embs"
    return {
        "embed/embeddings": Place("inputs.embedding.table"),
        "trainable_position_encoding/pos_embs": Place("inputs.positions"),
        queries: Place("queries"),
        "embedding_decoder/bias": Place("bias"),
    }


def _of_learned_image() -> dict[str, Place]:
    built = "image_preprocessor/~_build_network_inputs"
    positions = "inputs.positions"
    projector = f"{built}/position_encoding_projector/linear"
    return {
        _QUERY: Place("query"),
        **_linear("image_preprocessor/~/conv2_d", "inputs.features", _OF_A_PIXEL),
        f"{built}/trainable_position_encoding/pos_embs": Place(f"{positions}.table"),
        **_linear(projector, f"{positions}.output"),
    }


def _of_fourier_image() -> dict[str, Place]:
    return {_QUERY: Place("query")}


def _of_conv_image() -> dict[str, Place]:
    theirs, ours = "image_preprocessor/~/conv2_d_downsample/~", "inputs.features"
    norm = f"{theirs}/batchnorm"
    return {
        _QUERY: Place("query"),
        f"{theirs}/conv/w": Place(f"{ours}.weight"),
        f"{norm}/scale": Place(f"{ours}.scale", _OF_CHANNELS),
        f"{norm}/offset": Place(f"{ours}.bias", _OF_CHANNELS),
        f"{norm}/~/mean_ema/average": Place(f"{ours}.mean", _OF_CHANNELS),
        f"{norm}/~/var_ema/average": Place(f"{ours}.variance", _OF_CHANNELS),
    }


def _of_flow() -> dict[str, Place]:
    return _linear("image_preprocessor/patches_linear", "inputs.features")


def _of_multimodal() -> dict[str, Place]:
    places = {_QUERY: Place("label_query")}
    heads = {"audio": "audio", "image": "projection", "label": "classification"}
    inputs = "multimodal_preprocessor"
    queries = "multimodal_decoder/~decoder_query"
    for name, head in heads.items():
        padded = Place(f"padding.channels.{name}", ROW)
        places[f"{inputs}/{name}_padding/pos_embs"] = padded
        places[f"{inputs}/{name}_mask_token/pos_embs"] = Place(f"masks.{name}", ROW)
        queried = Place(f"query_padding.channels.{name}", ROW)
        places[f"{queries}/{name}_padding/pos_embs"] = queried
        places |= _linear(f"{head}_postprocessor/linear", f"heads.{name}")
    return places


_CLASSES = "classification_decoder/~/basic_decoder"
_OF_TASKS: dict[str, tuple[Callable[[], dict[str, Place]], str]] = {
    "PerceiverForMaskedLM": (_of_masked_lm, "basic_decoder"),
    "PerceiverForImageClassificationLearned": (_of_learned_image, _CLASSES),
    "PerceiverForImageClassificationFourier": (_of_fourier_image, _CLASSES),
    "PerceiverForImageClassificationConvProcessing": (_of_conv_image, _CLASSES),
    "PerceiverForOpticalFlow": (_of_flow, "flow_decoder/~/basic_decoder"),
    "PerceiverForMultimodalAutoencoding": (
        _of_multimodal,
        "multimodal_decoder/~/basic_decoder",
    ),
}
