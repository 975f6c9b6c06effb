"""Images, video, sound: values on a grid, each beside its position, as tokens."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from ..checks import check_multiples, check_shape, check_sizes
from ..draws import normal, split_key, truncated_normal
from ..layers import Linear
from ..positions import fourier_features


class FourierPositions(eqx.Module):
    """Fixed positions in a grid of any size, by Fourier features."""

    num_bands: int = eqx.field(static=True)
    max_resolution: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, num_bands: int, max_resolution: Sequence[int]):
        """
        Args:
            num_bands: frequencies per axis, at least 1.
            max_resolution: the grid's size along each axis that the highest frequency
                is made for.
        """
        sizes = {f"max_resolution[{i}]": size for i, size in enumerate(max_resolution)}
        check_sizes(num_bands=num_bands, **sizes)
        self.num_bands = num_bands
        self.max_resolution = tuple(max_resolution)

    @property
    def dim(self) -> int:
        """Channels of a position."""
        return len(self.max_resolution) * (2 * self.num_bands + 1)

    @property
    def axes(self) -> int:
        """Axes of the grid."""
        return len(self.max_resolution)

    def __call__(self, shape: Sequence[int]) -> Float[Array, "places dim"]:
        """The positions of all places of a grid, from edge to edge, the last axis
        first."""
        ranges = [np.linspace(-1, 1, size) for size in shape]
        places = np.stack(np.meshgrid(*ranges, indexing="ij"), -1)
        places = jnp.asarray(places.reshape(-1, len(shape)), jnp.float32)
        return fourier_features(places, self.num_bands, self.max_resolution)

    def at(
        self, places: Int[Array, " some"], shape: Sequence[int]
    ) -> Float[Array, "some dim"]:
        """The positions of some places, by their numbers in the flattened grid.

        They are spaced as DeepMind's code spaces the queries of a part of the outputs:
        from -1 on by 2 / size, so that they end short of 1.
        """
        indices = jnp.stack(jnp.unravel_index(places, tuple(shape)), -1)
        coordinates = -1 + 2 * indices / jnp.asarray(shape, jnp.float32)
        return fourier_features(coordinates, self.num_bands, self.max_resolution)


class LearnedGrid(eqx.Module):
    """Learned positions in a grid of one size, mapped to other channels if wanted."""

    table: Float[Array, "places table_dim"]
    output: Linear | None
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: Sequence[int],
        table_dim: int,
        dim: int | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """
        Args:
            shape: of the grid.
            table_dim: learned channels of a position.
            dim: channels that a linear map makes of them; `None` for no map.
        """
        table_key, output_key = split_key(key)
        self.table = normal(table_key, (int(np.prod(shape)), table_dim), 0.02)
        self.output = None if dim is None else Linear(table_dim, dim, key=output_key)
        self.shape = tuple(shape)

    @property
    def dim(self) -> int:
        """Channels of a position."""
        weight = self.table if self.output is None else self.output.weight
        return weight.shape[-1]

    @property
    def axes(self) -> int:
        """Axes of the grid."""
        return len(self.shape)

    def __call__(self, shape: Sequence[int]) -> Float[Array, "places dim"]:
        """The positions of all places.

        Raises:
            ValueError: for a grid of another size.
        """
        if tuple(shape) != self.shape:
            raise ValueError(
                f"learned positions are of a grid of {self.shape}, got {tuple(shape)}; "
                "resize the input, or take Fourier positions."
            )
        return self.table if self.output is None else self.output(self.table)


class ConvStem(eqx.Module):
    """A quarter of the height and width: a convolution of 7 x 7 by twos, a norm with
    fixed statistics, ReLU, and the maximum of 3 x 3 by twos.

    Source:
        Jaegle et al., "Perceiver" (2021), §4.1; the padding is that of its code.
    """

    weight: Float[Array, "7 7 in_dim out_dim"]
    scale: Float[Array, " out_dim"]
    bias: Float[Array, " out_dim"]
    mean: Float[Array, " out_dim"]
    variance: Float[Array, " out_dim"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, in_dim: int, out_dim: int, *, key: PRNGKeyArray):
        """
        Args:
            in_dim, out_dim: channels.
        """
        spread = (49 * in_dim) ** -0.5
        self.weight = truncated_normal(key, (7, 7, in_dim, out_dim), spread)
        self.scale, self.variance = jnp.ones(out_dim), jnp.ones(out_dim)
        self.bias, self.mean = jnp.zeros(out_dim), jnp.zeros(out_dim)
        self.epsilon = 1e-5

    def __call__(
        self, image: Float[Array, "height width in_dim"]
    ) -> Float[Array, "less_height less_width out_dim"]:
        x = lax.conv_general_dilated(
            image[None],
            self.weight.astype(image.dtype),
            window_strides=(2, 2),
            padding=[(3, 3), (3, 3)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        # Statistics are a part of the model here, and no state of training.
        mean, variance = lax.stop_gradient((self.mean, self.variance))
        x = (x - mean) * lax.rsqrt(variance + self.epsilon) * self.scale + self.bias
        return lax.reduce_window(
            jax.nn.relu(x), -jnp.inf, lax.max, (3, 3, 1), (2, 2, 1), "VALID"
        ).astype(image.dtype)


class GridInput(eqx.Module):
    """Values on a grid as tokens: blocks of the grid become channels, and are mapped to
    others if wanted; each stands beside its position."""

    features: Linear | ConvStem | None
    positions: FourierPositions | LearnedGrid
    block: tuple[int, ...] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        positions: FourierPositions | LearnedGrid,
        *,
        block: Sequence[int] = (),
        features: Linear | ConvStem | None = None,
    ):
        """
        Args:
            channels: of a value.
            positions: of the grid of blocks.
            block: the size of a block along each axis of the grid; none for single
                places.
            features: a map of a block's channels, or, for an image, a `ConvStem`.
        """
        self.features = features
        self.positions = positions
        self.block = tuple(block)
        self.channels = channels

    @property
    def dim(self) -> int:
        """Channels of a token."""
        if self.features is None:
            return self.channels * int(np.prod(self.block)) + self.positions.dim
        return self.features.weight.shape[-1] + self.positions.dim

    def __call__(
        self, grid: Shaped[Array, "*shape channels"]
    ) -> Float[Array, "tokens dim"]:
        """The tokens of the whole grid, the last axis first. Whole numbers are made
        floating-point.

        Raises:
            ValueError: for a grid of other axes or channels, or of no whole number of
                blocks.
        """
        axes = max(len(self.block), self.positions.axes)
        names = [f"axis_{axis}" for axis in range(axes)]
        check_shape(
            "grid", grid, " ".join([*names, "channels"]), channels=self.channels
        )
        if not jnp.issubdtype(grid.dtype, jnp.floating):
            grid = grid.astype(jnp.float32)
        x = _folded(grid, self.block) if self.block else grid
        if self.features is not None:
            x = self.features(x)
        # An axis that is a single block has no positions.
        shape = x.shape[axes - self.positions.axes : -1]
        positions = self.positions(shape).astype(x.dtype)
        return jnp.concatenate([x.reshape(-1, x.shape[-1]), positions], axis=-1)


def _folded(
    grid: Float[Array, "*shape channels"], block: tuple[int, ...]
) -> Float[Array, "*fewer more_channels"]:
    """Space to depth: each block's values one after the other in the channels."""
    for axis, size in enumerate(block):
        of = f"the block along axis {axis}"
        check_multiples(of, size, **{f"axis_{axis}": grid.shape[axis]})
    axes = range(len(block))
    whole = " ".join(f"(a{axis} b{axis})" for axis in axes)
    outer, inner = (" ".join(f"{x}{axis}" for axis in axes) for x in "ab")
    sizes = {f"b{axis}": size for axis, size in enumerate(block)}
    return rearrange(grid, f"{whole} c -> {outer} ({inner} c)", **sizes)


def neighbourhoods(
    image: Float[Array, "*frames height width channels"],
) -> Float[Array, "*frames height width nine_channels"]:
    """Each pixel's 3 x 3 neighbours as its channels, zeros past the edges: what optical
    flow is computed from.

    Source:
        Jaegle et al., "Perceiver IO" (2021), §4.2.
    """
    *frames, height, width, _ = image.shape
    edges = [(0, 0)] * len(frames) + [(1, 1), (1, 1), (0, 0)]
    padded = jnp.pad(image, edges)
    shifted = [
        padded[..., row : row + height, column : column + width, :]
        for row in range(3)
        for column in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)
