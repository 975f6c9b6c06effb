"""Attention of all rows of a device to those tokens of one part of a ring that are
there, by the portable engine or by a fused kernel."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from .masks import StepMask, first_keys
from .parts import FirstColumns, RowKernel
from .ring_parts import Fused, Part, Tiled
from .softmax import SoftmaxAverage


@dataclass(frozen=True)
class TiledTokens(Tiled):
    """By the portable engine."""

    def mask(self, query, part: Part, later) -> StepMask:
        del later  # all see all
        return first_keys(query.shape[0], part.key.shape[0], _there(part))


@dataclass(frozen=True)
class FusedTokens(Fused):
    """By a kernel for rows."""

    kernel: RowKernel

    def average(self, query, part: Part, later):
        del later  # all see all
        seen, some = self._seen(part)
        out, lse = self.kernel.forward(query, part.key, part.value, seen)
        lse = jnp.where(some, lse.T, -jnp.inf)
        return SoftmaxAverage(lse, jnp.where(some, out, 0).astype(lse.dtype))

    def gradients(self, query, part: Part, kept, d_out, later):
        del later
        (out, lse), (seen, some) = kept, self._seen(part)
        # Where no part has any token, the log-sum-exp is of none.
        lse = jnp.where(jnp.isneginf(lse), 0, lse)
        rows = query, part.key, part.value, out, lse.T, d_out
        d_query, d_key, d_value = (
            jnp.where(some, x, 0).astype(lse.dtype)
            for x in self.kernel.backward(*rows, seen)
        )
        return d_query, d_key, d_value

    def _seen(self, part: Part):
        """The columns to ask a kernel for, and whether there are any."""
        there = _there(part)
        return FirstColumns(jnp.maximum(there, 1)), there > 0


def _there(part: Part) -> Int[Array, ""]:
    assert part.there is not None, "a part that does not tell how many tokens it has"
    return part.there
