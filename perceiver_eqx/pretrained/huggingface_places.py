"""Where each tensor of transformers' Perceiver models belongs."""

from collections.abc import Callable

from .places import CONVOLUTION, OF_A_PIXEL, ROW, Place, linear, norm


INPUT = "perceiver.input_preprocessor"


def _layer(theirs: str, ours: str, *, crosses: bool, layer: int | None = None):
    places = {}
    within = f"{theirs}.attention.self"
    for name in ("query", "key", "value"):
        places |= linear(f"{within}.{name}", f"{ours}.heads.{name}", layer=layer)
    own = "query_norm" if crosses else "norm"
    places |= norm(f"{within}.layernorm1", f"{ours}.{own}", layer)
    if crosses:
        places |= norm(f"{within}.layernorm2", f"{ours}.input_norm", layer)
    output = f"{theirs}.attention.output.dense"
    places |= linear(output, f"{ours}.heads.output", layer=layer)
    places |= norm(f"{theirs}.layernorm", f"{ours}.mlp_norm", layer)
    places |= linear(f"{theirs}.mlp.dense1", f"{ours}.mlp.up", layer=layer)
    places |= linear(f"{theirs}.mlp.dense2", f"{ours}.mlp.down", layer=layer)
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
        places |= linear(final, "perceiver.decoder.output")
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
        **linear(f"{INPUT}.convnet_1x1", "inputs.features", OF_A_PIXEL),
        table: Place(f"{positions}.table"),
        **linear(f"{INPUT}.positions_projection", f"{positions}.output"),
    }


def of_conv_image() -> dict[str, Place]:
    batch_norm, ours = f"{INPUT}.convnet.batchnorm", "inputs.features"
    return {
        f"{INPUT}.convnet.conv.weight": Place(f"{ours}.weight", CONVOLUTION),
        **norm(batch_norm, ours),
        f"{batch_norm}.running_mean": Place(f"{ours}.mean"),
        f"{batch_norm}.running_var": Place(f"{ours}.variance"),
    }


def of_flow(num_layers: int) -> dict[str, Place]:
    return {
        **linear(f"{INPUT}.conv_after_patches", "inputs.features"),
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
        places |= linear(head, f"heads.{name}")
    return places
