"""The parents, written out in float64 NumPy with dense masks."""

import numpy as np

from tests.oracle import (
    array,
    attention,
    cross_attention,
    heads,
    linear,
    mlp,
    norm,
    rotary,
)
from tests.oracle import self_attention as stack


def encoder(model, inputs, mask=None):
    """What a `PerceiverEncoder` should give."""
    x, inputs = array(model.latents), array(inputs)
    seen = None if mask is None else np.tile(mask, (len(x), 1))
    for place in range(model.num_blocks):
        if place < model.num_crosses:
            own = min(place, len(model.crosses) - 1)
            x = cross_attention(model.crosses[own], x, inputs, seen)
        own = min(place, len(model.processors) - 1)
        x = stack(model.processors[own], x, len(x))
    return x


def perceiver_io(model, inputs, queries, mask=None):
    """What a `PerceiverIO` should give."""
    latents = encoder(model.encoder, inputs, mask)
    x = cross_attention(model.decoder.cross, array(queries), latents)
    return x if model.decoder.output is None else linear(model.decoder.output, x)


def perceiver_ar(model, symbols, prefix, padding=0):
    """What `model(symbols, prefix, padding=padding)` should be."""
    symbols = np.asarray(symbols)
    count, places = len(symbols), np.arange(len(symbols))
    x = array(model.embedding.table)[symbols]
    if model.positions is not None:
        x = x + array(model.positions)[np.maximum(places - padding, 0)]
    cross, rows = model.cross, model.offsets.shape[0] + 1
    own, at = x[prefix:], places[prefix:]
    normed = np.concatenate(
        [norm(cross.input_norm, x[:prefix]), norm(cross.query_norm, own)]
    )
    key = heads(cross.heads, cross.heads.key, normed)
    value = heads(cross.heads, cross.heads.value, normed)
    offsets = np.concatenate([array(model.offsets), np.zeros((1, x.shape[1]))])
    latents = (own[:, None] + offsets).reshape(-1, x.shape[1])
    at = np.repeat(at, rows)
    query = heads(cross.heads, cross.heads.query, norm(cross.query_norm, latents))
    query = rotary(query, at, dims=model.rotary_dims)
    key = rotary(key, places, dims=model.rotary_dims)
    mask = (places <= at[:, None]) & (places >= padding)
    y = latents + linear(cross.heads.output, attention(query, key, value, mask))
    y = y + mlp(cross.mlp, norm(cross.mlp_norm, y))
    for processor in model.processors:
        y = stack(processor, y, rows)
    y = y.reshape(count - prefix, rows, -1)[:, -1]
    y = y if model.norm is None else norm(model.norm, y)
    logits = y @ array(model.embedding.table).T
    return logits if model.bias is None else logits + array(model.bias)
