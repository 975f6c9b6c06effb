"""`StreamModel`: a `CausalPerceiver` between adapters, for streams of any kind.

At every step something arrives on each of its streams, and something is predicted. A
stream that is predicted is seen one step late, every other one at once. So to go on
with a stream, to transcribe one, and to translate one into another while it arrives are
the same.
"""

from collections.abc import Callable, Collection, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray, PyTree, Shaped

from .adapters.streams import (
    Draw,
    StreamInput,
    StreamOutput,
    Streams,
    StreamsIn,
    StreamsOut,
    check_adapters,
    check_streams,
    keys_of,
)
from .checks import check_enabled, check_sizes
from .draws import normal, split_key
from .model import CausalPerceiver
from .state import PerceiverState, State, as_arrays
from .summary import Told


class StreamState(State):
    """All that a `StreamModel` keeps of the steps it has seen.

    Attributes:
        perceiver: what the Perceiver keeps.
        last: the last step's tokens of those streams that it sees one step late.
    """

    perceiver: PerceiverState
    last: dict[str, Float[Array, "_tokens token_dim"]]


class StreamModel(Told):
    """Predicts streams, step by step, from streams and from a context.

    What is predicted of a step depends on the context, on the steps before, and of the
    streams that are not predicted on this step too; and on nothing else. All that is
    predicted of one step is predicted at once, each part by itself.

    Arrays are unbatched, steps first; `jax.vmap` for batches.
    """

    inputs: StreamsIn
    begins: dict[str, Float[Array, "_tokens token_dim"]]
    context: Callable[..., Array] | None
    perceiver: CausalPerceiver
    outputs: StreamsOut
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        *,
        inputs: Mapping[str, StreamInput],
        outputs: Mapping[str, StreamOutput],
        context: Callable[..., Array] | None = None,
        num_latents: int,
        latent_dim: int,
        num_layers: int,
        num_heads: int,
        token_dim: int | None = None,
        dtype: DTypeLike = "float32",
        key: PRNGKeyArray,
        **options,
    ):
        """
        Args:
            inputs: adapters of the streams that are seen, by name.
            outputs: adapters of the streams that are predicted. Those that are among
                `inputs` are seen one step late.
            context: makes tokens `(n, dim)` of what every step is to see, and has a
                `dim`: an adapter such as a `GridInput` or a `TextInput`.
            token_dim: channels of a token on its way into the Perceiver; `None` for
                `latent_dim` over the number of tokens of a step, but at least 32.
            dtype: floating-point, what the model computes in. Parameters are float32
                all the same, and predictions at least.
            num_latents, latent_dim, num_layers, num_heads, options: as in
                `CausalPerceiver`, among whose options are `latent_window`, `readout`,
                `dropout`, `ask_context`, and `step_places` and `token_places` for a
                context that steps go alongside.

        Raises:
            ValueError: as `CausalPerceiver` does, for no input or no output, and for a
                dtype that is not floating-point.
            TypeError: for an adapter that lacks a member, or unknown options.
        """
        self.dtype = _checked_dtype(dtype)
        check_adapters("inputs", inputs, StreamInput)
        check_adapters("outputs", outputs, StreamOutput)
        check_sizes(latent_dim=latent_dim)
        tokens_per_step = sum(adapter.tokens_per_step for adapter in inputs.values())
        if token_dim is None:
            token_dim = max(32, latent_dim // tokens_per_step)
        check_sizes(token_dim=token_dim)
        late = {name: x for name, x in inputs.items() if name in outputs}
        keys = split_key(key, 4)
        self.inputs = StreamsIn(inputs, token_dim, key=keys[0])
        self.begins = {
            name: normal(key, (late[name].tokens_per_step, token_dim))
            for name, key in keys_of(late, keys[1])
        }
        self.context = context
        self.perceiver = CausalPerceiver(
            token_dim,
            latent_dim,
            tokens_per_step=tokens_per_step,
            outputs_per_step=sum(x.outputs_per_step for x in outputs.values()),
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            context_dim=None if context is None else _dim_of(context),
            key=keys[2],
            **options,
        )
        self.outputs = StreamsOut(outputs, latent_dim, key=keys[3])

    @property
    def late(self) -> list[str]:
        """The streams that are seen one step late: those that are predicted too."""
        return sorted(self.begins)

    @property
    def at_once(self) -> list[str]:
        """The streams that are seen at once."""
        return sorted(set(self.inputs.entries) - set(self.begins))

    @property
    def predicted(self) -> list[str]:
        """The streams that are predicted."""
        return sorted(self.outputs.adapters)

    @property
    def latent_window(self) -> int | None:
        """How many steps a latent sees in the layer where it sees the most, its own
        included; `None` for all."""
        return self.perceiver.latent_window

    def __call__(
        self,
        streams: Streams,
        context: PyTree = None,
        *,
        context_count: Int[Array, ""] | int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, PyTree]:
        """What is predicted of each step of a whole sequence.

        Args:
            streams: as many steps of every input. Streams that are only predicted may
                be among them, and are not looked at.
            context: what the context's adapter takes; `None` for none.
            context_count: how many of its tokens are there, the first ones, in a batch
                of contexts that are filled up; `None` for all.
            key: for dropout; `None` for none.

        Returns:
            by name, what the adapters predict.

        Raises:
            ValueError: for other streams, unequal numbers of steps, none, or a context
                for a model built without one; and, as TypeError, as the adapters do.
        """
        state = self.keep_nothing(context, context_count)
        return self.advance(state, streams, key=key)[1]

    def keep_nothing(
        self,
        context: PyTree = None,
        context_count: Int[Array, ""] | int | None = None,
    ) -> StreamState:
        """The state before the first step, without room for what comes after: for a
        whole sequence, taken at once. Arguments as of a call."""
        perceiver = self.perceiver.keep_nothing(dtype=self.dtype)
        return self._state(perceiver, context, context_count)

    def init_state(
        self,
        context: PyTree = None,
        *,
        context_count: Int[Array, ""] | int | None = None,
        max_steps: int | None = None,
        max_context: int | None = None,
    ) -> StreamState:
        """The state before the first step.

        Args:
            context, context_count: as of a call.
            max_steps: how many steps there will be at most; needed if `latent_window`
                is `None`.
            max_context: make room for so many tokens of the context, where it is asked,
                so that the state keeps its shape; `None` to let it grow.

        Raises:
            ValueError: as `CausalPerceiver.init_state` does.
        """
        perceiver = self.perceiver.init_state(
            max_steps=max_steps, max_context=max_context, dtype=self.dtype
        )
        return as_arrays(self._state(perceiver, context, context_count))

    def add_context(
        self,
        state: StreamState,
        context: PyTree,
        context_count: Int[Array, ""] | int | None = None,
    ) -> StreamState:
        """Show one more context to all steps that are yet to come. Arguments as of a
        call.

        Raises:
            ValueError: for a model built without a context.
        """
        if self.context is None:
            raise ValueError(
                "`context` was given to a model built without one; build it with an "
                "adapter as its `context`."
            )
        tokens = self.context(context).astype(self.dtype)
        perceiver = self.perceiver.add_context(state.perceiver, tokens, context_count)
        return StreamState(perceiver, state.last)

    def advance(
        self,
        state: StreamState,
        streams: Streams,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[StreamState, dict[str, PyTree]]:
        """Take the next steps, any number of them at once.

        However a sequence is cut into chunks, the predictions are equal.

        Args:
            state: the state after the steps before.
            streams, key: as of a call; every stream as it is, and none late.

        Returns:
            the state after these steps, and what was predicted of them.

        Raises:
            ValueError: as a call does.
            RuntimeError: when run, if the steps go past `max_steps`.
        """
        check_streams(streams, self.inputs.entries, self.predicted)
        tokens = self.inputs(streams, self.inputs.entries, self.dtype)
        seen = {
            name: jnp.concatenate([before[None], tokens[name][:-1]])
            for name, before in state.last.items()
        }
        perceiver, predictions = self._predict(state.perceiver, tokens | seen, key)
        last = {name: tokens[name][-1] for name in state.last}
        return StreamState(perceiver, last), predictions

    def predict(
        self, state: StreamState, streams: Streams | None = None
    ) -> tuple[PerceiverState, dict[str, PyTree]]:
        """Predict the next step alone, before it is known: the first half of `advance`.

        Args:
            state: the state after the steps before.
            streams: this one step of the streams that are seen at once.

        Returns:
            what to give to `put`, and what is predicted.

        Raises:
            ValueError: for other streams, or another number of steps.
        """
        streams = _one_step(streams, self.at_once)
        tokens = self.inputs(streams, self.at_once, self.dtype)
        late = {name: before[None] for name, before in state.last.items()}
        return self._predict(state.perceiver, tokens | late, None)

    def put(
        self, perceiver: PerceiverState, streams: Streams | None = None
    ) -> StreamState:
        """Tell what the step that was predicted is: the second half of `advance`.

        Args:
            perceiver: what `predict` gave.
            streams: the step of the streams that are seen one step late. Streams that
                are only predicted may be among them, and are not looked at.

        Returns:
            the state after this step.

        Raises:
            TypeError: for a `perceiver` that `predict` did not give.
            ValueError: for other streams, or another number of steps.
        """
        if not isinstance(perceiver, PerceiverState):
            raise TypeError(
                "`perceiver` must be the first of what `predict` gave, got "
                f"{type(perceiver).__name__}: `perceiver, told = model.predict(state, "
                "...)`, then `state = model.put(perceiver, ...)`."
            )
        streams = _one_step(streams, self.late, self.predicted)
        tokens = self.inputs(streams, self.late, self.dtype)
        return StreamState(perceiver, {name: x[0] for name, x in tokens.items()})

    def draw_step(
        self,
        state: StreamState,
        streams: Streams | None = None,
        *,
        draw: Mapping[str, Draw] | None = None,
        key: PRNGKeyArray,
    ) -> tuple[StreamState, dict[str, Array]]:
        """Draw the next step: `predict`, and `put` what is drawn.

        Args:
            state, streams: as of `predict`.
            draw: functions of a prediction and a key, for those streams that are to be
                drawn otherwise than by `sample` of their adapter.

        Returns:
            the state after this step, and what was drawn of every predicted stream.

        Raises:
            ValueError: as `predict` does, and for a `draw` of a stream that is not
                predicted.
        """
        perceiver, predictions = self.predict(state, streams)
        drawn = self.outputs.sample(predictions, draw, key=key)
        return self.put(perceiver, drawn), drawn

    def log_prob(
        self,
        streams: Streams,
        context: PyTree = None,
        *,
        context_count: Int[Array, ""] | int | None = None,
        steps_count: Int[Array, ""] | int | None = None,
        chunk_steps: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """The logarithm of the probability of all predicted streams of a sequence.

        Args:
            streams: as many steps of every input and of every output.
            context, context_count, key: as of a call.
            steps_count: how many steps count, the first ones, in a batch of sequences
                that are filled up; `None` for all.
            chunk_steps: go through the sequence by so many steps, which are computed
                again in the backward pass, so that the memory is that of one chunk, and
                of a state for each. Exact; not used if `latent_window` is `None`, where
                all latents are held.

        Returns:
            nats, summed over the steps that count and over the streams.

        Raises:
            ValueError: as a call does, and for chunks of less than a step.
        """
        steps = check_streams(streams, {*self.inputs.entries, *self.predicted})
        last = steps if steps_count is None else jnp.minimum(steps_count, steps)
        chunk = steps if chunk_steps is None else chunk_steps
        check_sizes(chunk_steps=chunk)
        if chunk >= steps or self.latent_window is None:
            state = self.keep_nothing(context, context_count)
            return self._nats(state, streams, jnp.arange(steps) < last, key)[1]
        count = -(-steps // chunk)
        counted = (jnp.arange(count * chunk) < last).reshape(count, chunk)
        chunks = {name: _in_chunks(x, chunk) for name, x in streams.items()}
        # The context is the same for all chunks: it is no part of what they hand on.
        start, same = _parted(self.init_state(context, context_count=context_count))

        @jax.checkpoint
        def take(carry, of_chunk):
            index, streams, counted = of_chunk
            of_key = None if key is None else jr.fold_in(key, index)
            state, nats = self._nats(eqx.combine(carry, same), streams, counted, of_key)
            return _parted(state)[0], nats

        return lax.scan(take, start, (jnp.arange(count), chunks, counted))[1].sum()

    def _nats(
        self,
        state: StreamState,
        streams: Streams,
        counted: Bool[Array, " steps"],
        key: PRNGKeyArray | None,
    ) -> tuple[StreamState, Float[Array, ""]]:
        """The state after some steps, and the log-probability of those that count."""
        state, predictions = self.advance(state, streams, key=key)
        nats = self.outputs.log_prob(predictions, streams)
        return state, jnp.where(counted, nats, 0).sum()

    def _predict(
        self,
        perceiver: PerceiverState,
        tokens: Mapping[str, Float[Array, "_steps _tokens token_dim"]],
        key: PRNGKeyArray | None,
    ) -> tuple[PerceiverState, dict[str, PyTree]]:
        """The predictions from all tokens as they are seen, late or at once."""
        row = jnp.concatenate([tokens[name] for name in sorted(tokens)], axis=1)
        perceiver, readout = self.perceiver.advance(perceiver, row, key=key)
        return perceiver, self.outputs(readout)

    def _state(
        self,
        perceiver: PerceiverState,
        context: PyTree,
        context_count: Int[Array, ""] | int | None,
    ) -> StreamState:
        last = {name: x.astype(self.dtype) for name, x in self.begins.items()}
        state = StreamState(perceiver, last)
        if context is None:
            return state
        return self.add_context(state, context, context_count)


def _one_step(
    streams: Streams | None, needed: Collection[str], allowed: Collection[str] = ()
) -> Streams:
    streams = {} if streams is None else streams
    steps = check_streams(streams, needed, allowed)
    if streams and steps != 1:
        raise ValueError(
            "a step is predicted, and put, by itself, in arrays of a first axis of 1, "
            f"got {steps} steps; `advance` takes any number."
        )
    return streams


def _in_chunks(
    x: Shaped[Array, "steps *step"], chunk: int
) -> Shaped[Array, "chunks chunk *step"]:
    """Steps by chunks. The last one is filled up by the last step, which is one that
    the adapters take."""
    fill = [(0, -x.shape[0] % chunk)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, fill, mode="edge").reshape(-1, chunk, *x.shape[1:])


def _parted(state: StreamState) -> tuple[StreamState, StreamState]:
    """What steps change of a state, and what they leave as it is."""
    changes = eqx.tree_at(
        lambda s: s.perceiver.context, jax.tree.map(lambda _: True, state), False
    )
    return eqx.partition(state, changes)


def _dim_of(context: Callable[..., Array]) -> int:
    dim = getattr(context, "dim", None)
    if dim is None:
        raise TypeError(
            f"`context` must have a `dim`, the channels of its tokens, got {context!r}."
        )
    return dim


def _checked_dtype(dtype: DTypeLike) -> DTypeLike:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be floating-point, got {dtype!r}.")
    check_enabled(dtype)
    return jnp.dtype(dtype)
