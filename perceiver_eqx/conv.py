"""A short causal convolution over steps, channel by channel."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class CausalConv(eqx.Module):
    """Adds to each row a weighted sum, channel by channel, of itself and of the same
    row of the few steps before it; at first the identity.

    What stands right before is then known without attention having to find it.

    Source:
        So et al., "Primer" (2021), §3; Allen-Zhu, "Physics of Language Models: Part
        4.1" (2025), whose Canon layers stand where these do and are residual too.
    """

    taps: Float[Array, "kernel dim"]

    def __init__(self, kernel: int, dim: int):
        """
        Args:
            kernel: how many steps it sees, the own one included, at least 1.
            dim: channels.
        """
        self.taps = jnp.zeros((kernel, dim))

    @property
    def kernel(self) -> int:
        """How many steps it sees, its own included."""
        return self.taps.shape[-2]

    @jax.named_scope("pqx.conv")
    def __call__(
        self,
        x: Float[Array, "steps rows dim"],
        before: Float[Array, "past rows dim"],
    ) -> tuple[Float[Array, "steps rows dim"], Float[Array, "past rows dim"]]:
        """
        Args:
            x: what the next steps hold.
            before: what the last steps before them held, at most `kernel - 1` of them;
                zeros are as good as nothing.

        Returns:
            the new rows, and as many of the last ones that went in as there is room
            for in `before`.
        """
        kernel, (steps, past) = self.kernel, (x.shape[0], before.shape[0])
        known = jnp.concatenate([before.astype(x.dtype), x])
        wide = jnp.result_type(jnp.float32, x.dtype)
        padded = jnp.pad(known, [(kernel - 1 - past, 0), (0, 0), (0, 0)])
        mixed = x.astype(wide)
        for age, tap in enumerate(self.taps):
            start = kernel - 1 - age
            mixed = mixed + tap * padded[start : start + steps].astype(wide)
        return mixed.astype(x.dtype), known[steps:]
