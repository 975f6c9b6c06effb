"""Symbols and switches: one of many at a place, or on and off."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray

from ..checks import check_integers, check_shape, check_sizes
from ..layers import Embedding


class SymbolInput(eqx.Module):
    """Symbols, of which some arrive together; each has its place's own vectors."""

    embedding: Embedding
    num_symbols: int = eqx.field(static=True)
    symbols_per_step: int = eqx.field(static=True)

    def __init__(
        self,
        num_symbols: int,
        dim: int,
        *,
        symbols_per_step: int = 1,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_symbols: kinds of them, which are counted from 0.
            dim: channels of a token.
            symbols_per_step: symbols, and tokens, of a step.

        Raises:
            ValueError: for sizes below 1.
        """
        check_sizes(num_symbols=num_symbols, dim=dim, symbols_per_step=symbols_per_step)
        self.embedding = Embedding(symbols_per_step * num_symbols, dim, key=key)
        self.num_symbols, self.symbols_per_step = num_symbols, symbols_per_step

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        return self.symbols_per_step

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.embedding.table.shape[-1]

    def __call__(
        self, inputs: Integer[Array, "steps symbols"], /
    ) -> Float[Array, "steps symbols dim"]:
        """
        Args:
            inputs: values are taken to lie in 0 to `num_symbols - 1`, and not checked.

        Raises:
            ValueError: for another shape.
            TypeError: for symbols that are not integers.
        """
        _check_symbols("inputs", inputs, self.symbols_per_step)
        tables = self.num_symbols * jnp.arange(self.symbols_per_step)
        return self.embedding(inputs.astype(jnp.int32) + tables)


class SymbolOutput(eqx.Module):
    """Symbols, of which some are predicted together, each by itself given the steps
    before. The predictions are their logits."""

    num_symbols: int = eqx.field(static=True)
    symbols_per_step: int = eqx.field(static=True)

    def __init__(self, num_symbols: int, *, symbols_per_step: int = 1):
        """
        Args:
            num_symbols, symbols_per_step: as of `SymbolInput`.

        Raises:
            ValueError: for sizes below 1.
        """
        check_sizes(num_symbols=num_symbols, symbols_per_step=symbols_per_step)
        self.num_symbols, self.symbols_per_step = num_symbols, symbols_per_step

    @property
    def outputs_per_step(self) -> int:
        """Places of a step that are read."""
        return self.symbols_per_step

    @property
    def dim(self) -> int:
        """Channels that are read of a place."""
        return self.num_symbols

    def __call__(
        self, readout: Float[Array, "steps symbols num_symbols"], /
    ) -> Float[Array, "steps symbols num_symbols"]:
        """The logits of all symbols."""
        return readout

    def log_prob(
        self,
        prediction: Float[Array, "steps symbols num_symbols"],
        targets: Integer[Array, "steps symbols"],
        /,
    ) -> Float[Array, " steps"]:
        """
        Args:
            targets: values are taken to lie in 0 to `num_symbols - 1`, and not checked.

        Raises:
            ValueError: for another shape.
            TypeError: for symbols that are not integers.
        """
        _check_symbols("targets", targets, self.symbols_per_step)
        chosen = targets.astype(jnp.int32)[..., None]
        found = jax.nn.log_softmax(prediction)
        return jnp.take_along_axis(found, chosen, -1)[..., 0].sum(-1)

    def sample(
        self,
        prediction: Float[Array, "steps symbols num_symbols"],
        key: PRNGKeyArray,
        /,
    ) -> Int[Array, "steps symbols"]:
        """Symbols drawn by their logits."""
        return jr.categorical(key, prediction).astype(jnp.int32)


class SwitchOutput(eqx.Module):
    """Switches, on or off, such as the keys of a piano: each is predicted by itself
    given the steps before. The predictions are the logits of being on.

    In, they are the `ValueInput` of one bit.
    """

    num_switches: int = eqx.field(static=True)

    def __init__(self, num_switches: int):
        """
        Args:
            num_switches: of a step.

        Raises:
            ValueError: for none.
        """
        check_sizes(num_switches=num_switches)
        self.num_switches = num_switches

    @property
    def outputs_per_step(self) -> int:
        """Places of a step that are read."""
        return 1

    @property
    def dim(self) -> int:
        """Channels that are read of a place."""
        return self.num_switches

    def __call__(
        self, readout: Float[Array, "steps 1 switches"], /
    ) -> Float[Array, "steps switches"]:
        """The logits of being on."""
        return readout[:, 0]

    def log_prob(
        self,
        prediction: Float[Array, "steps switches"],
        targets: Bool[Array, "steps switches"],
        /,
    ) -> Float[Array, " steps"]:
        """
        Raises:
            ValueError: for another shape.
            TypeError: for targets that are not booleans.
        """
        check_shape("targets", targets, "steps switches", switches=self.num_switches)
        if targets.dtype != bool:
            raise TypeError(f"`targets` must be booleans, got {targets.dtype}.")
        return jax.nn.log_sigmoid(jnp.where(targets, prediction, -prediction)).sum(-1)

    def sample(
        self, prediction: Float[Array, "steps switches"], key: PRNGKeyArray, /
    ) -> Bool[Array, "steps switches"]:
        """Switches drawn by their logits."""
        return jr.bernoulli(key, jax.nn.sigmoid(prediction))


def _check_symbols(name: str, symbols: Array, per_step: int) -> None:
    check_shape(name, symbols, "steps symbols_per_step", symbols_per_step=per_step)
    check_integers(name, symbols)
