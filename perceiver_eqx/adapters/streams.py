"""Streams: what arrives at every step, and what is predicted there.

An adapter says what the tokens of a step are, or what is asked of it and how likely an
answer is; the linear maps to and from the widths of a model are the model's. Any object
with the members of `StreamInput` or `StreamOutput` is one, an `eqx.Module` if it has
parameters.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree, Shaped

from ..checks import check_shape, check_sizes
from ..draws import split_key
from ..layers import Linear
from ..positions import LearnedPositions


# Some steps of each stream.
Streams = Mapping[str, Shaped[Array, "_steps *_step"]]

# How to draw what was predicted, as `StreamOutput.sample` does.
Draw = Callable[[PyTree, PRNGKeyArray], Array]


@runtime_checkable
class StreamInput(Protocol):
    """Makes tokens of the steps of a stream, each step by itself.

    Which stream a token is of, and which of the step's tokens it is, the model adds.
    """

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        ...

    @property
    def dim(self) -> int:
        """Channels of a token."""
        ...

    def __call__(
        self, inputs: Shaped[Array, "steps *step"], /
    ) -> Float[Array, "steps tokens dim"]:
        """The tokens of some steps."""
        ...


@runtime_checkable
class StreamOutput(Protocol):
    """Makes a distribution over what a stream is at a step of what is read there."""

    @property
    def outputs_per_step(self) -> int:
        """Places of a step that are read."""
        ...

    @property
    def dim(self) -> int:
        """Channels that are read of a place."""
        ...

    def __call__(self, readout: Float[Array, "steps outputs dim"], /) -> PyTree:
        """The predictions of some steps: arrays whose first axis is that of the steps.

        Args:
            readout: at least float32, near zero before training.
        """
        ...

    def log_prob(
        self, prediction: PyTree, targets: Shaped[Array, "steps *step"], /
    ) -> Float[Array, " steps"]:
        """The logarithm of the probability of each step, in nats."""
        ...

    def sample(
        self, prediction: PyTree, key: PRNGKeyArray, /
    ) -> Shaped[Array, "steps *step"]:
        """Steps drawn from what was predicted of them."""
        ...


class Entry(eqx.Module):
    """A stream on its way in: its tokens at the width of all streams, each with a
    learned vector by which its stream and its place in the step are known."""

    adapter: StreamInput
    linear: Linear
    places: LearnedPositions

    def __init__(self, adapter: StreamInput, token_dim: int, *, key: PRNGKeyArray):
        """
        Args:
            adapter: makes the tokens.
            token_dim: channels that they get.
        """
        linear_key, places_key = split_key(key)
        self.adapter = adapter
        self.linear = Linear(adapter.dim, token_dim, key=linear_key)
        self.places = LearnedPositions(
            adapter.tokens_per_step, token_dim, key=places_key
        )

    def __call__(
        self, inputs: Shaped[Array, "steps *step"], dtype: DTypeLike
    ) -> Float[Array, "steps tokens token_dim"]:
        """The tokens of some steps."""
        tokens = self.adapter(inputs)
        sizes = {
            "steps": inputs.shape[0],
            "tokens_per_step": self.adapter.tokens_per_step,
            "dim": self.adapter.dim,
        }
        check_shape("what a `StreamInput` gives", tokens, " ".join(sizes), **sizes)
        return self.places(self.linear(tokens.astype(dtype)))


class StreamsIn(eqx.Module):
    """All streams that are seen, as tokens."""

    entries: dict[str, Entry]

    def __init__(
        self, adapters: Mapping[str, StreamInput], token_dim: int, *, key: PRNGKeyArray
    ):
        """
        Args:
            adapters: of the streams, by name.
            token_dim: channels of a token.
        """
        self.entries = {
            name: Entry(adapters[name], token_dim, key=key)
            for name, key in keys_of(adapters, key)
        }

    @jax.named_scope("pqx.streams_in")
    def __call__(
        self, streams: Streams, names: Collection[str], dtype: DTypeLike
    ) -> dict[str, Float[Array, "_steps _tokens token_dim"]]:
        """The tokens of some steps of the named streams."""
        tokens = {}
        for name in names:
            with in_stream(name):
                tokens[name] = self.entries[name](streams[name], dtype)
        return tokens


class StreamsOut(eqx.Module):
    """All streams that are predicted."""

    adapters: dict[str, StreamOutput]
    heads: dict[str, Linear]

    def __init__(
        self,
        adapters: Mapping[str, StreamOutput],
        readout_dim: int,
        *,
        key: PRNGKeyArray,
    ):
        """
        Args:
            adapters: of the streams, by name.
            readout_dim: channels of what is read for each place.
        """
        self.adapters = dict(adapters)
        self.heads = {
            name: Linear(readout_dim, adapters[name].dim, scale=0.1, key=key)
            for name, key in keys_of(adapters, key)
        }

    @jax.named_scope("pqx.streams_out")
    def __call__(
        self, readout: Float[Array, "steps outputs readout_dim"]
    ) -> dict[str, PyTree]:
        """The predictions of each stream, from what was read for the places of all, in
        the order of their names."""
        predictions, start = {}, 0
        for name, adapter in sorted(self.adapters.items()):
            end = start + adapter.outputs_per_step
            found = self.heads[name](readout[:, start:end])
            wide = jnp.result_type(jnp.float32, found.dtype)
            predictions[name], start = adapter(found.astype(wide)), end
        return predictions

    def log_prob(
        self, predictions: Mapping[str, PyTree], streams: Streams
    ) -> Float[Array, " steps"]:
        """Nats of each step, summed over the streams."""
        nats = []
        for name, adapter in sorted(self.adapters.items()):
            with in_stream(name):
                found = adapter.log_prob(predictions[name], streams[name])
                steps = streams[name].shape[0]
                check_shape("what `log_prob` gives", found, "steps", steps=steps)
            nats.append(found)
        return sum(nats[1:], nats[0])

    def sample(
        self,
        predictions: Mapping[str, PyTree],
        draw: Mapping[str, Draw] | None = None,
        *,
        key: PRNGKeyArray,
    ) -> dict[str, Array]:
        """Steps drawn of every stream.

        Args:
            draw: functions of a prediction and a key, for those streams that are to be
                drawn otherwise than by `sample` of their adapter.

        Raises:
            ValueError: for a `draw` of a stream that is not predicted.
        """
        draw = {} if draw is None else draw
        if not set(draw) <= set(self.adapters):
            raise ValueError(
                f"`draw` must be of streams among {sorted(self.adapters)}, got "
                f"{sorted(draw)}."
            )
        return {
            name: draw.get(name, self.adapters[name].sample)(predictions[name], key)
            for name, key in keys_of(self.adapters, key)
        }


def keys_of(
    names: Collection[str], key: PRNGKeyArray
) -> list[tuple[str, PRNGKeyArray]]:
    """A key for each name, in their order."""
    return list(zip(sorted(names), split_key(key, len(names)), strict=True))


@contextmanager
def in_stream(name: str):
    """Errors that an adapter raises tell its stream."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"This was the stream {name!r}.")
        raise


