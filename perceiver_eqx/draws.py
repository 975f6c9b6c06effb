"""The first values of parameters, and the keys that they are drawn by.

Numbers and keys are those of `jax.random`, by its default generator. But that is slow
to compile, and a model has dozens of shapes: compiled for each of them, a model of two
layers takes 20 seconds to begin. What is drawn depends on a number's place among all,
not on how many there are; so as many are drawn as a few sizes say, and the first of
them are taken.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


ROOM = 65_536  # of the least draw, in numbers; larger ones are powers of two
NUM_KEYS = 8


def normal(
    key: PRNGKeyArray, shape: tuple[int, ...], spread: float = 1.0
) -> Float[Array, "..."]:
    """`spread * jax.random.normal(key, shape)`."""
    size = math.prod(shape)
    return _first(_normal(key, _room(size)), spread, shape)


def truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], spread: float = 1.0
) -> Float[Array, "..."]:
    """`spread * jax.random.truncated_normal(key, -2, 2, shape)`."""
    size = math.prod(shape)
    return _first(_truncated_normal(key, _room(size)), spread, shape)


def split_key(key: PRNGKeyArray | None, num: int = 2) -> Sequence:
    """`list(jax.random.split(key, num))`; without a key, as many times `None`."""
    if key is None:
        return [None] * num
    keys = jr.split(key, max(num, NUM_KEYS))
    return [keys[place] for place in range(num)]


def _room(size: int) -> int:
    return max(ROOM, 1 << max(size - 1, 0).bit_length())


@partial(jax.jit, static_argnums=1)
def _normal(key, room):
    return jr.normal(key, (room,))


@partial(jax.jit, static_argnums=1)
def _truncated_normal(key, room):
    return jr.truncated_normal(key, -2, 2, (room,))


@partial(jax.jit, static_argnums=2)
def _first(numbers, spread, shape):
    return spread * numbers[: math.prod(shape)].reshape(shape)
