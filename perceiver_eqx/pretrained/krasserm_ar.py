"""Perceiver AR of perceiver-io, of text and of symbolic audio.

Its rotary positions turn neighbouring channels, ours those of two halves: so channels
of queries and keys are put into another order, which attention does not see.
"""

from typing import Any

import numpy as np

from ..perceiver_ar import PerceiverAR
from .krasserm_parts import Settings, attention_layer
from .places import TRANSPOSED, Form, Place, Places, norm


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


def _causal(found: dict[str, Any]) -> tuple[Settings, int, int]:
    """The settings; how many channels of a head turn, and in how many layers."""
    settings = Settings(found, _CAUSAL)
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


def build_causal(found: dict[str, Any], *, key) -> PerceiverAR:
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


def places_of_causal(found: dict[str, Any]) -> Places:
    settings, dims, turning = _causal(found)
    turned = _turned(settings.num_heads, dims)
    places = {"input_adapter.txt_embedding.weight": Place("embedding.table")}
    if settings.abs_pos_emb:
        places["input_adapter.pos_embedding.weight"] = Place("positions")
    places |= attention_layer(
        "cross_attention", "cross", query_key=turned, qkv_bias=False, mlp_bias=False
    )
    for layer in range(settings.num_self_attention_layers):
        later = layer >= turning
        places |= attention_layer(
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
