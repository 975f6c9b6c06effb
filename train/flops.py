"""Useful operations of a training step of a `ByteLM`: each product once forward and
twice backward, of the pairs that the masks allow; nothing that is computed again."""

from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from perceiver_eqx import ByteLM
from perceiver_eqx.adapters.byte_context import ByteContext
from perceiver_eqx.decoder import QueryDecoder
from perceiver_eqx.layers import Linear
from perceiver_eqx.processor import CausalProcessor

from .optim import hidden_matrices


class Products(NamedTuple):
    """Multiplications of a forward pass, each with an addition.

    Attributes:
        linear: of rows with matrices.
        attention: of queries with keys, and of weights with values.
    """

    linear: int
    attention: int


def train_step_flops(
    model: ByteLM,
    num_bytes: int,
    num_steps: int | None = None,
    *,
    context_bytes: int = 0,
) -> int:
    """Floating-point operations of one step on one sequence; arguments as of
    `products`."""
    return 3 * 2 * sum(products(model, num_bytes, num_steps, context_bytes))


def products(
    model: ByteLM,
    num_bytes: int,
    num_steps: int | None = None,
    context_bytes: int = 0,
) -> Products:
    """Those of one sequence.

    Args:
        model: shapes in place of arrays will do.
        num_bytes: of the sequence.
        num_steps: of the model, that they make; `None` for as many as `bytes_per_step`
            says.
        context_bytes: of its context.
    """
    steps = num_bytes // model.bytes_per_step if num_steps is None else num_steps
    perceiver = model.perceiver
    encoder, decoder = perceiver.encoder, perceiver.decoder
    latents, dim = encoder.latents.shape
    rows, tokens = steps * latents, num_bytes
    local = [model.inputs.layers.processor, model.outputs.layers.processor]
    asks = weights(perceiver.processor.blocks.ask)
    linear = (
        latents * weights(encoder.cross.heads.query)
        + rows * (weights(perceiver.processor) - asks)
        + rows * weights((encoder.cross.heads.output, encoder.cross.mlp))
        + steps * weights(encoder.own_step)
        + tokens * weights((encoder.cross.heads.key, encoder.cross.heads.value))
        + tokens * weights(local)
        + tokens * weights((model.inputs.tokens, model.outputs.logits))
    )
    # A pair is two products of a head's width, over all heads.
    attention = 2 * (
        latents**2 * _pairs_of_layers(perceiver.processor, steps) * dim
        + tokens * latents * dim
        + sum(_pairs_of_layers(layers, tokens) * layers.dim for layers in local)
    )
    if isinstance(decoder, QueryDecoder) and decoder.queries is not None:
        cross, (outputs, query_dim) = decoder.cross, decoder.queries.shape
        linear += outputs * weights(cross.heads.query)
        linear += rows * weights((cross.heads.key, cross.heads.value))
        linear += tokens * weights((cross.heads.output, cross.mlp, decoder.output))
        attention += 2 * tokens * latents * query_dim
    else:
        linear += steps * weights(decoder)
    if model.contexts is not None and context_bytes:
        more = _of_context(model, model.contexts, steps, context_bytes)
        return Products(linear + more.linear, attention + more.attention)
    return Products(linear, attention)


def _of_context(
    model: ByteLM, contexts: ByteContext, steps: int, num_bytes: int
) -> Products:
    """Those for a context that so many steps see."""
    perceiver = model.perceiver
    encoder, local = perceiver.encoder, model.inputs.layers.processor
    latents, dim = encoder.latents.shape
    tokens, rows = -(-num_bytes // contexts.patch), steps * latents
    linear = num_bytes * weights(local) + latents * weights(encoder.cross.heads.query)
    linear += tokens * weights((contexts.tokens, contexts.both_ways))
    linear += tokens * weights((encoder.context_key, encoder.context_value))
    attention = _pairs_of_layers(local, num_bytes) * local.dim + tokens * latents * dim
    if contexts.both_ways is not None:
        layers = contexts.both_ways.layers.query_norm.scale.shape[0]
        attention += layers * tokens * min(contexts.both_ways.block, tokens) * dim
    ask = perceiver.processor.blocks.ask
    if ask is not None:
        linear += tokens * weights(perceiver.remember)
        linear += rows * weights((ask.query, ask.output))
        linear += steps * weights(ask.place)
        attention += perceiver.processor.num_layers * rows * tokens * dim
    return Products(linear, 2 * attention)


def muon_flops(params: PyTree) -> int:
    """Floating-point operations by which Muon makes the updates of all matrices
    orthogonal: five times three products of each."""
    total = 0
    hidden = hidden_matrices(params)
    for matrices in jax.tree.leaves(eqx.filter(params, hidden)):
        *_, rows, columns = matrices.shape
        short, long = sorted((rows, columns))
        number = matrices.size // (rows * columns)
        total += number * 5 * 2 * (2 * short**2 * long + short**3)
    return total


def weights(layers) -> int:
    """Numbers in the weights of linear maps."""
    found = jax.tree.leaves(layers, is_leaf=lambda x: isinstance(x, Linear))
    return sum(x.weight.size for x in found if isinstance(x, Linear))


def pairs(steps: int, window: int | None) -> int:
    """Pairs of steps, the second seen by the first."""
    window = steps if window is None else min(window, steps)
    return window * (window + 1) // 2 + (steps - window) * window


def _pairs_of_layers(processor: CausalProcessor, steps: int) -> int:
    """Pairs of all layers, each with its own window."""
    rounds = processor.num_layers // len(processor.windows)
    return rounds * sum(pairs(steps, window) for window in processor.windows)


def num_parameters(model: ByteLM) -> int:
    """Of arrays, or of shapes in their place."""
    return sum(x.size for x in jax.tree.leaves(model) if hasattr(x, "shape"))
