"""Useful operations of a training step of a `ByteLM`: each product once forward and
twice backward, of the pairs that the masks allow; nothing that is computed again."""

import equinox as eqx
import jax

from perceiver_eqx import ByteLM
from perceiver_eqx.layers import Linear


def train_step_flops(model: ByteLM, num_bytes: int) -> int:
    """Floating-point operations of one step on one sequence of so many bytes."""
    steps = num_bytes // model.bytes_per_step
    encoder, decoder = model.perceiver.encoder, model.perceiver.decoder
    latents, dim = encoder.latents.shape
    rows = steps * latents
    cross, local = encoder.cross, model.outputs.decoder
    tokens = num_bytes
    # A product of a row with a matrix is 2 operations a weight, and thrice that in all.
    linear = (
        rows * _weights(model.perceiver.processor)
        + tokens * _weights((cross.heads.key, cross.heads.value))
        + rows * _weights((cross.heads.output, cross.mlp))
        + steps * _weights(encoder.own_step)
        + rows * _weights((decoder.cross.heads.key, decoder.cross.heads.value))
        + tokens * _weights((decoder.cross.heads.output, decoder.cross.mlp))
        + tokens * _weights((decoder.output, local, model.outputs.logits))
    )
    # A pair is two products of a head's width, over all heads.
    query_dim, local_dim = decoder.queries.shape[1], local.norm.scale.size
    attention = 2 * (
        model.perceiver.processor.num_layers
        * latents**2
        * _pairs(steps, model.latent_window)
        * dim
        + tokens * latents * dim
        + tokens * latents * query_dim
        + local.num_layers * steps * _pairs(model.bytes_per_step, None) * local_dim
    )
    return 3 * 2 * (linear + attention)


def _weights(layers) -> int:
    """Numbers in the weights of linear maps."""
    found = jax.tree.leaves(layers, is_leaf=lambda x: isinstance(x, Linear))
    return sum(x.weight.size for x in found if isinstance(x, Linear))


def _pairs(steps: int, window: int | None) -> int:
    """Pairs of steps, the second seen by the first."""
    window = steps if window is None else min(window, steps)
    return window * (window + 1) // 2 + (steps - window) * window


def num_parameters(model: ByteLM) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
