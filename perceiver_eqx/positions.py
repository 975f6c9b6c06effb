"""Positions: Fourier features, learned tables, rotary embeddings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .draws import normal


# So many steps are whole turns for every channel of `rotary`, float64 apart.
ROTARY_PERIOD = 2**30


def count_on(count: Int[Array, ""], more: int) -> Int[Array, ""]:
    """A count of steps, or of bytes, after so many more. It goes back before it
    overflows, by a whole `ROTARY_PERIOD`, to where positions are the same."""
    count = count + more
    return count - jnp.where(count < 3 * ROTARY_PERIOD // 2, 0, ROTARY_PERIOD)


def fourier_features(
    positions: Float[Array, "n axes"],
    num_bands: int,
    max_resolution: tuple[int, ...],
) -> Float[Array, "n channels"]:
    """Positions in a grid as the Perceiver encodes them.

    Args:
        positions: coordinates in [-1, 1], one column per axis.
        num_bands: frequencies per axis, at least 1, linear from 1 to the Nyquist one.
        max_resolution: size of the grid along each axis.

    Returns:
        the coordinates, then sines, then cosines: `axes * (2 num_bands + 1)`
        channels.

    Raises:
        ValueError: if `max_resolution` does not name one size per axis.

    Source:
        Jaegle et al., "Perceiver" (2021), §3.2.
    """
    axes = positions.shape[-1]
    if len(max_resolution) != axes:
        raise ValueError(
            f"`max_resolution` must hold one size per axis ({axes}), got "
            f"{max_resolution}."
        )
    dtype = np.dtype(positions.dtype)
    # Rounded once: at thousands of periods, another order of rounding shows.
    frequencies = np.stack(
        [np.linspace(1, size / 2, num_bands) for size in max_resolution]
    )
    angles = jnp.pi * (positions[..., None] * frequencies.astype(dtype))
    angles = angles.reshape(positions.shape[0], -1)
    return jnp.concatenate([positions, jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sinusoids(
    positions: Int[Array, " n"], dim: int, max_wavelength: float = 1e6
) -> Float[Array, "n dim"]:
    """Absolute positions of a sequence without a declared length.

    Args:
        positions: counts, from anywhere. All are as exact as the first ones, as in
            `rotary`.
        dim: channels, even; wavelengths run geometrically from 2 pi upwards.
        max_wavelength: the longest wavelength over 2 pi, in positions.

    Raises:
        ValueError: if `dim` is odd.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), §3.5.
    """
    if dim % 2:
        raise ValueError(f"`dim` must be even, got {dim}.")
    exponent = np.arange(dim // 2) / max(dim // 2 - 1, 1)
    dtype = jnp.result_type(float)
    angles = _angles(positions, max_wavelength**-exponent, dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class LearnedPositions(eqx.Module):
    """A learned vector for each of a fixed number of positions."""

    table: Float[Array, "positions dim"]

    def __init__(self, num_positions: int, dim: int, *, key: PRNGKeyArray):
        """
        Args:
            num_positions, dim: size of the table.
        """
        self.table = normal(key, (num_positions, dim), 0.02)

    def __call__(self, x: Float[Array, "*batch positions dim"]) -> Array:
        """`x` with the positions added, in the dtype of `x`."""
        return x + self.table.astype(x.dtype)


@jax.named_scope("pqx.rotary")
def rotary(
    x: Float[Array, "n *rest head_dim"],
    positions: Int[Array, " n"],
    base: float = 10_000.0,
    dims: int | None = None,
) -> Float[Array, "n *rest head_dim"]:
    """Rotate queries or keys, so that their dot products depend on distance alone.

    Channel `i` of the first half turns with channel `i` of the second half, of as many
    of the first channels as are to turn. Angles are whole
    numbers of very small parts of a turn, which integers count round and round: so all
    positions are as exact as the first ones, and `ROTARY_PERIOD` steps turn nothing
    (2^62 steps in float64).

    Args:
        positions: counts of steps.
        base: ratio of the longest to the shortest wavelength.
        dims: how many of the channels turn, the first ones; `None` for all, 0 for none.

    Raises:
        ValueError: if an odd number of channels is to turn, or more than there are.

    Source:
        Su et al., "RoFormer" (2021), §3.4; halves as in GPT-NeoX.
    """
    dims = x.shape[-1] if dims is None else dims
    half, odd = divmod(dims, 2)
    if odd or not 0 <= dims <= x.shape[-1]:
        raise ValueError(
            f"rotary positions need an even `head_dim`, got {dims} of {x.shape[-1]} "
            "channels of a head to turn; choose `latent_dim` a multiple of twice "
            "`num_heads`, or `rotary_dims` even and no more than there are."
        )
    if dims == 0:
        return x
    dtype = jnp.result_type(jnp.float32, x.dtype)
    radians = float(base) ** (-np.arange(half) / half)
    angles = _angles(positions, radians, dtype)
    angles = angles.reshape(angles.shape[0], *[1] * (x.ndim - 2), half)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = x[..., :half].astype(dtype), x[..., half:dims].astype(dtype)
    turned = [first * cos - second * sin, second * cos + first * sin]
    parts = [*(part.astype(x.dtype) for part in turned), x[..., dims:]]
    return jnp.concatenate(parts, axis=-1)


def _angles(
    positions: Int[Array, " n"], radians: Float[np.ndarray, " half"], dtype
) -> Float[Array, "n half"]:
    """Positions times radians, less by whole turns."""
    bits = 64 if dtype == jnp.float64 else 32
    # As many times 4 as there are positions to a period, to the turn of an integer.
    steps = (
        np.round(radians / (2 * np.pi) * 2.0 ** (bits - 2)).astype(f"uint{bits}") * 4
    )
    counted = positions.astype(steps.dtype)[:, None] * steps
    signed = lax.bitcast_convert_type(counted, f"int{bits}")
    return signed.astype(dtype) * dtype.type(2 * np.pi / 2.0**bits)
