"""Perceiver IO of perceiver-io, for masked language and for classification."""

from collections.abc import Callable
from typing import Any

from ..adapters.grid import FourierPositions, GridInput
from ..adapters.text import TextInput
from ..draws import split_key
from ..parents import PerceiverIO
from ..tasks import Classifier, MaskedLM
from .krasserm_parts import Settings, attention_layer
from .places import Place, Places, linear


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
OF_TEXT = {"vocab_size": 10003, "max_seq_len": 256, "num_input_channels": 64}
OF_IMAGES = {"image_shape": (224, 224, 3), "num_frequency_bands": 32}
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
    encoder: Settings,
    decoder: Settings,
    key,
    *,
    input_dim: int,
    query_dim: int,
    output_dim: int | None,
    cross_qk_dim: int | None,
) -> PerceiverIO:
    latents = Settings(found, _LATENTS)
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


def _text_input(encoder: Settings, key) -> TextInput:
    return TextInput(
        encoder.max_seq_len,
        encoder.num_input_channels,
        num_symbols=encoder.vocab_size,
        key=key,
    )


def build_masked(found: dict[str, Any], *, key) -> MaskedLM:
    keys, settings = split_key(key, 3), Settings(found, {})
    encoder = settings.part("encoder", _ENCODER | OF_TEXT)
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


def build_classifier(of: dict[str, Any]) -> Callable[..., Classifier]:
    def build(found: dict[str, Any], *, key) -> Classifier:
        keys, settings = split_key(key, 3), Settings(found, {})
        encoder = settings.part("encoder", _ENCODER | of)
        decoder = settings.part("decoder", _DECODER | _OF_CLASSES)
        if of is OF_TEXT:
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


def places_of_io(of: dict[str, Any], query: str) -> Callable[[dict[str, Any]], Places]:
    def places_of(found: dict[str, Any]) -> Places:
        settings = Settings(found, {})
        encoder = settings.part("encoder", _ENCODER | of)
        decoder = settings.part("decoder", _DECODER | _OF_MASKED)
        ours = "perceiver.encoder"
        places = {"0.latent_provider._query": Place(f"{ours}.latents")}
        if of is OF_TEXT:
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
            places |= attention_layer(
                f"0.cross_attn_{which}", f"{ours}.crosses.{place}"
            )
        for place, which in enumerate(blocks):
            for layer in range(encoder.num_self_attention_layers_per_block):
                places |= attention_layer(
                    f"0.self_attn_{which}.{layer}",
                    f"{ours}.processors.{place}.blocks",
                    crosses=False,
                    layer=layer,
                )
        places["1.output_query_provider._query"] = Place(query)
        places |= attention_layer(
            "1.cross_attn",
            "perceiver.decoder.cross",
            residual=decoder.cross_attention_residual,
        )
        if query == "queries" and decoder.num_output_query_channels is None:
            return places | {"1.output_adapter.bias": Place("bias")}
        output = "1.output_adapter.linear"
        return places | linear(output, "perceiver.decoder.output")

    return places_of
