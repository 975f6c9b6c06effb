"""Useful operations of a training step of a `ByteLM`: each product once forward and
twice backward, of the pairs that the masks allow; nothing that is computed again."""

import equinox as eqx
import jax

from perceiver_eqx import ByteLM
from perceiver_eqx.decoder import QueryDecoder
from perceiver_eqx.layers import Linear
from perceiver_eqx.processor import CausalProcessor


def train_step_flops(
    model: ByteLM, num_bytes: int, num_steps: int | None = None
) -> int:
    """Floating-point operations of one step on one sequence of so many bytes, which
    make so many steps of the model: `None` for as many as `bytes_per_step` says."""
    steps = num_bytes // model.bytes_per_step if num_steps is None else num_steps
    perceiver = model.perceiver
    encoder, decoder = perceiver.encoder, perceiver.decoder
    latents, dim = encoder.latents.shape
    rows, tokens = steps * latents, num_bytes
    local = [model.inputs.layers.processor, model.outputs.layers.processor]
    # A product of a row with a matrix is 2 operations a weight, and thrice that in all.
    linear = (
        rows * weights(perceiver.processor)
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
    if isinstance(decoder, QueryDecoder):
        cross = decoder.cross
        linear += rows * weights((cross.heads.key, cross.heads.value))
        linear += tokens * weights((cross.heads.output, cross.mlp, decoder.output))
        attention += 2 * tokens * latents * decoder.queries.shape[1]
    else:
        linear += steps * weights(decoder)
    return 3 * 2 * (linear + attention)


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
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
