"""A step of a `ByteLM` whose bytes are found one by one, each from those before it:
of a model made `ready`, `begin_step`, then `predict` and `put` for each byte, then
`end_step`."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..layers import matrices_in
from ..state import State
from .byte_lm import ByteLM
from .byte_state import ByteState
from .bytes import ByteInputState
from .local import LocalState


class OpenStep(State):
    """What is known of a step while its bytes are found.

    Attributes:
        readout: what the Perceiver says of the places of its bytes.
        features: of its bytes, and of the step before in the places yet to come.
        inputs, outputs: as in `ByteState`, after the bytes so far.
    """

    readout: Float[Array, "bytes_per_step local_dim"]
    features: Float[Array, "bytes_per_step local_dim"]
    inputs: ByteInputState
    outputs: LocalState


@eqx.filter_jit
def ready(model: ByteLM) -> ByteLM:
    """The same model for many bytes, one by one, each of which would convert all of its
    matrices to the dtype that it computes in."""
    return matrices_in(model.dtype, model)


def begin_step(model: ByteLM, state: ByteState) -> tuple[ByteState, OpenStep]:
    """Begin the step after a state. If that has bytes of an unfinished step, they are
    the first to be put.

    Returns:
        the state to end the step with, and the step.
    """
    tokens = model.inputs.tokens(state.features[None])
    perceiver, readout = model.perceiver.advance(state.perceiver, tokens)
    after = eqx.tree_at(lambda s: s.perceiver, state, perceiver)
    return after, OpenStep(readout[0], state.features, state.inputs, state.outputs)


def predict(
    model: ByteLM, step: OpenStep, position: Int[Array, ""]
) -> tuple[OpenStep, Float[Array, " 256"]]:
    """The logits of the byte at the next position, counted from 0, and the step that
    this byte is to be put into."""
    # At position 0, the last one is of the step before.
    before = step.features[position - 1]
    logits, outputs = model.outputs.next_byte(
        step.readout[position], before, step.outputs
    )
    return eqx.tree_at(lambda s: s.outputs, step, outputs), logits


def put(
    model: ByteLM, step: OpenStep, position: Int[Array, ""], byte: Int[Array, ""]
) -> OpenStep:
    """The step with a byte at its next position."""
    features, inputs = model.inputs.next_byte(byte, position, step.inputs, model.dtype)
    features = step.features.at[position].set(features)
    return eqx.tree_at(lambda s: (s.features, s.inputs), step, (features, inputs))


def end_step(state: ByteState, step: OpenStep) -> ByteState:
    """The state after a step of which all bytes were put."""
    return ByteState(
        state.perceiver,
        step.inputs,
        step.outputs,
        step.features,
        unfinished=jnp.full_like(state.unfinished, -1),
        contexts=state.contexts,
        context_bytes=state.context_bytes,
    )
