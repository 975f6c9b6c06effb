"""The state that `ByteLM.advance` carries from step to step."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..state import PerceiverState, State
from .bytes import ByteInputState
from .local import LocalState


class ByteState(State):
    """All that a `ByteLM` keeps of the bytes it has seen.

    It is a PyTree of arrays: saved, moved, stacked and kept aside like any other. From
    one state, any number of continuations.

    Attributes:
        perceiver: what the Perceiver keeps. It sees every step one step late.
        inputs, outputs: what is kept before and after it.
        features: of the bytes of the last finished step, which it is yet to see.
        unfinished: the bytes of the step after that, -1 for those yet to come; nothing
            else knows of them.
        contexts: what is kept of the context's last bytes, for those to come; `None`
            for a model without a context.
        context_bytes: how many bytes of the context were read.
    """

    perceiver: PerceiverState
    inputs: ByteInputState
    outputs: LocalState
    features: Float[Array, "bytes_per_step local_dim"]
    unfinished: Int[Array, " bytes_per_step"]
    contexts: ByteInputState | None
    context_bytes: Int[Array, ""] | int

    @property
    def inside(self) -> Int[Array, ""]:
        """How many bytes of the unfinished step there are."""
        return jnp.sum(self.unfinished >= 0)
