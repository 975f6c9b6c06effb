"""`CausalPerceiver`: encoder, processor and decoder, and the one function of time."""

from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .attention.softmax import SoftmaxAverage, merge
from .checks import (
    check_multiples,
    check_probabilities,
    check_shape,
    check_sizes,
)
from .context import Context, Memory, Questions, Remember, questions
from .decoder import PlaceDecoder, QueryDecoder
from .draws import split_key
from .encoder import CausalEncoder
from .positions import count_on
from .processor import CausalProcessor, windows_in_turn
from .state import Caches, PerceiverState, as_arrays
from .summary import Told
from .time_axis import TimeAxis, devices_in, steps_of


READOUTS = "queries", "places"


class CausalPerceiver(Told):
    """A Perceiver IO whose latents are replicated over the steps and masked causally,
    at the input cross-attention and at the latent self-attention.

    The outputs of a step depend on the context and on the inputs of its own and earlier
    steps, never on later ones. Arrays are unbatched; `jax.vmap` for batches.

    Source:
        Jaegle et al., "Perceiver IO" (2021); Hawthorne et al., "Perceiver AR"
        (2022); the combination is the seed's.
    """

    encoder: CausalEncoder
    remember: Remember | None
    processor: CausalProcessor
    decoder: QueryDecoder | PlaceDecoder
    step_places: int = eqx.field(static=True)

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        tokens_per_step: int,
        outputs_per_step: int,
        num_latents: int,
        latent_dim: int,
        num_layers: int,
        num_heads: int,
        query_dim: int | None = None,
        query_heads: int | None = None,
        latent_window: int | None | Sequence[int | None] = None,
        context_dim: int | None = None,
        ask_context: bool = True,
        step_places: int = 1,
        token_places: int = 1,
        recency: bool = True,
        own_step: bool = True,
        readout: str = "queries",
        query_residual: bool = True,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        token_dropout: float = 0.0,
        remat: bool | None = None,
        key: PRNGKeyArray,
    ):
        """
        Args:
            input_dim, output_dim: channels of an input token and of an output.
            tokens_per_step, outputs_per_step: tokens that arrive at a step, and
                outputs that are read from it.
            num_latents, latent_dim: the latent array, replicated at every step.
            num_layers, num_heads: self-attention layers; heads, here and in the
                cross-attention to the inputs.
            query_dim, query_heads: channels of the output queries, and heads of their
                cross-attention; `latent_dim` and `num_heads` if `None`.
            latent_window: how many steps a latent sees the latents of, its own
                included: `None` for all (the seed's mask), 1 for its own step only (the
                seed's code). Of several, which the layers take in turn.
            context_dim: channels of the context's tokens; `None` for no context.
            ask_context: let every layer between latents attend the tokens of the
                context, by content and by place, and keep their keys and values, for
                all layers the same. Without it, all that is known of a context is what
                the encoder's fixed queries pool of it.
            step_places, token_places: places that a step takes, and a token of the
                context, where a step is to find the tokens beside it: bytes, say.
            recency: learn, per latent and head, a rate at which inputs lose weight with
                age, by which a fixed query tells new from old.
            own_step: add a projection of the step's own tokens to its latents.
            readout: how outputs are read from a step's latents: `"queries"` for output
                queries that attend them, `"places"` for a linear map for each place.
            query_residual: add the output queries to what they read.
            mlp_widening: hidden channels of the MLPs over their width.
            gated_mlp: gate the MLPs, as in `MLP`.
            qk_norm: norm the queries and keys of the latents' self-attention.
            dropout, attention_dropout, token_dropout: probabilities in [0, 1) of
                leaving out a residual channel, a weight between latents, an input
                token of the cross-attention. They act where a call is given a `key`.
            remat: compute the matrix products of each layer again in the backward pass;
                `None` does so exactly if `latent_window` is `None`, where no chunks
                bound the memory.

        Raises:
            ValueError: for sizes below 1, heads that do not divide a width, a
            window below 1, a probability outside [0, 1), an unknown readout.
        """
        query_dim = latent_dim if query_dim is None else query_dim
        query_heads = num_heads if query_heads is None else query_heads
        check_sizes(
            input_dim=input_dim,
            output_dim=output_dim,
            tokens_per_step=tokens_per_step,
            outputs_per_step=outputs_per_step,
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            query_dim=query_dim,
            query_heads=query_heads,
            mlp_widening=mlp_widening,
            context_dim=1 if context_dim is None else context_dim,
            step_places=step_places,
            token_places=token_places,
        )
        if readout not in READOUTS:
            raise ValueError(f"`readout` must be among {READOUTS}, got {readout!r}.")
        windows = windows_in_turn("latent_window", latent_window, num_layers)
        # Rotary positions turn a head's channels in pairs.
        check_multiples("twice `num_heads`", 2 * num_heads, latent_dim=latent_dim)
        check_multiples("`query_heads`", query_heads, query_dim=query_dim)
        check_probabilities(
            dropout=dropout,
            attention_dropout=attention_dropout,
            token_dropout=token_dropout,
        )
        encoder_key, processor_key, decoder_key = split_key(key, 3)
        self.remember = None
        if ask_context and context_dim is not None:
            self.remember = Remember(
                context_dim,
                latent_dim,
                num_heads,
                stride=token_places,
                most_behind=max(1, step_places // token_places),
                qk_norm=qk_norm,
                key=jr.fold_in(key, 3),
            )
        self.encoder = CausalEncoder(
            input_dim,
            tokens_per_step,
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_heads=num_heads,
            context_dim=context_dim,
            recency=recency,
            own_step=own_step,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            dropout=dropout,
            token_dropout=token_dropout,
            key=encoder_key,
        )
        self.processor = CausalProcessor(
            num_layers,
            latent_dim,
            num_heads,
            window=windows,
            remat=None in windows if remat is None else remat,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            qk_norm=qk_norm,
            dropout=dropout,
            attention_dropout=attention_dropout,
            asks=self.remember is not None,
            key=processor_key,
        )
        self.step_places = step_places
        if readout == "places":
            self.decoder = PlaceDecoder(
                outputs_per_step,
                output_dim,
                num_latents=num_latents,
                latent_dim=latent_dim,
                key=decoder_key,
            )
        else:
            self.decoder = QueryDecoder(
                outputs_per_step,
                query_dim,
                output_dim,
                latent_dim=latent_dim,
                num_heads=query_heads,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                query_residual=query_residual,
                dropout=dropout,
                key=decoder_key,
            )

    @property
    def latent_window(self) -> int | None:
        """How many steps a latent sees in the layer where it sees the most, its own
        included; `None` for all."""
        return self.processor.window

    def init_state(
        self,
        context: Float[Array, "source context_dim"] | None = None,
        *,
        max_steps: int | None = None,
        max_context: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> PerceiverState:
        """The state before the first step.

        Args:
            context: tokens that every step sees.
            max_context: make room for so many tokens of the context that is asked, so
                that the state keeps its shape; `None` to let it grow with every piece.
            max_steps: how many steps there will be at most. Needed, and its memory
                taken, if `latent_window` is `None`; not used otherwise.
            dtype: of the inputs to come.

        Raises:
            TypeError, ValueError: if `latent_window` is `None` and `max_steps` is
                no whole number of at least 1, or if a context is given to a model
                built without one.
        """
        kept = None
        if self.latent_window is None:
            if max_steps is None:
                raise ValueError(
                    "`max_steps` must be given where `latent_window` is None, since "
                    "every past latent is kept. Pass the number of steps to come, or "
                    "build the model with a finite `latent_window`."
                )
            check_sizes(max_steps=max_steps)
            kept = max_steps
        state = self._state(self._caches(kept, dtype), max_context)
        if context is not None:
            state = self.add_context(state, context)
        return as_arrays(state)

    def add_context(
        self,
        state: PerceiverState,
        context: Float[Array, "source context_dim"],
        count: Int[Array, ""] | int | None = None,
    ) -> PerceiverState:
        """Show one more piece of the context to all steps that are yet to come.

        However a context is cut into pieces, they see the same.

        Args:
            count: how many of the tokens are there, the first ones; `None` for all.

        Raises:
            ValueError: for a model built without a context, or a piece that is larger
                than `max_context`.
            RuntimeError: when run, if the context goes past `max_context`.
        """
        if context.shape[0] == 0 and self.encoder.context_norm is not None:
            return state
        memory = state.context.memory
        first = 0 if memory is None else memory.count
        known, more = self.read_context(state.context, context, first, count)
        if isinstance(memory, Memory) and more is not None:
            size = context.shape[0] if count is None else count
            known = replace(known, memory=memory.extend(*more, size))
        return replace(state, context=known)

    def read_context(
        self,
        known: Context,
        tokens: Float[Array, "source context_dim"],
        first: Int[Array, ""] | int,
        count: Int[Array, ""] | int | None = None,
        *,
        time: TimeAxis | None = None,
    ) -> tuple[Context, tuple[Array, Array] | None]:
        """`add_context` for callers that put many pieces into the memory at once.

        Args:
            known: what is known of the context before; its memory is left as it is.
            tokens: the next piece, before which came `first` tokens.
            count: as of `add_context`.
            time: devices over which the piece lies, inside `jax.shard_map`, a run on
                each: what is pooled, and given back, is of this device. `None` for one.

        Returns:
            what is known after it; and keys and values to `extend` the memory by,
            `None` for a model that does not ask.
        """
        seen = merge(known.seen, self.encoder.read_context(tokens, count))
        if self.remember is None or known.before is None:
            return replace(known, seen=seen), None
        more, before = self.remember(tokens, first, known.before, time)
        return replace(known, seen=seen, before=before), more

    def advance(
        self,
        state: PerceiverState,
        inputs: Float[Array, "steps tokens input_dim"],
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PerceiverState, Float[Array, "steps outputs output_dim"]]:
        """Take the next steps, any number of them at once.

        However a sequence is cut into chunks, the outputs are equal.

        Args:
            state: the state after the steps before.
            inputs: the tokens of the next steps.
            time: devices over which these lie, inside `jax.shard_map`, a run on each:
                inputs and outputs are those of this device, and what the state keeps of
                past steps is that of the first one. `None` for one device.
            key: for dropout; `None` for none.

        Returns:
            the state after these steps, and their outputs.

        Raises:
            ValueError: for inputs of another shape, or of no step.
            RuntimeError: when run, if the steps go past `max_steps`.
        """
        latents_key, outputs_key = split_key(key)
        state, latents = self.advance_latents(state, inputs, time=time, key=latents_key)
        return state, self.decoder(latents, key=outputs_key)

    @jax.named_scope("pqx.advance_latents")
    def advance_latents(
        self,
        state: PerceiverState,
        inputs: Float[Array, "steps tokens input_dim"],
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PerceiverState, Float[Array, "steps latents latent_dim"]]:
        """`advance` without the decoder, which reads a step's outputs from its latents:
        for callers that take the outputs piece by piece, or not at all."""
        keys = split_key(key)
        prefix, x = self.encode(state, inputs, time=time, key=keys[0])
        state, x = self.process(state, x, time=time, key=keys[1])
        return replace(state, prefix=prefix), x

    def encode(
        self,
        state: PerceiverState,
        inputs: Float[Array, "steps tokens input_dim"],
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[SoftmaxAverage, Float[Array, "steps latents latent_dim"]]:
        """What the latents see of the inputs: `advance_latents` up to where they see
        each other, and `PerceiverState.prefix` after these steps."""
        check_shape(
            "inputs",
            inputs,
            "steps tokens_per_step input_dim",
            tokens_per_step=self.encoder.tokens_per_step,
            input_dim=self.encoder.cross.input_norm.scale.size,
        )
        if inputs.shape[0] == 0:
            raise ValueError("`inputs` must hold at least 1 step, got none.")
        seen = state.context.seen
        x, prefix = self.encoder(inputs, state.prefix, seen, time=time, key=key)
        return prefix, x

    def process(
        self,
        state: PerceiverState,
        x: Float[Array, "steps latents latent_dim"],
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PerceiverState, Float[Array, "steps latents latent_dim"]]:
        """`advance_latents` from where the latents see each other on, from what
        `encode` gives; of several runs too, if the steps lie over devices."""
        steps = x.shape[0] * devices_in(time)
        past_steps = state.steps
        capacity = max(cache.attention.capacity for cache in state.caches)
        if self.latent_window is None and capacity and time is None:
            if steps > capacity:
                raise ValueError(
                    f"`inputs` must hold at most `max_steps` = {capacity} steps, got "
                    f"{steps}; pass a larger `max_steps` to `init_state`, or use a "
                    "finite `latent_window`."
                )
            past_steps = eqx.error_if(
                past_steps,
                past_steps + steps > capacity,
                f"the sequence goes past `max_steps` = {capacity}; pass a larger "
                "`max_steps` to `init_state`, or use a finite `latent_window`.",
            )
        asked = self.questions(state, past_steps + steps_of(x, time), x.dtype)
        x, caches = self.processor(
            x, state.caches, past_steps, asked, time=time, key=key
        )
        return replace(state, steps=count_on(past_steps, steps), caches=caches), x

    def __call__(
        self,
        inputs: Float[Array, "steps tokens input_dim"],
        context: Float[Array, "source context_dim"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps outputs output_dim"]:
        """The outputs of a whole sequence: `advance` from the start, nothing kept."""
        latents_key, outputs_key = split_key(key)
        latents = self.latents(inputs, context, key=latents_key)
        return self.decoder(latents, key=outputs_key)

    def latents(
        self,
        inputs: Float[Array, "steps tokens input_dim"],
        context: Float[Array, "source context_dim"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps latents latent_dim"]:
        """The latents of a whole sequence, from which the decoder reads the outputs."""
        state = self.keep_nothing(context, inputs.dtype)
        return self.advance_latents(state, inputs, key=key)[1]

    def keep_nothing(
        self,
        context: Float[Array, "source context_dim"] | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> PerceiverState:
        """The state before the first step, without room for past latents: for a whole
        sequence, taken at once."""
        state = self._state(self._caches(0, dtype))
        return state if context is None else self.add_context(state, context)

    def questions(
        self, state: PerceiverState, steps: Int[Array, " steps"], dtype: DTypeLike
    ) -> Questions | None:
        """What the layers of steps ask of the context, by how many came before each of
        them; `None` if they do not."""
        memory = state.context.memory
        if self.remember is None or memory is None or memory.capacity == 0:
            return None
        return questions(
            memory,
            steps,
            step_places=self.step_places,
            token_places=self.remember.stride,
            dtype=dtype,
        )

    def _caches(self, most_steps: int | None, dtype: DTypeLike) -> Caches:
        rows = self.encoder.latents.shape[0]
        return self.processor.empty_caches(rows, dtype, most_steps)

    def _state(self, caches: Caches, max_context: int | None = None) -> PerceiverState:
        encoder, dtype = self.encoder, caches[0].attention.keys.dtype
        seen, prefix = encoder.empty_prefix(dtype), encoder.empty_prefix(dtype)
        memory = before = None
        if self.remember is not None:
            room, grows = max_context or 0, max_context is None
            memory = self.remember.empty(room, dtype, grows=grows)
            before = self.remember.nothing_before(dtype)
        start = jnp.zeros((), jnp.int32)
        return PerceiverState(start, Context(seen, memory, before), prefix, caches)
