"""A grid at every step, such as the frames of a video."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..checks import check_shape, check_sizes
from .grid import GridInput
from .values import as_values, check_bits


class FrameInput(eqx.Module):
    """Grids of one size, each by itself as a `GridInput` reads it: every token stands
    beside its position."""

    grid: GridInput
    shape: tuple[int, ...] = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    tokens_per_step: int = eqx.field(static=True)

    def __init__(self, grid: GridInput, shape: Sequence[int], *, bits: int = 8):
        """
        Args:
            grid: reads one.
            shape: of a grid, without its channels.
            bits: those of the levels, if values come as such; 1 for booleans.

        Raises:
            ValueError: for sizes below 1, more than 16 bits, or a shape that `grid`
            does not take.
        """
        self.grid, self.shape = grid, (*shape, grid.channels)
        check_sizes(**{f"shape[{axis}]": size for axis, size in enumerate(shape)})
        check_bits(bits)
        self.bits = bits
        one = jax.ShapeDtypeStruct(self.shape, jnp.float32)
        self.tokens_per_step = eqx.filter_eval_shape(grid, one).shape[0]

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.grid.dim

    def __call__(
        self, inputs: Shaped[Array, "steps *shape"], /
    ) -> Float[Array, "steps {self.tokens_per_step} {self.dim}"]:
        """
        Args:
            inputs: floating-point values, or levels, which become numbers from -1 to 1;
                channels last.

        Raises:
            ValueError: for another shape, or booleans where `bits` is not 1.
        """
        *axes, channels = self.shape
        sizes = {f"axis_{axis}": size for axis, size in enumerate(axes)}
        names = " ".join(["steps", *sizes, "channels"])
        check_shape("inputs", inputs, names, **sizes, channels=channels)
        return jax.vmap(self.grid)(as_values(inputs, self.bits))
