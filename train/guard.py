"""Which optimizer steps are taken: not those whose loss or gradient is not finite, and,
if asked, not those whose gradient is far larger than it used to be."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree


# A spike is told by the mean of the gradient norms before it, of about so many steps,
# and by none before so many were taken.
MEAN_STEPS = 100


class Guard(eqx.Module):
    """What is known of the steps so far.

    Attributes:
        taken, skipped: how many were, and were not.
        in_a_row: how many of the last ones were not.
        mean_norm: of the gradients of those that were, of which the last count most.
    """

    taken: Int[Array, ""]
    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    mean_norm: Float[Array, ""]

    @classmethod
    def new(cls) -> "Guard":
        """Before the first step."""
        # Arrays of their own, or a state could not be donated.
        none, zero = partial(jnp.zeros, (), jnp.int32), jnp.zeros(())
        return cls(none(), none(), none(), zero)

    def judge(
        self,
        loss: Float[Array, ""],
        norm: Float[Array, ""],
        spike_factor: float | None = None,
    ) -> tuple[Bool[Array, ""], "Guard"]:
        """Whether to take a step, and what is known after it.

        Args:
            loss, norm: of the batch and of its whole gradient. A norm that overflows is
                not finite either.
            spike_factor: skip steps whose norm is more than so many times the mean;
                `None` for none.
        """
        takes = jnp.isfinite(loss) & jnp.isfinite(norm)
        if spike_factor is not None:
            early = self.taken < MEAN_STEPS
            takes &= early | (norm <= spike_factor * self.mean_norm)
        # The plain mean of the first ones, then one that forgets.
        share = 1 / jnp.minimum(self.taken + 1, MEAN_STEPS)
        mean = self.mean_norm + share * (norm - self.mean_norm)
        after = Guard(
            self.taken + takes,
            self.skipped + ~takes,
            jnp.where(takes, 0, self.in_a_row + 1),
            jnp.where(takes, mean, self.mean_norm),
        )
        return takes, after


def kept_unless(takes: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """The new arrays if a step is taken, else the old ones."""
    return jax.tree.map(lambda new, old: lax.select(takes, new, old), new, old)
