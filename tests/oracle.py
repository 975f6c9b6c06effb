"""A literal transcription of the seed, in float64 NumPy: latents physically replicated
over the timesteps, both masks as einops expressions, dense softmax over every pair.

It reads the parameters of a `CausalPerceiver` and shares no code with it.
"""

import math

import einops
import numpy as np


erf = np.vectorize(math.erf)


def causal_perceiver(model, inputs, context=None):
    """What `model(inputs, context)` should be."""
    inputs = np.asarray(inputs, np.float64)
    timesteps, token_count = inputs.shape[:2]
    encoder, processor, decoder = model.encoder, model.processor, model.decoder
    latent_count = encoder.latents.shape[0]

    # Replicate the latents across the timesteps: (t c) rows.
    latents = np.tile(array(encoder.latents), (timesteps, 1))

    # Causal input cross-attention: (t1 c) rows, (t2 i) columns.
    cross = encoder.cross
    tokens = einops.rearrange(inputs, "t i d -> (t i) d")
    normed = norm(cross.input_norm, tokens)
    query = heads(cross.heads, cross.heads.query, norm(cross.query_norm, latents))
    key = heads(cross.heads, cross.heads.key, normed)
    value = heads(cross.heads, cross.heads.value, normed)
    mask = einops.rearrange(
        np.tril(np.ones((latent_count, token_count, timesteps, timesteps))),
        "c i t1 t2 -> (t1 c) (t2 i)",
    )
    age = np.subtract.outer(np.arange(timesteps), np.arange(timesteps))
    rate = np.zeros((latent_count, cross.heads.num_heads))
    if encoder.rate_logit is not None:
        rate = np.log1p(np.exp(array(encoder.rate_logit)))
    bias = einops.rearrange(
        -rate[:, :, None, None, None] * age[:, :, None] * np.ones(token_count),
        "c h t1 t2 i -> h (t1 c) (t2 i)",
    )
    if context is not None:
        source = norm(encoder.context_norm, np.asarray(context, np.float64))
        key = np.concatenate([heads(cross.heads, encoder.context_key, source), key])
        value = np.concatenate(
            [heads(cross.heads, encoder.context_value, source), value]
        )
        everything = np.ones((len(latents), len(source)))
        mask = np.concatenate([everything, mask], 1)
        bias = np.pad(bias, ((0, 0), (0, 0), (len(source), 0)))
    attended = attention(query, key, value, mask, bias)
    x = latents + linear(cross.heads.output, attended)
    x = x + mlp(cross.mlp, norm(cross.mlp_norm, x))
    if encoder.own_step is not None:
        own = linear(encoder.own_step, inputs.reshape(timesteps, -1))
        x = x + own.reshape(x.shape)

    asked = None
    if context is not None and model.remember is not None:
        asked = memory(model, np.asarray(context, np.float64), timesteps)
    x = self_attention(processor, x, latent_count, asked)
    if hasattr(decoder, "num_outputs"):
        y = linear(decoder.output, x.reshape(timesteps, -1))
        return y.reshape(timesteps, decoder.num_outputs, -1)

    # Output queries of a step read the latents of that step: (t1 o) rows.
    cross = decoder.cross
    queries = np.tile(array(decoder.queries), (timesteps, 1))
    output_count = decoder.queries.shape[0]
    mask = einops.rearrange(
        np.ones((output_count, latent_count))[..., None, None] * np.eye(timesteps),
        "o c t1 t2 -> (t1 o) (t2 c)",
    )
    normed = norm(cross.input_norm, x)
    attended = attention(
        heads(cross.heads, cross.heads.query, norm(cross.query_norm, queries)),
        heads(cross.heads, cross.heads.key, normed),
        heads(cross.heads, cross.heads.value, normed),
        mask,
    )
    y = linear(cross.heads.output, attended) + (queries if cross.residual else 0.0)
    y = y + mlp(cross.mlp, norm(cross.mlp_norm, y))
    y = linear(decoder.output, y)
    return einops.rearrange(y, "(t o) d -> t o d", t=timesteps)


