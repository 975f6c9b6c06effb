"""Numbers, such as samples of sound and pixels: in as they are, out as a distribution
over the levels that a few bits tell apart."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, Shaped

from ..checks import check_integers, check_multiples, check_shape, check_sizes


MOST_BITS = 16

# The least scale of a logistic distribution, in levels: one level has nearly all of it.
NARROWEST = 1 / 16


def to_values(
    levels: Integer[Array, "*shape"] | Bool[Array, "*shape"], bits: int
) -> Float[Array, "*shape"]:
    """Levels, from 0 to `2**bits - 1`, as numbers from -1 to 1."""
    check_bits(bits)
    return levels.astype(jnp.float32) * (2 / (2**bits - 1)) - 1


def to_levels(values: Float[Array, "*shape"], bits: int) -> Int[Array, "*shape"]:
    """The levels next to numbers, of which those past -1 and 1 are the outermost."""
    check_bits(bits)
    top = 2**bits - 1
    return jnp.clip(jnp.round((values + 1) * (top / 2)), 0, top).astype(jnp.int32)


def as_values(numbers: Shaped[Array, "*shape"], bits: int) -> Float[Array, "*shape"]:
    """Floating-point numbers as they are, others as the levels that they are.

    Raises:
        ValueError: for booleans as levels of more than 1 bit.
    """
    if jnp.issubdtype(numbers.dtype, jnp.floating):
        return numbers
    if numbers.dtype == bool and bits > 1:
        raise ValueError(
            f"booleans are levels of 1 bit, not of `bits` = {bits}; build the adapter "
            "with `bits=1`."
        )
    return to_values(numbers, bits)


def check_bits(bits: int) -> None:
    """Refuse levels of no bit, or of more than float32 tells apart well.

    Raises:
        ValueError: for these.
    """
    check_sizes(bits=bits)
    if bits > MOST_BITS:
        raise ValueError(
            f"`bits` must be at most {MOST_BITS}, got {bits}; scale the numbers to "
            "[-1, 1], and round them by `to_levels`."
        )


class ValueInput(eqx.Module):
    """Numbers, of which so many in a row make a token: samples of sound, pixels of a
    row or a patch, switches."""

    shape: tuple[int, ...] = eqx.field(static=True)
    tokens_per_step: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)

    def __init__(
        self, shape: int | Sequence[int], *, tokens_per_step: int = 1, bits: int = 8
    ):
        """
        Args:
            shape: of the numbers of a step, or how many there are.
            tokens_per_step: a divisor of how many there are.
            bits: those of the levels, if numbers come as such; 1 for booleans.

        Raises:
            ValueError: for sizes below 1, more than 16 bits, or a number of tokens that
            is no divisor.
        """
        self.shape = _checked_shape(shape)
        size = math.prod(self.shape)
        check_sizes(tokens_per_step=tokens_per_step)
        check_multiples("`tokens_per_step`", tokens_per_step, shape=size)
        check_bits(bits)
        self.tokens_per_step, self.bits = tokens_per_step, bits

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return math.prod(self.shape) // self.tokens_per_step

    def __call__(
        self, inputs: Shaped[Array, "steps *shape"], /
    ) -> Float[Array, "steps {self.tokens_per_step} {self.dim}"]:
        """
        Args:
            inputs: floating-point numbers, which are best of about the size of 1; or
                levels, which become numbers from -1 to 1.

        Raises:
            ValueError: for another shape, or booleans where `bits` is not 1.
        """
        _check_steps("inputs", inputs, self.shape)
        values = as_values(inputs, self.bits)
        return values.reshape(-1, self.tokens_per_step, self.dim)


class LogisticMixtures(eqx.Module):
    """Mixtures of logistic distributions, one for each value.

    Attributes:
        logits: of the weights of a mixture's components.
        means, log_scales: of the components, in levels.
    """

    logits: Float[Array, "steps values components"]
    means: Float[Array, "steps values components"]
    log_scales: Float[Array, "steps values components"]


class ValueOutput(eqx.Module):
    """Numbers as levels, each predicted by itself given the steps before, by a mixture
    of logistic distributions whose tails belong to the outermost levels.

    Source:
        Salimans et al., "PixelCNN++" (2017), §2.1; van den Oord et al., "Parallel
        WaveNet" (2018), §2.1, for samples of 16 bits.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    outputs_per_step: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    num_components: int = eqx.field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        outputs_per_step: int = 1,
        bits: int = 8,
        num_components: int = 5,
    ):
        """
        Args:
            shape: of the numbers of a step, or how many there are.
            outputs_per_step: places that they are read from, in a row as many from
                each; a divisor of how many there are.
            bits: those of the levels, at most 16.
            num_components: logistic distributions in a mixture.

        Raises:
            ValueError: for sizes below 1, more than 16 bits, or a number of places that
            is no divisor.
        """
        self.shape = _checked_shape(shape)
        size = math.prod(self.shape)
        check_sizes(outputs_per_step=outputs_per_step, num_components=num_components)
        check_multiples("`outputs_per_step`", outputs_per_step, shape=size)
        check_bits(bits)
        self.outputs_per_step, self.bits = outputs_per_step, bits
        self.num_components = num_components

    @property
    def dim(self) -> int:
        """Channels that are read of a place."""
        return 3 * self.num_components * math.prod(self.shape) // self.outputs_per_step

    @property
    def top(self) -> int:
        """The highest level."""
        return 2**self.bits - 1

    def __call__(
        self, readout: Float[Array, "steps {self.outputs_per_step} {self.dim}"], /
    ) -> LogisticMixtures:
        """The mixtures. Of a readout of zeros, their components lie beside each other
        and cover all levels."""
        count, half = self.num_components, self.top / 2
        logits, means, scales = rearrange(
            readout, "t o (v parts m) -> parts t (o v) m", parts=3, m=count
        )
        centres = (2 * np.arange(count) + 1) / count
        means = half * (means + jnp.asarray(centres, means.dtype))
        least = math.log(NARROWEST)
        above = jax.nn.softplus(scales + math.log(half / (2 * count)) - least)
        return LogisticMixtures(logits, means, least + above)

    def log_prob(
        self,
        prediction: LogisticMixtures,
        targets: Integer[Array, "steps *shape"],
        /,
    ) -> Float[Array, " steps"]:
        """
        Args:
            targets: levels, taken to lie in 0 to `2**bits - 1`, and not checked.

        Raises:
            ValueError: for another shape.
            TypeError: for targets that are not integers.
        """
        _check_steps("targets", targets, self.shape)
        check_integers("targets", targets)
        means, log_scales = prediction.means, prediction.log_scales
        levels = targets.reshape(*means.shape[:2], 1).astype(means.dtype)
        # With F the logistic function, the share of a level from a to b is
        # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)): no difference of what is nearly
        # equal. At the ends a or b is infinite, and two of the factors are 1.
        start, end = (
            (levels + side - means) * jnp.exp(-log_scales) for side in (-0.5, 0.5)
        )
        first, last = levels == 0, levels == self.top
        share = jnp.where(last, 0, jax.nn.log_sigmoid(end))
        share += jnp.where(first, 0, jax.nn.log_sigmoid(-start))
        share += jnp.where(first | last, 0, _log_less(-log_scales))
        weights = jax.nn.log_softmax(prediction.logits)
        return jax.nn.logsumexp(weights + share, -1).sum(-1)

    def sample(
        self, prediction: LogisticMixtures, key: PRNGKeyArray, /
    ) -> Int[Array, "steps *shape"]:
        """Levels drawn from the mixtures."""
        component_key, noise_key = jr.split(key)
        component = jr.categorical(component_key, prediction.logits)[..., None]
        mean, log_scale = (
            jnp.take_along_axis(x, component, -1)[..., 0]
            for x in (prediction.means, prediction.log_scales)
        )
        noise = jr.logistic(noise_key, mean.shape, mean.dtype)
        levels = jnp.round(mean + jnp.exp(log_scale) * noise)
        levels = jnp.clip(levels, 0, self.top).astype(jnp.int32)
        return levels.reshape(-1, *self.shape)


def _log_less(log_width: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(1 - exp(-width))`, for widths whose exponential is rounded to 1 too."""
    width = jnp.exp(log_width)
    small = width < 1e-3
    exact = jnp.log(-jnp.expm1(-jnp.where(small, 1.0, width)))
    return jnp.where(small, log_width - width / 2, exact)


def _checked_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    check_sizes(**{f"shape[{axis}]": size for axis, size in enumerate(sizes)})
    return sizes


def _check_steps(name: str, array: Array, shape: tuple[int, ...]) -> None:
    sizes = {f"axis_{axis}": size for axis, size in enumerate(shape)}
    check_shape(name, array, " ".join(["steps", *sizes]), **sizes)
