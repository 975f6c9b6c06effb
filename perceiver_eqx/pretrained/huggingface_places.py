"""Where each tensor of transformers' Perceiver models belongs."""

from collections.abc import Callable

from .places import (
    AS_IT_IS,
    CONVOLUTION,
    OF_A_PIXEL,
    ROW,
    TRANSPOSED,
    Form,
    Place,
)


INPUT = "perceiver.input_preprocessor"


def _affine(theirs: str, ours: str, form: Form, layer: int | None = None):
    return {
        f"{theirs}.weight": Place(f"{ours}.weight", form, layer),
        f"{theirs}.bias": Place(f"{ours}.bias", AS_IT_IS, layer),
    }


def _norm(theirs: str, ours: str, layer: int | None = None):
    return {
        f"{theirs}.weight": Place(f"{ours}.scale", AS_IT_IS, layer),
        f"{theirs}.bias": Place(f"{ours}.bias", AS_IT_IS, layer),
    }


def _layer(theirs: str, ours: str, *, crosses: bool, layer: int | None = None):
    places = {}
    within = f"{theirs}.attention.self"
    for name in ("query", "key", "value"):
        places |= _affine(f"{within}.{name}", f"{ours}.heads.{name}", TRANSPOSED, layer)
    own = "query_norm" if crosses else "norm"
    places |= _norm(f"{within}.layernorm1", f"{ours}.{own}", layer)
    if crosses:
        places |= _norm(f"{within}.layernorm2", f"{ours}.input_norm", layer)
    output = f"{theirs}.attention.output.dense"
    places |= _affine(output, f"{ours}.heads.output", TRANSPOSED, layer)
    places |= _norm(f"{theirs}.layernorm", f"{ours}.mlp_norm", layer)
    places |= _affine(f"{theirs}.mlp.dense1", f"{ours}.mlp.up", TRANSPOSED, layer)
    places |= _affine(f"{theirs}.mlp.dense2", f"{ours}.mlp.down", TRANSPOSED, layer)
    return places


def _in_the_middle(num_layers: int, decoder: str, *, projects: bool):
    """Of the encoder and the decoder, which is at `decoder`."""
    encoder, ours = "perceiver.encoder", "perceiver.encoder"
    places = {"perceiver.embeddings.latents": Place(f"{ours}.latents")}
    places |= _layer(f"{encoder}.cross_attention", f"{ours}.crosses.0", crosses=True)
    for layer in range(num_layers):
        places |= _layer(
            f"{encoder}.self_attends.{layer}",
            f"{ours}.processors.0.blocks",
            crosses=False,
            layer=layer,
        )
    cross = f"{decoder}.decoding_cross_attention"
    places |= _layer(cross, "perceiver.decoder.cross", crosses=True)
    if projects:
        final = f"{decoder}.final_layer"
        places |= _affine(final, "perceiver.decoder.output", TRANSPOSED)
    return places


def of_text() -> dict[str, Place]:
    return {
        f"{INPUT}.embeddings.weight": Place("inputs.embedding.table"),
        f"{INPUT}.position_embeddings.weight": Place("inputs.positions"),
    }


def of_masked_lm(num_layers: int) -> dict[str, Place]:
    decoder = "perceiver.decoder"
    queries = f"{decoder}.output_position_encodings.position_embeddings"
    return {
        **of_text(),
        **_in_the_middle(num_layers, decoder, projects=False),
        queries: Place("queries"),
        "embedding_decoder.bias": Place("bias"),
    }


def of_classifier(inputs: Callable[[], dict[str, Place]]) -> Callable:
    def places(num_layers: int) -> dict[str, Place]:
        decoder = "perceiver.decoder.decoder"
        query = f"{decoder}.output_position_encodings.position_embeddings"
        return {
            **inputs(),
            **_in_the_middle(num_layers, decoder, projects=True),
            query: Place("query"),
        }

    return places


def of_learned_image() -> dict[str, Place]:
    table = f"{INPUT}.position_embeddings.position_embeddings"
    positions = "inputs.positions"
    return {
        **_affine(f"{INPUT}.convnet_1x1", "inputs.features", OF_A_PIXEL),
        table: Place(f"{positions}.table"),
        **_affine(f"{INPUT}.positions_projection", f"{positions}.output", TRANSPOSED),
    }


def of_conv_image() -> dict[str, Place]:
    norm, ours = f"{INPUT}.convnet.batchnorm", "inputs.features"
    return {
        f"{INPUT}.convnet.conv.weight": Place(f"{ours}.weight", CONVOLUTION),
        **_norm(norm, ours),
        f"{norm}.running_mean": Place(f"{ours}.mean"),
        f"{norm}.running_var": Place(f"{ours}.variance"),
    }


def of_flow(num_layers: int) -> dict[str, Place]:
    return {
        **_affine(f"{INPUT}.conv_after_patches", "inputs.features", TRANSPOSED),
        **_in_the_middle(num_layers, "perceiver.decoder.decoder", projects=True),
    }


def of_multimodal(num_layers: int) -> dict[str, Place]:
    decoder, heads = "perceiver.decoder", "perceiver.output_postprocessor.modalities"
    queries = f"{decoder}.modalities.label.decoder.output_position_encodings"
    places = _in_the_middle(num_layers, f"{decoder}.decoder", projects=True)
    places[f"{queries}.position_embeddings"] = Place("label_query")
    for name in ("audio", "image", "label"):
        padded = Place(f"padding.channels.{name}", ROW)
        places[f"{INPUT}.padding.{name}"] = padded
        places[f"{INPUT}.mask.{name}"] = Place(f"masks.{name}", ROW)
        queried = Place(f"query_padding.channels.{name}", ROW)
        places[f"{decoder}.padding.{name}"] = queried
        head = f"{heads}.{name}.classifier"
        places |= _affine(head, f"heads.{name}", TRANSPOSED)
    return places
