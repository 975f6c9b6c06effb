"""What is kept of the past: the state that `advance` carries from step to step."""

import equinox as eqx
import jax
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
    does not roll has room for every step up to a declared maximum. Steps lie in order,
    from the first place on; places after them are empty, and no step sees them.
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
            held = 0 if capacity == 0 else jnp.minimum(past_steps, capacity)
            first_kept = jnp.maximum(held + steps - capacity, 0)
        else:
            held, first_kept = past_steps, 0
        room = steps if self.rolling else 0

        def with_new(past, new):
            past = jnp.pad(past, [(0, room)] + [(0, 0)] * 3)
            return lax.dynamic_update_slice_in_dim(
                past, new.astype(past.dtype), held, 0
            )

        all_keys, all_values = with_new(self.keys, keys), with_new(self.values, values)
        kept = (
            lax.dynamic_slice_in_dim(x, first_kept, capacity, 0)
            for x in (all_keys, all_values)
        )
        mask = StepMask(steps, capacity + room, rows, rows, window, held)
        visible = Visible(all_keys, all_values, mask)
        return visible, KeyValueCache(*kept, rolling=self.rolling)


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


class State(eqx.Module):
    """What a model carries from step to step."""

    def num_bytes(self) -> int:
        """Bytes of memory of all arrays: constant, however long the stream."""
        return sum(x.nbytes for x in jax.tree.leaves(self))


class PerceiverState(State):
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