def byte_lm(model, tokens, context=None):
    """What `model(tokens, context)` should be."""
    timesteps, per_step = tokens.shape
    inputs, outputs = model.inputs, model.outputs
    embedded = array(inputs.embedding.table)[np.asarray(tokens)]
    x = (embedded + array(inputs.positions.table)).reshape(timesteps * per_step, -1)
    if inputs.ngrams is not None:
        x = x + ngrams(inputs.ngrams, np.asarray(tokens).ravel().tolist())
    features = self_attention(inputs.layers.processor, x, 1)
    begin = np.tile(array(inputs.begin), (per_step, 1))
    step_late = np.concatenate([begin, features])[:-per_step]
    byte_late = np.concatenate([begin[:1], features])[:-1]
    tokens_in = linear(inputs.tokens, step_late).reshape(timesteps, per_step, -1)
    source = None
    if context is not None:
        source = context_tokens(model, np.asarray(context))
    readout = causal_perceiver(model.perceiver, tokens_in, source)
    x = readout.reshape(byte_late.shape) + byte_late
    logits = linear(outputs.logits, self_attention(outputs.layers.processor, x, 1))
    return logits.reshape(timesteps, per_step, 256)


def context_tokens(model, symbols):
    """Features of the context's bytes, so many to a token, and the place of the first
    of these."""
    inputs, contexts = model.inputs, model.contexts
    x = array(inputs.embedding.table)[symbols]
    if inputs.ngrams is not None:
        x = x + ngrams(inputs.ngrams, symbols.tolist())
    x = self_attention(inputs.layers.processor, x, 1)
    x = np.concatenate([x, np.zeros((-len(x) % contexts.patch, x.shape[1]))])
    tokens = linear(contexts.tokens, x.reshape(len(x) // contexts.patch, -1))
    places = contexts.patch * np.arange(len(tokens))
    tokens = tokens + sinusoids(places, tokens.shape[1])
    if contexts.both_ways is not None:
        layers, block = contexts.both_ways.layers, contexts.both_ways.block
        for index in range(layers.query_norm.scale.shape[0]):
            layer = Layer(layers, index)
            for start in range(0, len(tokens), block):
                x = tokens[start : start + block]
                tokens[start : start + block] = cross_attention(layer, x, x)
    return tokens


def memory(model, context, timesteps):
    """Keys and values of the context, keys being some tokens behind; and where each
    step stands: from its beginning, and from its end."""
    remember = model.remember
    normed = norm(remember.norm, context)
    places = remember.stride * np.arange(len(context))
    shape = len(context), len(remember.behind), -1
    content = linear(remember.key, normed).reshape(shape)
    key = linear(remember.place, sinusoids(places, 128)).reshape(shape)
    for place in range(len(context)):
        for head, behind in enumerate(remember.behind):
            if behind <= place:
                key[place, head] += content[place - behind, head]
    key = root_mean_square(remember.key_norm, key)
    value = linear(remember.value, normed).reshape(shape)
    starts = model.step_places * np.arange(timesteps)
    left = remember.stride * len(context) - starts
    both = np.concatenate([sinusoids(starts, 128), sinusoids(left, 128)], -1)
    return key, value, both


def cross_attention(cross, x, inputs, mask=None):
    mask = np.ones((len(x), len(inputs)), bool) if mask is None else mask
    normed = norm(cross.input_norm, inputs)
    attended = attention(
        heads(cross.heads, cross.heads.query, norm(cross.query_norm, x)),
        heads(cross.heads, cross.heads.key, normed),
        heads(cross.heads, cross.heads.value, normed),
        mask,
    )
    y = linear(cross.heads.output, attended) + (x if cross.residual else 0.0)
    return y + mlp(cross.mlp, norm(cross.mlp_norm, y))


def ask(block, x, rows, asked):
    key, value, places = asked
    places = np.repeat(linear(block.place, places), rows, axis=0)
    query = (linear(block.query, norm(block.norm, x)) + places).reshape(
        len(x), block.num_heads, -1
    )
    query = root_mean_square(block.query_norm, query)
    everything = np.ones((len(x), len(key)))
    return linear(block.output, attention(query, key, value, everything))


def ngrams(layer, symbols):
    """The rows are those of a polynomial of the last bytes, mixed, modulo 2^32."""
    tables = array(layer.tables)
    x = np.zeros((len(symbols), tables.shape[2]))
    for place in range(len(symbols)):
        for table, order in zip(tables, layer.orders, strict=True):
            polynomial = 0
            for back in range(order):
                symbol = symbols[place - back] if back <= place else -1
                polynomial = (polynomial * 0x01000193 + symbol + 1) % 2**32
            mixed = (polynomial ^ (polynomial >> 15)) * 0x9E3779B1 % 2**32
            x[place] += table[(mixed ^ (mixed >> 16)) % len(table)]
    return x


def self_attention(processor, x, rows, asked=None):
    """Causal self-attention between steps of so many rows: the seed's expression of the
    latent mask, and a window's band of it. Then questions to the context."""
    timesteps = len(x) // rows
    step = np.repeat(np.arange(timesteps), rows)
    for layer in range(processor.num_layers):
        square = np.tril(np.ones((rows, rows, timesteps, timesteps)))
        window = processor.windows[layer % len(processor.windows)]
        if window is not None:
            square = square - np.tril(square, -window)
        mask = einops.rearrange(square, "c e t1 t2 -> (t1 c) (t2 e)")
        block = Layer(processor.blocks, layer)
        normed = convolution(block.conv, norm(block.norm, x), rows)
        query = root_mean_square(
            block.heads.query_norm, heads(block.heads, block.heads.query, normed)
        )
        key = root_mean_square(
            block.heads.key_norm, heads(block.heads, block.heads.key, normed)
        )
        value = heads(block.heads, block.heads.value, normed)
        query, key = (rotary(y, step, dims=block.rotary_dims) for y in (query, key))
        attended = attention(query, key, value, mask)
        x = x + linear(block.heads.output, attended)
        if asked is not None:
            x = x + ask(block.ask, x, rows, asked)
        x = x + mlp(block.mlp, norm(block.mlp_norm, x))
    return x if processor.norm is None else norm(processor.norm, x)


STATIC = "num_heads", "epsilon", "rotary_dims", "tanh_gelu", "residual"


class Layer:
    """The parameters of one layer of a stack."""

    def __init__(self, stacked, index):
        self.stacked, self.index = stacked, index

    def __getattr__(self, name):
        value = getattr(self.stacked, name)
        if name in STATIC or value is None:
            return value
        is_array = hasattr(value, "shape")
        return value[self.index] if is_array else Layer(value, self.index)


def array(x):
    return np.asarray(x, np.float64)


def linear(layer, x):
    y = x @ array(layer.weight)
    return y if layer.bias is None else y + array(layer.bias)


def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + layer.epsilon)
    return centred / deviation * array(layer.scale) + array(layer.bias)


def convolution(layer, x, rows):
    """Each row and the same row of earlier steps, so many times each."""
    if layer is None:
        return x
    y = x.copy()
    for place in range(len(x)):
        for age, tap in enumerate(array(layer.taps)):
            if age * rows <= place:
                y[place] += tap * x[place - age * rows]
    return y


def root_mean_square(layer, x):
    if layer is None:
        return x
    square = (x**2).mean(-1, keepdims=True)
    return x / np.sqrt(square + layer.epsilon) * array(layer.scale)


def mlp(layer, x):
    hidden = linear(layer.up, x)
    if layer.gate is not None:
        gate = linear(layer.gate, x)
        return linear(layer.down, hidden * gate / (1 + np.exp(-gate)))
    if layer.tanh_gelu:
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        return linear(layer.down, hidden * (1 + np.tanh(inner)) / 2)
    return linear(layer.down, hidden * (1 + erf(hidden / math.sqrt(2))) / 2)


def sinusoids(places, dim, longest=1e6):
    angle = places[:, None] / longest ** np.linspace(0, 1, dim // 2)
    return np.concatenate([np.sin(angle), np.cos(angle)], -1)


def heads(multi_head, projection, x):
    y = linear(projection, x)
    return einops.rearrange(y, "n (h d) -> n h d", h=multi_head.num_heads)


def rotary(x, positions, base=10_000.0, dims=None):
    if dims is not None:
        turned = rotary(x[..., :dims], positions, base) if dims else x[..., :0]
        return np.concatenate([turned, x[..., dims:]], -1)
    half = x.shape[-1] // 2
    angle = positions[:, None] / base ** (np.arange(half) / half)
    turn = np.exp(1j * angle)[:, None]
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], -1)


def attention(query, key, value, mask, bias=0.0):
    scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1]) + bias
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    attended = np.einsum("hqk,khd->qhd", weights, value)
    return einops.rearrange(attended, "n h d -> n (h d)")
