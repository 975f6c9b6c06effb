"""How the kernels of `prefix_attend` cut the steps, and what they read and write."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


LOG2_E = math.log2(math.e)  # scores are to base 2 inside the kernels, for speed


class Tiling(NamedTuple):
    """How a kernel goes over its segment.

    Attributes:
        steps: steps of a tile, a power of two.
        tokens: tokens that are loaded at once, a power of two, at least 16: all of a
            tile or, if it is one step, a part.
        num_warps, num_stages: options of Triton.
    """

    steps: int
    tokens: int
    num_warps: int = 4
    num_stages: int = 2


class Sizes(NamedTuple):
    """Sizes that the kernels are made for; `segment` is the steps of one."""

    latents: int
    heads: int
    width: int
    steps: int
    tokens: int
    segment: int

    @classmethod
    def of(cls, query: Array, key: Array, segment: int) -> "Sizes":
        latents, heads, width = query.shape
        steps, tokens = key.shape[:2]
        return cls(latents, heads, width, steps, tokens, segment)

    @property
    def segments(self) -> int:
        return -(-self.steps // self.segment)

    def bounds(self, tiling: Tiling) -> np.ndarray:
        """The first step of each segment, and the end of the last tile."""
        starts = self.segment * np.arange(self.segments)
        return np.append(starts, -(-self.steps // tiling.steps) * tiling.steps)

    def per_row(self, dtype=None) -> jax.ShapeDtypeStruct:
        """An output for each row: a number, or a vector of a dtype."""
        rows = self.steps * self.latents
        if dtype is None:
            return jax.ShapeDtypeStruct((self.heads, rows), jnp.float32)
        return jax.ShapeDtypeStruct((rows, self.heads, self.width), dtype)

    def per_latent(self, of_each: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Outputs for each segment, head and latent: numbers, and vectors."""
        rows = self.segments * self.heads * of_each * self.latents
        return (
            jax.ShapeDtypeStruct((rows,), jnp.float32),
            jax.ShapeDtypeStruct((rows, self.width), jnp.float32),
        )

    def split(self, tree):
        """Outputs `per_latent` as arrays (segments, heads, latents, ...)."""
        shape = self.segments, self.heads, -1
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)


def flat(tree):
    """Arrays (segments, heads, latents, ...) as the kernels read them."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), tree)


class Inputs(NamedTuple):
    """What all kernels read: of the latents of each head, and of tokens."""

    query: Any
    rate: Any
    context: Any
    key: Any
    value: Any
    mask: Any

    @classmethod
    def of(cls, query, key, value, rate, context, mask) -> "Inputs":
        if context is not None:
            context = LOG2_E * context.lse, context.value
        of_latents = jax.tree.map(
            lambda x: x.swapaxes(0, 1)[None], (query, LOG2_E * rate, context)
        )
        tokens = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (key, value, mask))
        return cls(*flat(of_latents), *tokens)


class Sum(NamedTuple):
    """Values summed by `exp(score - top)`, and the total of these weights."""

    top: Any
    total: Any
    value: Any


class Pull(NamedTuple):
    """Cotangents of rows, summed by their weights: where these rows see a token with
    weight `w`, its value's gradient is `w * value`, and its score's
    `w * (value @ token - shift)`."""

    value: Any
    shift: Any
