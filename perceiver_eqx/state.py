"""What is kept of the past: the state that `advance` carries from step to step."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

from .attention.masks import StepMask
from .attention.softmax import SoftmaxAverage


class Visible(eqx.Module):
    """The keys and values that a chunk of steps attends, past ones first."""

    keys: Float[Array, "key_steps rows heads head_dim"]
    values: Float[Array, "key_steps rows heads head_dim"]
    mask: StepMask

    @property
    def key_positions(self) -> Int[Array, " kv_len"]:
        steps = jnp.arange(self.mask.key_steps)
        return jnp.repeat(steps, self.mask.keys_per_step)

    @property
    def query_positions(self) -> Int[Array, " q_len"]:
        steps = jnp.arange(self.mask.query_steps) + self.mask.query_start
        return jnp.repeat(steps, self.mask.queries_per_step)


class KeyValueCache(eqx.Module):
    """Keys and values of past steps, before any positions are applied.

    A rolling cache keeps the newest steps; that is all a finite window needs. One that
    does not roll has room for every step up to a declared maximum.
    """

    keys: Float[Array, "*layers capacity rows heads head_dim"]
    values: Float[Array, "*layers capacity rows heads head_dim"]
    rolling: bool = eqx.field(static=True)

    def extend(
        self, keys: Array, values: Array, past_steps: Int[Array, ""], window: int | None
    ) -> tuple[Visible, "KeyValueCache"]:
        """Add the keys and values of new steps.

        Args:
            keys, values: of the new steps, in order.
            past_steps: how many steps came before them.
            window: how many steps a step sees, its own included; `None` for all.

        Returns:
            what the new steps attend, and the cache after them.
        """
        capacity, (steps, rows) = self.keys.shape[0], keys.shape[:2]
        if self.rolling:
            all_keys = jnp.concatenate([self.keys, keys.astype(self.keys.dtype)])
            all_values = jnp.concatenate(
                [self.values, values.astype(self.values.dtype)]
            )
            cache = KeyValueCache(all_keys[steps:], all_values[steps:], rolling=True)
            query_start, key_start = capacity, jnp.maximum(capacity - past_steps, 0)
            if capacity == 0:
                key_start = 0
        else:
            start = (past_steps, 0, 0, 0)
            all_keys = lax.dynamic_update_slice(
                self.keys, keys.astype(self.keys.dtype), start
            )
            all_values = lax.dynamic_update_slice(
                self.values, values.astype(self.values.dtype), start
            )
            cache = KeyValueCache(all_keys, all_values, rolling=False)
            query_start, key_start = past_steps, 0
        mask = StepMask(
            steps, all_keys.shape[0], rows, rows, window, query_start, key_start
        )
        return Visible(all_keys, all_values, mask), cache


def empty_cache(
    capacity: int,
    rows: int,
    num_heads: int,
    head_dim: int,
    *,
    rolling: bool,
    layers: tuple[int, ...] = (),
    dtype: DTypeLike = jnp.float32,
) -> KeyValueCache:
    """A cache that holds nothing yet, of `capacity` steps of `rows` keys each."""
    zeros = jnp.zeros((*layers, capacity, rows, num_heads, head_dim), dtype)
    return KeyValueCache(zeros, zeros, rolling)


class PerceiverState(eqx.Module):
    """All that a `CausalPerceiver` keeps of the steps it has seen.

    Attributes:
        steps: how many steps were seen, up to 2^31 - 1.
        context: what the latents see of the context, empty without one.
        prefix: what the latents have seen of the inputs, one average per latent and
            head whatever the length.
        cache: each layer's keys and values of past latents.
    """

    steps: Int[Array, ""]
    context: SoftmaxAverage
    prefix: SoftmaxAverage
    cache: KeyValueCache
