"""Several modalities at once: tokens of each, brought to one width and put in a row."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import check_sizes
from ..draws import normal, split_key


class Padding(eqx.Module):
    """Tokens of several modalities, in the order of their names, each filled up to one
    width with learned channels that tell the modality.

    Source:
        Jaegle et al., "Perceiver IO" (2021), §4.3.
    """

    channels: dict[str, Float[Array, " _more"]]
    dim: int = eqx.field(static=True)

    def __init__(
        self, dims: Mapping[str, int], *, min_padding: int = 2, key: PRNGKeyArray
    ):
        """
        Args:
            dims: channels of each modality's tokens.
            min_padding: learned channels of the widest of them, at least 1.
        """
        check_sizes(min_padding=min_padding, **dims)
        names = sorted(dims)
        self.dim = max(dims.values()) + min_padding
        self.channels = {
            name: normal(key, (self.dim - dims[name],), 0.02)
            for name, key in zip(names, split_key(key, len(names)), strict=True)
        }

    def __call__(
        self, tokens: Mapping[str, Float[Array, "_tokens _dim"]]
    ) -> dict[str, Float[Array, "_tokens dim"]]:
        """
        Raises:
            ValueError: for other modalities than there are.
        """
        if set(tokens) != set(self.channels):
            raise ValueError(
                f"the modalities must be {sorted(self.channels)}, got {sorted(tokens)}."
            )
        return {name: self._filled(name, tokens[name]) for name in sorted(tokens)}

    def _filled(self, name: str, tokens: Array) -> Array:
        channels = self.channels[name].astype(tokens.dtype)
        more = jnp.broadcast_to(channels, (tokens.shape[0], channels.size))
        return jnp.concatenate([tokens, more], axis=-1)


def in_a_row(tokens: Mapping[str, Array]) -> Float[Array, "tokens dim"]:
    """All tokens, one modality after the other, in the order of their names."""
    return jnp.concatenate([tokens[name] for name in sorted(tokens)])


def parted(x: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """The reverse of `in_a_row`: as many rows for each modality as it has tokens."""
    parts, start = {}, 0
    for name in sorted(sizes):
        parts[name] = x[start : start + sizes[name]]
        start += sizes[name]
    return parts
