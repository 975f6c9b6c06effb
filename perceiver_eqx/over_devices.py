"""What self-attention and convolution see of the past where steps lie on many devices:
with a finite window, what the run before left behind; without one, all, by a ring."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .attention.attend import attend
from .attention.ring import ring_attend
from .conv import CausalConv
from .state import KeyValueCache
from .time_axis import TimeAxis, last_of


def conv_over(
    conv: CausalConv,
    x: Float[Array, "steps rows dim"],
    before: Float[Array, "past rows dim"],
    time: TimeAxis,
) -> tuple[Float[Array, "steps rows dim"], Float[Array, "past rows dim"]]:
    """`conv(x, before)`, where `before` is known to the first device alone."""
    runs = _in_runs(x, time)
    own = jax.vmap(lambda run: last_of(run, before.shape[0]))(runs)
    before_each, after = time.before_runs(own, before)
    return jax.vmap(conv)(runs, before_each)[0].reshape(x.shape), after


def attend_over(
    queries: Float[Array, "steps rows heads head_dim"],
    keys: Float[Array, "steps rows heads head_dim"],
    values: Float[Array, "steps rows heads v_dim"],
    past: KeyValueCache,
    past_steps: Int[Array, ""] | int,
    window: int | None,
    time: TimeAxis,
    *,
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "steps rows heads v_dim"], tuple[Array, Array]]:
    """Attention of the steps of this device to those of all that they see.

    Args:
        past: keys and values of `past_steps` steps before those of all devices, which
            the first device alone knows; without room for any, if these steps are a
            whole sequence, as they must be where `window` is `None`.
        dropout, rng: as of `attend`.

    Returns:
        the attended values; and the keys and values of the last steps of all devices,
        to `extend` the cache by.

    Raises:
        ValueError: for a window that reaches further back than a run; without a window,
            for steps in the past, or dropout.
    """
    steps = queries.shape[0]
    if window is None:
        if past.capacity or (dropout and rng is not None):
            raise ValueError(
                "without a `latent_window`, steps over devices are those of a whole "
                "sequence, and `attention_dropout` must be 0. Take a finite window."
            )
        out = ring_attend(queries, keys, values, time)
        return out, (past.newest(keys), past.newest(values))
    of_runs = tuple(_in_runs(x, time) for x in (queries, keys, values))

    def left_behind(run: Array) -> Array:
        return rearrange(last_of(run, window - 1), "t c h d -> h t c d")

    own = tuple(jax.vmap(left_behind)(x) for x in of_runs[1:])
    known = tuple(jnp.roll(x, -past.end, 1) for x in (past.keys, past.values))
    if past.capacity == 0:
        known = tuple(jnp.zeros_like(x[0]) for x in own)
    before, after = time.before_runs(own, known)
    if past.capacity == 0:
        after = past.newest(keys), past.newest(values)

    def attend_run(of_run: Any) -> Array:
        (query, key, value), before, past_steps, index = of_run
        cache = KeyValueCache(*before, end=jnp.zeros_like(past.end))
        out = attend(
            rearrange(query, "t c h d -> (t c) h d"),
            *cache.visible(key, value, past_steps, window),
            dropout=dropout,
            rng=None if rng is None else jax.random.fold_in(rng, index),
        )
        return rearrange(out, "(t c) h d -> t c h d", t=query.shape[0])

    each = of_runs, before, past_steps + time.firsts(steps), jnp.arange(time.runs)
    if time.runs == 1:
        out = attend_run(jax.tree.map(lambda x: x[0], each))
    else:
        out = lax.map(attend_run, each)
    return out.reshape(steps, *out.shape[-3:]), after


def _in_runs(x: Array, time: TimeAxis) -> Array:
    return x.reshape(time.runs, time.run_of(x.shape[0]), *x.shape[1:])
