"""The names and shapes of DeepMind's checkpoints, out of those of their port."""

import pickle
import re
from pathlib import Path

import numpy as np


# In order; the first that fits is taken.
RENAMED = (
    (
        r"perceiver\.embeddings\.latents",
        "ENCODER/~/trainable_position_encoding/pos_embs",
    ),
    (r"perceiver\.encoder\.cross_attention\.(.*)", r"ENCODER/~/cross_attention/\1"),
    (r"perceiver\.encoder\.self_attends\.0\.(.*)", r"ENCODER/~/self_attention/\1"),
    (
        r"perceiver\.encoder\.self_attends\.(\d+)\.(.*)",
        r"ENCODER/~/self_attention_\1/\2",
    ),
    (
        r"perceiver\.decoder\.(?:decoder\.)?decoding_cross_attention\.(.*)",
        r"DECODER/cross_attention/\1",
    ),
    (r"perceiver\.decoder\.decoder\.final_layer\.(.*)", r"DECODER/output/\1"),
    (r".*output_position_encodings\.position_embeddings", "QUERIES"),
    (r"embedding_decoder\.bias", "embedding_decoder/bias"),
    (r".*input_preprocessor\.embeddings\.weight", "embed/embeddings"),
    (
        r".*input_preprocessor\.position_embeddings\.weight",
        "trainable_position_encoding/pos_embs",
    ),
    (r".*\.convnet_1x1\.(.*)", r"image_preprocessor/~/conv2_d/\1"),
    (
        r".*input_preprocessor\.position_embeddings\.position_embeddings",
        "image_preprocessor/~_build_network_inputs/trainable_position_encoding/pos_embs",
    ),
    (
        r".*positions_projection\.(.*)",
        r"image_preprocessor/~_build_network_inputs/position_encoding_projector/linear/\1",
    ),
    (
        r".*convnet\.conv\.weight",
        "image_preprocessor/~/conv2_d_downsample/~/conv/weight",
    ),
    (
        r".*batchnorm\.running_mean",
        "image_preprocessor/~/conv2_d_downsample/~/batchnorm/~/mean_ema/average",
    ),
    (
        r".*batchnorm\.running_var",
        "image_preprocessor/~/conv2_d_downsample/~/batchnorm/~/var_ema/average",
    ),
    (
        r".*batchnorm\.weight",
        "image_preprocessor/~/conv2_d_downsample/~/batchnorm/scale",
    ),
    (
        r".*batchnorm\.bias",
        "image_preprocessor/~/conv2_d_downsample/~/batchnorm/offset",
    ),
    (r".*conv_after_patches\.(.*)", r"image_preprocessor/patches_linear/\1"),
    (
        r".*input_preprocessor\.mask\.(.*)",
        r"multimodal_preprocessor/\1_mask_token/pos_embs",
    ),
    (
        r".*input_preprocessor\.padding\.(.*)",
        r"multimodal_preprocessor/\1_padding/pos_embs",
    ),
    (
        r"perceiver\.decoder\.padding\.(.*)",
        r"multimodal_decoder/~decoder_query/\1_padding/pos_embs",
    ),
    (r".*modalities\.audio\.classifier\.(.*)", r"audio_postprocessor/linear/\1"),
    (r".*modalities\.image\.classifier\.(.*)", r"projection_postprocessor/linear/\1"),
    (
        r".*modalities\.label\.classifier\.(.*)",
        r"classification_postprocessor/linear/\1",
    ),
)
WITHIN = (
    ("attention.self.layernorm1", "layer_norm"),
    ("attention.self.layernorm2", "layer_norm_1"),
    ("attention.self.query", "attention/linear"),
    ("attention.self.key", "attention/linear_1"),
    ("attention.self.value", "attention/linear_2"),
    ("attention.output.dense", "attention/linear_3"),
    ("mlp.dense1", "mlp/linear"),
    ("mlp.dense2", "mlp/linear_1"),
)
DECODERS = {
    "PerceiverForMaskedLM": "basic_decoder",
    "PerceiverForOpticalFlow": "flow_decoder/~/basic_decoder",
    "PerceiverForMultimodalAutoencoding": "multimodal_decoder/~/basic_decoder",
}
CLASSES = "classification_decoder/~/basic_decoder"


def renamed(architecture: str, name: str) -> str:
    """DeepMind's name of a tensor."""
    pattern, new = next(pair for pair in RENAMED if re.fullmatch(pair[0], name))
    name = re.sub(f"^{pattern}$", new, name)
    for theirs, ours in WITHIN:
        name = name.replace(theirs, ours)
    # The norm between attention and MLP is the last one.
    last = "layer_norm_2" if "cross_attention" in name else "layer_norm_1"
    name = name.replace("layernorm", last)
    many = architecture == "PerceiverForMultimodalAutoencoding"
    decoder = DECODERS.get(architecture, CLASSES)
    queries = CLASSES if many else decoder
    for part, whole in (
        ("ENCODER", "encoder" if many else "perceiver_encoder"),
        ("DECODER", decoder),
        ("QUERIES", f"{queries}/~/trainable_position_encoding/pos_embs"),
    ):
        name = name.replace(part, whole)
    of_norm = "layer_norm" in name
    for theirs, linear, norm in (("weight", "w", "scale"), ("bias", "b", "offset")):
        for before in ("/", "."):
            if name.endswith(before + theirs) and name != "embedding_decoder/bias":
                kind = norm if of_norm else linear
                name = name.removesuffix(before + theirs) + "/" + kind
    return name


def as_haiku(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of transformers' as DeepMind has it."""
    if "batchnorm" in name:
        return tensor[None, None, None]
    if not name.endswith("weight") or "embeddings" in name:
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def write(
    path: Path, architecture: str, tensors: dict[str, np.ndarray], protocol: int = 4
) -> None:
    """A pickle as DeepMind published them: of modules, each of names."""
    params, state = {}, {}
    for name, tensor in tensors.items():
        module, _, own = renamed(architecture, name).rpartition("/")
        into = state if "_ema" in module else params
        array = np.ascontiguousarray(as_haiku(name, tensor))
        into.setdefault(module, {})[own] = array
    for module in state.values():
        module["counter"], module["hidden"] = np.array(3, np.int32), module["average"]
    content = {"params": params, "state": state} if state else params
    path.write_bytes(pickle.dumps(content, protocol=protocol))
