"""What is kept of the past: the state that `advance` carries from step to step."""

from dataclasses import replace
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from .attention.masks import StepMask
from .attention.softmax import SoftmaxAverage
from .context import Context
from .summary import Told


class KeyValueCache(eqx.Module):
    """A ring of keys and values of past steps.

    A new step is put over the oldest. There is room for the past steps that a finite
    window reaches, or else for every step up to a declared maximum.

    Attributes:
        keys, values: by head first, as attention reads them.
        end: the place after the newest step, where the next one goes.
    """

    keys: Float[Array, "*layers heads capacity rows head_dim"]
    values: Float[Array, "*layers heads capacity rows v_dim"]
    end: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """For how many steps there is room."""
        return self.keys.shape[-3]

    def of_layer(self, layer: Int[Array, ""] | int) -> "KeyValueCache":
        """The cache of one layer, of a stack of them."""
        return replace(self, keys=self.keys[layer], values=self.values[layer])

    def held(self, past_steps: Int[Array, ""] | int) -> Bool[Array, "1 kv_len"]:
        """Which of the keys, as they lie, are of one of the steps so far."""
        capacity, rows = self.keys.shape[-3:-1]
        age = 1 + (self.end - 1 - jnp.arange(capacity)) % capacity
        return jnp.repeat(age <= past_steps, rows)[None]

    def visible(
        self,
        keys: Float[Array, "steps rows heads head_dim"],
        values: Float[Array, "steps rows heads v_dim"],
        past_steps: Int[Array, ""] | int,
        window: int | None,
    ) -> tuple[
        Float[Array, "kv_len heads head_dim"],
        Float[Array, "kv_len heads v_dim"],
        StepMask,
    ]:
        """The keys and values that new steps attend, past ones first, and the mask.

        Args:
            keys, values: of the new steps, in order.
            past_steps: how many steps came before them; if it is the number 0, what
                is kept is not looked at.
            window: how many steps a step sees, its own included; `None` for all.
        """
        steps, rows = keys.shape[:2]
        if _is_none(past_steps):
            keys, values = (by_row(self._by_head(x)) for x in (keys, values))
            return keys, values, StepMask(steps, steps, rows, rows, window)
        held = jnp.minimum(past_steps, self.capacity) if self.capacity else 0

        def in_order(past, new):
            if self.capacity:
                past = jnp.roll(past, held - self.end, 1)
            past = jnp.pad(past, [(0, 0), (0, steps), (0, 0), (0, 0)])
            past = lax.dynamic_update_slice_in_dim(past, self._by_head(new), held, 1)
            return by_row(past)

        mask = StepMask(steps, self.capacity + steps, rows, rows, window, held)
        return in_order(self.keys, keys), in_order(self.values, values), mask

    def newest(
        self, x: Float[Array, "steps rows heads head_dim"]
    ) -> Float[Array, "heads kept rows head_dim"]:
        """Of new steps' keys or values, those that there is room for."""
        return self._by_head(x[max(x.shape[0] - self.capacity, 0) :])

    def extend(
        self,
        keys: Float[Array, "*layers heads kept rows head_dim"],
        values: Float[Array, "*layers heads kept rows v_dim"],
    ) -> "KeyValueCache":
        """The cache with the `newest` of new steps put in, given in order."""
        kept = keys.shape[-3]
        if kept == self.capacity:
            return replace(self, keys=keys, values=values, end=jnp.zeros_like(self.end))
        places = (self.end + jnp.arange(kept)) % self.capacity

        def put(past, new):
            return past.at[..., places, :, :].set(
                new, mode="promise_in_bounds", unique_indices=True
            )

        return replace(
            self,
            keys=put(self.keys, keys),
            values=put(self.values, values),
            end=(self.end + kept) % self.capacity,
        )

    def _by_head(self, x: Float[Array, "steps rows heads head_dim"]) -> Array:
        return rearrange(x, "t c h d -> h t c d").astype(self.keys.dtype)


class LayerCache(eqx.Module):
    """What a self-attention layer, or a stack of them, keeps of past steps.

    Attributes:
        attention: keys and values.
        before: the last rows that went into its causal convolution, if it has one;
            zeros where there were none.
    """

    attention: KeyValueCache
    before: Float[Array, "*layers past rows dim"] | None

    def of_layer(self, layer: Int[Array, ""] | int) -> "LayerCache":
        """The cache of one layer, of a stack of them."""
        before = None if self.before is None else self.before[layer]
        return LayerCache(self.attention.of_layer(layer), before)

    def rows_before(
        self, past_steps: Int[Array, ""] | int
    ) -> Float[Array, "past rows dim"]:
        """What a convolution over new steps sees before them; if `past_steps` is the
        number 0, what is kept is not looked at."""
        assert self.before is not None, "a cache of layers without a convolution"
        return jnp.zeros_like(self.before) if _is_none(past_steps) else self.before

    def extend(self, keys: Array, values: Array, before: Array | None) -> "LayerCache":
        """The cache with the `newest` keys and values of new steps put in, and with
        the last rows of these in the place of those before."""
        return LayerCache(self.attention.extend(keys, values), before)


def _is_none(past_steps: Int[Array, ""] | int) -> bool:
    """Whether it is known, when compiling, that there are no steps before."""
    return isinstance(past_steps, int) and past_steps == 0


def by_row(
    x: Float[Array, "heads steps rows head_dim"],
) -> Float[Array, "kv_len heads head_dim"]:
    """Keys or values of a cache, as `attend` takes them."""
    return rearrange(x, "h t c d -> (t c) h d")


def empty_cache(
    capacity: int,
    rows: int,
    num_heads: int,
    head_dim: int,
    layers: tuple[int, ...] = (),
    dtype: DTypeLike = jnp.float32,
    v_dim: int | None = None,
) -> KeyValueCache:
    """A cache that holds nothing yet, of `capacity` steps of `rows` keys each. A head's
    values have as many channels as its keys if `v_dim` is `None`."""
    shape = *layers, num_heads, capacity, rows
    # Two arrays, or a state could not be donated.
    keys = jnp.zeros((*shape, head_dim), dtype)
    values = jnp.zeros((*shape, head_dim if v_dim is None else v_dim), dtype)
    return KeyValueCache(keys, values, jnp.zeros((), jnp.int32))


# Of a stack of layers: one for each of the windows that they take in turn.
Caches = tuple[LayerCache, ...]


class State(Told):
    """What a model carries from step to step."""

    counted: ClassVar[str] = "numbers"

    def num_bytes(self) -> int:
        """Bytes of memory of all arrays: constant, however long the stream. Of a state
        in shape only, as `jax.eval_shape` gives it, what it would take."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


AnyState = TypeVar("AnyState", bound=State)


def as_arrays(state: AnyState) -> AnyState:
    """The state with arrays for all that was known as a number, which would be compiled
    into whatever takes it."""
    return jax.tree.map(jnp.asarray, state)


class PerceiverState(State):
    """All that a `CausalPerceiver` keeps of the steps it has seen.

    Attributes:
        steps: how many steps were seen; from 3 * 2^29 on, less by a multiple of 2^30,
            after which rotary positions are the same (not in float64).
        context: what is known of the context, nothing without one.
        prefix: what the latents have seen of the inputs, one average per latent and
            head whatever the length.
        caches: each layer's keys and values of past latents.
    """

    steps: Int[Array, ""]
    context: Context
    prefix: SoftmaxAverage
    caches: Caches
