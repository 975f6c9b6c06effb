"""`ByteLM`: a language model over bytes, of a `CausalPerceiver` and byte adapters."""

from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, Integer, PRNGKeyArray

from ..arguments import Arguments, kept
from ..checks import check_enabled, check_integers, check_shape, check_sizes
from ..draws import split_key
from ..model import CausalPerceiver
from ..state import PerceiverState, as_arrays
from ..summary import Told
from ..time_axis import TimeAxis, devices_in
from .both_ways import BothWays
from .byte_context import ByteContext, ContextReader
from .byte_state import ByteState
from .bytes import ByteInput, ByteOutput, delayed
from .local import check_local_window, local_sizes


class ByteLM(Told):
    """Next-byte prediction over sequences of any length.

    Local layers make features of each byte, of itself and the last few before it. The
    Perceiver sees the features one step late, grouped into steps. What it says of a
    byte's place, and the features one byte late, go through more local layers to the
    logits. So those of byte `(t, i)` depend on the context and on all bytes before it,
    and on no other.
    """

    inputs: ByteInput
    contexts: ByteContext | None
    perceiver: CausalPerceiver
    outputs: ByteOutput
    _hyperparameters: Arguments = eqx.field(static=True)
    bytes_per_step: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        *,
        bytes_per_step: int,
        num_latents: int,
        latent_dim: int,
        num_layers: int,
        num_heads: int,
        latent_window: int | None | Sequence[int | None] = None,
        token_dim: int | None = None,
        local_dim: int | None = None,
        local_heads: int | None = None,
        local_window: int | Sequence[int] = (128, 1024),
        local_conv: int = 4,
        input_layers: int = 1,
        output_layers: int = 4,
        ngrams: Sequence[int] = (),
        ngram_rows: int = 1 << 14,
        use_context: bool = False,
        ask_context: bool = True,
        context_patch: int = 1,
        context_layers: int = 0,
        context_block: int = 512,
        recency: bool = True,
        own_step: bool = True,
        readout: str = "places",
        mlp_widening: int = 4,
        gated_mlp: bool = True,
        qk_norm: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        token_dropout: float = 0.0,
        remat: bool | None = None,
        dtype: DTypeLike = "float32",
        key: PRNGKeyArray,
    ):
        """
        Args:
            bytes_per_step: bytes that make a step, at least 1.
            num_latents, latent_dim, num_layers, num_heads, latent_window,
                recency, own_step, readout, mlp_widening, gated_mlp, qk_norm, dropout,
                attention_dropout, token_dropout, remat: as in `CausalPerceiver`;
                local layers compute their products again if `remat` is true.
            token_dim: channels of a byte on its way into the Perceiver; `None` for
                `latent_dim / bytes_per_step`, but at least 32.
            local_dim, local_heads: channels and heads of the local layers, and of what
                is read of the latents; `None` for three quarters of `num_heads`, as
                wide as those are.
            local_window: how many bytes a byte sees in a local layer, itself included.
                Of several, which the layers before the Perceiver take in turn, and so
                do those after it.
            local_conv: how many bytes a causal convolution before the attention of
                each local layer sees, the byte itself included; 0 for none.
            input_layers, output_layers: local layers before and after the Perceiver,
                at least 0.
            ngrams: look up vectors for so many of the last bytes together, such as
                `(3, 4, 5)`, each at least 2, in tables of `ngram_rows` rows each, a
                power of 2, and add them to what a byte is embedded as.
            use_context: whether a context of bytes can be given. Without one, such a
                model works as if nothing stood in it.
            ask_context: as in `CausalPerceiver`: the context is asked by content and by
                place, and not only pooled.
            context_patch: bytes of the context that make a token, at least 1: what is
                kept and asked is less by as much, and finds only whole patches.
            context_layers, context_block: layers by which so many tokens of the context
                in a row see each other, before and behind; 0 for none, where tokens
                know only what is before them.
            dtype: what the model computes in: `"float32"`, `"bfloat16"`, `"float16"` or
                `"float64"`, or JAX's own names of them. Parameters are float32 all the
                same.

        Raises:
            ValueError: as `CausalPerceiver` does, and for an unknown dtype.
        """
        dtype = getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)
        if isinstance(latent_window, Sequence):
            latent_window = tuple(latent_window)
        if isinstance(local_window, Sequence):
            local_window = tuple(local_window)
        if not isinstance(ngrams, Sequence | np.ndarray):
            raise TypeError(f"`ngrams` must be a sequence of orders, got {ngrams!r}.")
        ngrams = tuple(ngrams)
        self._hyperparameters = kept(locals())
        check_sizes(
            bytes_per_step=bytes_per_step,
            latent_dim=latent_dim,
            num_heads=num_heads,
            mlp_widening=mlp_widening,
            context_patch=context_patch,
            context_block=context_block,
        )
        check_local_window(local_window)
        check_sizes(
            0,
            local_conv=local_conv,
            input_layers=input_layers,
            output_layers=output_layers,
            context_layers=context_layers,
        )
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise ValueError(
                "`dtype` must be 'float32', 'bfloat16', 'float16' or 'float64', got "
                f"{dtype!r}."
            )
        check_enabled(dtype)
        if token_dim is None:
            token_dim = max(32, latent_dim // bytes_per_step // 2 * 2)
        local_dim, local_heads = local_sizes(
            latent_dim, num_heads, local_dim, local_heads
        )
        check_sizes(token_dim=token_dim)
        local = {
            "window": local_window,
            "conv_kernel": local_conv,
            "mlp_widening": mlp_widening,
            "gated_mlp": gated_mlp,
            "qk_norm": qk_norm,
            "dropout": dropout,
            "remat": bool(remat),
        }
        keys = split_key(key, 4)
        self.inputs = ByteInput(
            bytes_per_step,
            token_dim,
            local_dim,
            input_layers,
            local_heads,
            ngrams=ngrams,
            ngram_rows=ngram_rows,
            key=keys[0],
            **local,
        )
        self.contexts = None
        if use_context:
            both_ways = None
            if context_layers:
                both_ways = BothWays(
                    context_layers,
                    latent_dim,
                    num_heads,
                    context_block,
                    mlp_widening=mlp_widening,
                    gated_mlp=gated_mlp,
                    dropout=dropout,
                    key=jr.fold_in(keys[1], 1),
                )
            self.contexts = ByteContext(
                context_patch, local_dim, latent_dim, both_ways, key=keys[1]
            )
        self.perceiver = CausalPerceiver(
            token_dim,
            local_dim,
            tokens_per_step=bytes_per_step,
            outputs_per_step=bytes_per_step,
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            query_dim=local_dim,
            query_heads=local_heads,
            latent_window=latent_window,
            context_dim=latent_dim if use_context else None,
            ask_context=ask_context,
            step_places=bytes_per_step,
            token_places=context_patch,
            recency=recency,
            own_step=own_step,
            readout=readout,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            qk_norm=qk_norm,
            dropout=dropout,
            attention_dropout=attention_dropout,
            token_dropout=token_dropout,
            remat=remat,
            key=keys[2],
        )
        self.outputs = ByteOutput(
            local_dim, output_layers, local_heads, key=keys[3], **local
        )
        self.bytes_per_step = bytes_per_step
        self.dtype = jnp.dtype(dtype)

    @property
    def hyperparameters(self) -> dict:
        """The arguments that build this model again, all but the key."""
        return dict(self._hyperparameters)

    @property
    def latent_window(self) -> int | None:
        """How many steps a latent sees in the layer where it sees the most, its own
        included; `None` for all."""
        return self.perceiver.latent_window

    def __call__(
        self,
        tokens: Integer[Array, "steps {self.bytes_per_step}"],
        context: Integer[Array, " source"] | None = None,
        *,
        context_length: Int[Array, ""] | int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "steps {self.bytes_per_step} 256"]:
        """The logits of the given bytes, each from the context and the bytes before it.

        Args:
            tokens: bytes grouped by step, in any integer dtype. Values are taken to lie
                in 0 to 255, and not checked.
            context: bytes that every step sees; the model needs `use_context=True`.
            context_length: how many of its bytes are there, the first ones, in a batch
                of contexts that are filled up; `None` for all.
            key: for dropout; `None` for none.

        Raises:
            ValueError: for tokens of another shape, or a context for a model built
                without one.
            TypeError: for tokens that are not integers.
        """
        context_key, key = split_key(key)
        state = self.keep_nothing(context, context_length, key=context_key)
        return self.advance_unchecked(state, tokens, key=key)[1]

    def keep_nothing(
        self,
        context: Integer[Array, "*source"] | None = None,
        context_length: Int[Array, ""] | int | None = None,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> ByteState:
        """The state before the first byte, without room for what comes after: for a
        whole sequence, taken at once. Arguments as of a call, but where the context
        lies over devices: then it is the runs of this one (runs, run)."""
        state = self._state(self.perceiver.keep_nothing(dtype=self.dtype), keep=False)
        if context is not None:
            state = self._read_context(
                state, context, context_length, time=time, key=key
            )
        return state

    def init_state(
        self,
        context: Integer[Array, " source"] | None = None,
        max_steps: int | None = None,
        *,
        context_length: Int[Array, ""] | int | None = None,
        max_context: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> ByteState:
        """The state before the first byte.

        Args:
            context, context_length, key: as of a call. To a context that is filled up
                no more can be added.
            max_steps: how many steps there will be at most; needed if `latent_window`
                is `None`.
            max_context: make room for a context of so many bytes, where it is asked, so
                that the state keeps its shape; `None` to let it grow with every piece.

        Raises:
            ValueError: as `CausalPerceiver.init_state` does.
        """
        room = None
        if max_context is not None and self.contexts is not None:
            room = -(-max_context // self.contexts.patch)
        perceiver = self.perceiver.init_state(
            max_steps=max_steps, max_context=room, dtype=self.dtype
        )
        state = self._state(perceiver, keep=True)
        if context is not None:
            state = self._read_context(state, context, context_length, key=key)
        return as_arrays(state)

    def add_context(
        self, state: ByteState, context: Integer[Array, " source"]
    ) -> ByteState:
        """Read the next piece of the context, which all steps that are yet to come will
        see. It may have any length; only the last one may be no multiple of
        `context_patch`, and of `context_patch * context_block` if there are
        `context_layers`.

        However a context is cut into pieces, they see the same.

        Raises:
            ValueError: for a model built without a context, or a piece that is larger
                than `max_context`.
            RuntimeError: when run, if the context goes past `max_context`, or if the
                last piece was no such multiple.
        """
        contexts = self._check_context(context)
        start = state.context_bytes
        if contexts.unit > 1:
            names = "`context_patch`" + " * `context_block`" * (
                contexts.both_ways is not None
            )
            start = eqx.error_if(
                start,
                start % contexts.unit > 0,
                "all pieces of a context but the last must be multiples of "
                f"{names} = {contexts.unit} bytes.",
            )
        state = replace(state, context_bytes=start)
        return as_arrays(self._read_context(state, context))

    def advance(
        self,
        state: ByteState,
        tokens: Integer[Array, "steps {self.bytes_per_step}"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[ByteState, Float[Array, "steps {self.bytes_per_step} 256"]]:
        """Take the next steps, any number of them at once.

        Returns:
            the state after them, and the logits of their bytes.

        Raises:
            ValueError, TypeError: for the tokens, as a call does.
            RuntimeError: when run, if the steps go past `max_steps`, or if the state
                stands inside a step (`advance_bytes` goes on from there).
        """
        features = eqx.error_if(
            state.features,
            state.inside > 0,
            "`state` must stand at the end of a step, but holds some bytes of one that "
            "is not finished; go on with `advance_bytes`.",
        )
        state = eqx.tree_at(lambda s: s.features, state, features)
        return self.advance_unchecked(state, tokens, key=key)

    def advance_unchecked(
        self,
        state: ByteState,
        tokens: Integer[Array, "steps {self.bytes_per_step}"],
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[ByteState, Float[Array, "steps {self.bytes_per_step} 256"]]:
        """`advance` from a state that is known to stand at the end of a step: nothing
        checks it when run, and bytes of an unfinished step are dropped.

        Args:
            time: devices over which the steps lie, inside `jax.shard_map`, a run on
                each: the tokens and logits are those of this device, and what the state
                has of the past is that of the first one. `None` for one device.
        """
        self._check_tokens(tokens)
        keys, over = split_key(key, 3), {"time": time}
        features, inputs = self.inputs(
            tokens, state.inputs, self.dtype, key=keys[0], **over
        )
        step_late, byte_late, last = delayed(state.features, features, **over)
        step_late = self.inputs.tokens(step_late)
        perceiver, readout = self.perceiver.advance(
            state.perceiver, step_late, key=keys[1], **over
        )
        logits, outputs = self.outputs(
            readout, byte_late, state.outputs, key=keys[2], **over
        )
        after = ByteState(
            perceiver,
            inputs,
            outputs,
            last,
            unfinished=jnp.full_like(state.unfinished, -1),
            contexts=state.contexts,
            context_bytes=state.context_bytes,
        )
        return after, logits

    def advance_bytes(
        self, state: ByteState, data: Integer[Array, " bytes"]
    ) -> tuple[ByteState, Float[Array, "bytes 256"]]:
        """Take the next bytes, any number of them, from and to anywhere in a step.

        However a sequence is cut, the logits are equal.

        Returns:
            the state after them, and their logits, each from the bytes before it.

        Raises:
            ValueError: for data of another shape, or of no byte.
            TypeError: for data that are not integers.
            RuntimeError: when run, if the steps go past `max_steps`.
        """
        check_shape("data", data, "bytes")
        _check_some("byte", data=data)
        per_step, count = self.bytes_per_step, data.size
        # As many steps as the bytes may touch. All but the last two are finished by
        # them wherever they begin; how many of those are, depends on that.
        steps = -(-(per_step - 1 + count) // per_step)
        begun = jnp.pad(jnp.maximum(state.unfinished, 0), (0, steps * per_step))
        symbols = lax.dynamic_update_slice(
            begun, data.astype(jnp.int32), (state.inside,)
        )
        tokens = symbols[: steps * per_step].reshape(steps, per_step)
        end = state.inside + count

        def take_step(state, of_step):
            tokens, first = of_step
            # One that is not begun shall not count as one too many.
            seen = jnp.where(first < end, state.perceiver.steps, 0)
            counted = eqx.tree_at(lambda s: s.perceiver.steps, state, seen)
            after, logits = self.advance_unchecked(counted, tokens[None])
            finished = first + per_step <= end
            kept = jax.tree.map(lambda *x: jnp.where(finished, *x), after, state)
            return kept, logits[0]

        finished, after, logits = max(steps - 2, 0), state, []
        if finished:
            after, first = self.advance_unchecked(state, tokens[:finished])
            logits.append(first)
        places = per_step * jnp.arange(finished, steps)
        after, last = lax.scan(take_step, after, (tokens[finished:], places))
        logits = jnp.concatenate([*logits, last]).reshape(-1, 256)
        left = lax.dynamic_slice(symbols, (end - end % per_step,), (per_step,))
        left = jnp.where(jnp.arange(per_step) < end % per_step, left, -1)
        after = eqx.tree_at(lambda s: s.unfinished, after, left)
        return after, lax.dynamic_slice_in_dim(logits, state.inside, count)

    def _state(self, perceiver: PerceiverState, *, keep: bool) -> ByteState:
        contexts = None
        if self.contexts is not None:
            # With room: a long context comes in pieces.
            contexts = self.inputs.init_state(self.dtype)
        return ByteState(
            perceiver,
            inputs=self.inputs.init_state(self.dtype, keep=keep),
            outputs=self.outputs.layers.init_state(self.dtype, keep=keep),
            features=self.inputs.before_all(self.dtype),
            unfinished=jnp.full((self.bytes_per_step,), -1, jnp.int32),
            contexts=contexts,
            context_bytes=0,
        )

    def _check_tokens(self, tokens: Integer[Array, "steps bytes_per_step"]) -> None:
        per_step = self.bytes_per_step
        check_shape("tokens", tokens, "steps bytes_per_step", bytes_per_step=per_step)
        _check_some("step", tokens=tokens)

    def _check_context(
        self, context: Integer[Array, "*source"], shape: str = "source"
    ) -> ByteContext:
        if self.contexts is None:
            raise ValueError(
                "`context` was given to a model built without one; build it with "
                "`use_context=True`."
            )
        check_shape("context", context, shape)
        check_integers("context", context)
        return self.contexts

    def _read_context(
        self,
        state: ByteState,
        context: Integer[Array, "*source"],
        length: Int[Array, ""] | int | None = None,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> ByteState:
        """The state with a piece of the context, of which so many bytes are there."""
        contexts = self._check_context(
            context, "source" if time is None else "runs run"
        )
        if context.size == 0 or state.contexts is None:
            return state
        length = context.size * devices_in(time) if length is None else length
        reader = ContextReader(self.inputs, contexts, self.perceiver, self.dtype)
        before = state.perceiver.context, state.contexts
        if time is None:
            start = state.context_bytes
            known, inputs = reader(*before, start, context, length, key=key)
        else:
            known, inputs = reader.over_devices(*before, context, length, time, key=key)
        return replace(
            state,
            perceiver=replace(state.perceiver, context=known),
            contexts=inputs,
            context_bytes=state.context_bytes + length,
        )


def _check_some(what: str, **symbols: Array) -> None:
    for name, array in symbols.items():
        check_integers(name, array)
        if array.shape[0] == 0:
            raise ValueError(f"`{name}` must hold at least 1 {what}, got none.")