def check_adapters(what: str, adapters: Mapping[str, object], kind: type) -> None:
    """Refuse no adapter at all, and what is none.

    Args:
        what: the argument's name, for the message.
        kind: `StreamInput` or `StreamOutput`.

    Raises:
        ValueError: for none, or sizes below 1.
        TypeError: for an adapter that lacks a member.
    """
    if not adapters:
        raise ValueError(f"`{what}` must hold at least 1 stream, got none.")
    count = "tokens_per_step" if kind is StreamInput else "outputs_per_step"
    for name, adapter in adapters.items():
        if not isinstance(adapter, kind):
            raise TypeError(
                f"`{what}[{name!r}]` must have the members of `{kind.__name__}`, got "
                f"{adapter!r}."
            )
        for size in (count, "dim"):
            check_sizes(**{f"{what}[{name!r}].{size}": getattr(adapter, size)})


def check_streams(
    streams: Streams, needed: Collection[str], allowed: Collection[str] = ()
) -> int:
    """Refuse streams other than those that are needed and may be there, and unequal
    numbers of steps.

    Returns:
        how many steps each has; 0 if there are no streams.

    Raises:
        ValueError: for these, or no step.
    """
    if not set(needed) <= set(streams) <= {*needed, *allowed}:
        others = sorted(set(allowed) - set(needed))
        more = f", and may hold {others}" if others else ""
        raise ValueError(
            f"the streams must be {sorted(needed)}{more}, got {sorted(streams)}."
        )
    for name, x in streams.items():
        if not getattr(x, "shape", ()):
            raise ValueError(
                f"the stream {name!r} must be an array whose first axis is that of the "
                f"steps, got {x!r}."
            )
    counts = {name: x.shape[0] for name, x in sorted(streams.items())}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"all streams must have as many steps, got {counts}. Cut or fill them up; "
            "`steps_count` of `log_prob` tells how many count."
        )
    if 0 in counts.values():
        raise ValueError("the streams must have at least 1 step, got none.")
    return max(counts.values(), default=0)
