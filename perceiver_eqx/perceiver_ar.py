"""Perceiver AR out of the same parts: the last symbols are the latents.

Latents attend all that stands before them, causally, and then each other. So a position
is a step, of one or several latents; what is before the latents is the prefix.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

from .arguments import Arguments, kept
from .attention.attend import attend
from .attention.masks import StepMask
from .blocks import CrossAttention
from .checks import (
    check_integers,
    check_multiples,
    check_probabilities,
    check_shape,
    check_sizes,
)
from .draws import normal, split_key
from .layers import Embedding
from .norms import LayerNorm
from .positions import rotary
from .processor import CausalProcessor
from .state import Caches, State
from .summary import Told


class ARState(State):
    """Where a `PerceiverAR` stands in a sequence.

    Attributes:
        symbols: those it remembers, from the first place on.
        count: how many they are.
        prefix: how many of them are the prefix, and no latents.
        keys, values: of the attention to all of them.
        caches: of the layers between latents.
    """

    symbols: Int[Array, " max_symbols"]
    count: Int[Array, ""]
    prefix: Int[Array, ""]
    keys: Float[Array, "max_symbols heads head_dim"]
    values: Float[Array, "max_symbols heads v_dim"]
    caches: tuple[Caches, ...]


class PerceiverAR(Told):
    """Logits of the next symbol at each of the last positions of a long sequence.

    Positions are relative (rotary), and absolute too if wanted. There can be several
    latents to a position: all begin as its input, and all but the last have a learned
    vector added; those of a position see each other, and the last is read.

    **Past the last latent.** A state holds `max_latents` latents and `max_symbols`
    symbols at most. When either is full, the oldest `stride` latents become prefix, and
    if there are too many symbols, the oldest `stride` are forgotten; then all is
    computed again from what is left. So what is generated never depends on how a cache
    came to be: the logits are those of `model(symbols, prefix)` for the symbols and the
    prefix that the state holds.

    Source:
        Hawthorne et al., "Perceiver AR" (2022), §3.
    """

    embedding: Embedding
    positions: Float[Array, "max_symbols dim"] | None
    offsets: Float[Array, "more_latents dim"]
    cross: CrossAttention
    processors: tuple[CausalProcessor, ...]
    norm: LayerNorm | None
    bias: Float[Array, " num_symbols"] | None
    max_symbols: int = eqx.field(static=True)
    max_latents: int = eqx.field(static=True)
    rotary_dims: int | None = eqx.field(static=True)
    prefix_dropout: float = eqx.field(static=True)
    _hyperparameters: Arguments = eqx.field(static=True)

    def __init__(
        self,
        num_symbols: int,
        *,
        max_symbols: int,
        max_latents: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        latents_per_position: int = 1,
        absolute_positions: bool = False,
        rotary_dims: int | None = None,
        rotary_layers: int | None = None,
        mlp_widening: int = 4,
        cross_widening: int = 4,
        gated_mlp: bool = False,
        use_bias: bool = False,
        output_norm: bool = True,
        output_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        prefix_dropout: float = 0.0,
        remat: bool = True,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_symbols: how many symbols there are.
            max_symbols: the longest sequence, prefix and latents.
            max_latents: the most positions that are latents.
            dim, num_layers, num_heads: channels, self-attention layers, and heads of
                all attention.
            latents_per_position: latents of each position.
            absolute_positions: add a learned vector for each place.
            rotary_dims: how many channels of a head turn with the position; `None` for
                all, 0 for none.
            rotary_layers: in how many self-attention layers they do, the first ones;
                `None` for all. They do in the attention to all symbols.
            mlp_widening, cross_widening: hidden channels of the MLPs over the width, of
                the self-attention layers and of the attention to all symbols.
            gated_mlp: gate the MLPs.
            use_bias: add biases in attention and MLPs; the projection out of the
                attention to all symbols always has one.
            output_norm: norm what the last layer gives.
            output_bias: add a bias to the logits, which the embedding gives.
            dropout, attention_dropout: probabilities in [0, 1) of leaving out a
                residual channel, and a weight between latents.
            prefix_dropout: share in [0, 1) of the prefix that is left out in training.
            remat: as in `CausalProcessor`.

        Raises:
            ValueError: for sizes below 1, more latents than symbols, heads that do not
                divide the width, or a probability outside [0, 1).
        """
        self._hyperparameters = kept(locals())
        check_sizes(
            num_symbols=num_symbols,
            max_symbols=max_symbols,
            max_latents=max_latents,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            latents_per_position=latents_per_position,
            mlp_widening=mlp_widening,
            cross_widening=cross_widening,
        )
        if max_latents > max_symbols:
            raise ValueError(
                f"`max_latents` must be at most `max_symbols`, got {max_latents} for "
                f"{max_symbols}."
            )
        rotary_layers = num_layers if rotary_layers is None else rotary_layers
        check_sizes(0, rotary_layers=rotary_layers)
        check_multiples("`num_heads`", num_heads, dim=dim)
        turned = dim // num_heads if rotary_dims is None else rotary_dims
        if turned % 2 or not 0 <= turned <= dim // num_heads:
            raise ValueError(
                f"`rotary_dims` must be even and at most {dim // num_heads}, the "
                f"channels of a head, which turn in pairs, got {turned}."
            )
        check_probabilities(
            dropout=dropout,
            attention_dropout=attention_dropout,
            prefix_dropout=prefix_dropout,
        )
        keys = split_key(key, 6)
        self.embedding = Embedding(num_symbols, dim, key=keys[0])
        self.positions = None
        if absolute_positions:
            self.positions = normal(keys[1], (max_symbols, dim), 0.02)
        self.offsets = normal(keys[2], (latents_per_position - 1, dim), 0.02)
        self.cross = CrossAttention(
            dim,
            dim,
            num_heads,
            qkv_bias=use_bias,
            mlp_widening=cross_widening,
            gated_mlp=gated_mlp,
            mlp_bias=use_bias,
            dropout=dropout,
            key=keys[3],
        )

        def layers(count: int, turned: int | None, key) -> CausalProcessor:
            return CausalProcessor(
                count,
                dim,
                num_heads,
                window=None,
                remat=remat,
                qkv_bias=use_bias,
                output_bias=use_bias,
                mlp_widening=mlp_widening,
                gated_mlp=gated_mlp,
                mlp_bias=use_bias,
                rotary_dims=turned,
                dropout=dropout,
                attention_dropout=attention_dropout,
                final_norm=False,
                key=key,
            )

        turning = min(rotary_layers, num_layers)
        kinds = ((turning, rotary_dims), (num_layers - turning, 0))
        self.processors = tuple(
            layers(count, turned, key)
            for (count, turned), key in zip(kinds, split_key(keys[4]), strict=True)
            if count
        )
        self.norm = LayerNorm(dim) if output_norm else None
        self.bias = jnp.zeros(num_symbols) if output_bias else None
        self.max_symbols, self.max_latents = max_symbols, max_latents
        self.rotary_dims, self.prefix_dropout = rotary_dims, prefix_dropout

    @property
    def hyperparameters(self) -> dict:
        """The arguments that build this model again, all but the key."""
        return dict(self._hyperparameters)

    @property
    def latents_per_position(self) -> int:
        """Latents of each position."""
        return self.offsets.shape[0] + 1

    def __call__(
        self,
        symbols: Integer[Array, " n"],
        prefix: int,
        *,
        padding: Int[Array, ""] | int = 0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "latents num_symbols"]:
        """The logits of what follows each position from `prefix` on.

        Args:
            symbols: a sequence.
            prefix: how many of them are no latents.
            padding: how many of the first ones, of the prefix, are not there.
            key: for dropout; `None` for none.

        Raises:
            ValueError: for a longer sequence or more latents than the model has, or no
                latents.
        """
        check_shape("symbols", symbols, "n")
        check_integers("symbols", symbols)
        count = symbols.shape[0]
        latents = count - prefix
        fits = 1 <= latents <= self.max_latents and count <= self.max_symbols
        if prefix < 0 or not fits:
            raise ValueError(
                f"`prefix` must leave 1 to {self.max_latents} (max_latents) of at most "
                f"{self.max_symbols} (max_symbols) symbols, got {prefix} of {count}."
            )
        prefix_key, latents_key = split_key(key)
        places = jnp.arange(count)
        inputs = self._inputs(symbols, jnp.maximum(places - padding, 0))
        before, own = inputs[:prefix], inputs[prefix:]
        kept = prefix - int(prefix * self.prefix_dropout)
        if prefix_key is not None and kept < prefix:
            chosen = jnp.sort(jr.permutation(prefix_key, prefix)[:kept])
            before, places = before[chosen], jnp.append(chosen, places[prefix:])
            padding = jnp.sum(chosen < padding)
        normed = jnp.concatenate(
            [self.cross.input_norm(before), self.cross.query_norm(own)]
        )
        x, _ = self._latents(
            own,
            places[-latents:],
            self._keys_values(normed, places),
            len(places) - latents,
            self._caches(0),
            0,
            key_start=padding,
            key=latents_key,
        )
        return self._logits(x)

    def _inputs(self, symbols: Array, places: Array) -> Float[Array, "n dim"]:
        x = self.embedding(symbols.astype(jnp.int32))
        if self.positions is None:
            return x
        return x + self.positions.at[places].get(mode="clip")

    def _keys_values(self, normed: Float[Array, "n dim"], places: Int[Array, " n"]):
        """What is attended of positions, whose inputs are normed: of the prefix and of
        latents by norms of their own."""
        heads = self.cross.heads
        keys = rotary(heads.keys(normed), places, dims=self.rotary_dims)
        return keys, heads.values(normed)

    def _latents(
        self,
        own: Float[Array, "steps dim"],
        places: Int[Array, " steps"],
        keys_values: tuple[Array, Array],
        first: Int[Array, ""] | int,
        caches: tuple[Caches, ...],
        past: Int[Array, ""] | int,
        *,
        key_start: Int[Array, ""] | int = 0,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "steps latents dim"], tuple[Caches, ...]]:
        """The latents of positions, the first of which stands at key `first`, `past` of
        them being in the caches already."""
        steps = own.shape[0]
        x = own[:, None]
        if self.offsets.shape[0]:
            offset = jnp.concatenate([self.offsets, jnp.zeros_like(self.offsets[:1])])
            x = x + offset.astype(x.dtype)
        rows = x.shape[1]
        queries = rotary(self.cross.queries(x), places, dims=self.rotary_dims)
        seen = keys_values[0].shape[0]
        mask = StepMask(steps, seen, rows, 1, None, first, key_start)
        flat = queries.reshape(steps * rows, *queries.shape[2:])
        attended = attend(flat, *keys_values, mask)
        attended = attended.reshape(steps, rows, *attended.shape[1:])
        cross_key, *layer_keys = split_key(key, 1 + len(self.processors))
        x, kept = self.cross.finish(x, attended, key=cross_key), []
        for processor, cache, layer_key in zip(
            self.processors, caches, layer_keys, strict=True
        ):
            x, cache = processor(x, cache, past, key=layer_key)
            kept.append(cache)
        return x, tuple(kept)

    def _logits(self, latents: Array) -> Float[Array, "steps num_symbols"]:
        x = latents[:, -1]
        x = x if self.norm is None else self.norm(x)
        logits = x @ self.embedding.table.T.astype(x.dtype)
        return logits if self.bias is None else logits + self.bias.astype(x.dtype)

    def _caches(self, positions: int) -> tuple[Caches, ...]:
        rows, dtype = self.latents_per_position, self.embedding.table.dtype
        return tuple(p.empty_caches(rows, dtype, positions) for p in self.processors)

    def init_state(
        self, prompt: Integer[Array, " n"], *, latents: int = 1
    ) -> tuple[ARState, Float[Array, " num_symbols"]]:
        """The state after a prompt, and the logits of what follows it.

        Args:
            prompt: at least one symbol; of more than `max_symbols` the last ones count.
            latents: how many of them are latents at first, at most.

        Raises:
            ValueError: for no symbols, or no latents.
        """
        check_shape("prompt", prompt, "n")
        check_integers("prompt", prompt)
        check_sizes(latents=latents)
        prompt = prompt[-self.max_symbols :]
        count = prompt.shape[0]
        if count == 0:
            raise ValueError("`prompt` must hold at least 1 symbol, got none.")
        symbols = jnp.zeros(self.max_symbols, jnp.int32).at[:count].set(prompt)
        return self._read(
            symbols, jnp.int32(count), min(latents, count, self.max_latents)
        )

    def advance(
        self,
        state: ARState,
        symbol: Integer[Array, ""] | int,
        *,
        stride: int | None = None,
    ) -> tuple[ARState, Float[Array, " num_symbols"]]:
        """Append a symbol; the logits of what follows it.

        Args:
            stride: how many of the oldest latents, and of the oldest symbols, go when
                there is no room; a quarter of `max_latents` if `None`. With 1, there
                are always as many as possible, and each symbol costs a whole sequence.

        Raises:
            ValueError: for a stride that leaves no latents.
        """
        stride = max(1, self.max_latents // 4) if stride is None else stride
        check_sizes(stride=stride)
        if stride > self.max_latents:
            raise ValueError(
                f"`stride` must be at most {self.max_latents} (max_latents), got "
                f"{stride}."
            )
        symbol = jnp.asarray(symbol)
        full = state.count == self.max_symbols
        no_room = full | (state.count - state.prefix == self.max_latents)

        def begin_anew(state: ARState):
            dropped = jnp.where(full, stride, 0)
            symbols = jnp.roll(state.symbols, -dropped)
            count = state.count - dropped
            symbols = symbols.at[count].set(symbol.astype(jnp.int32))
            return self._read(symbols, count + 1, self.max_latents - stride + 1)

        return lax.cond(no_room, begin_anew, lambda s: self._append(s, symbol), state)

    def _append(self, state: ARState, symbol: Array):
        place = state.count[None]
        own = self._inputs(symbol[None], place)
        key, value = self._keys_values(self.cross.query_norm(own), place)
        keys, values, symbols = (
            x.at[state.count].set(new, mode="promise_in_bounds")
            for x, new in (
                (state.keys, key[0]),
                (state.values, value[0]),
                (state.symbols, symbol.astype(jnp.int32)),
            )
        )
        past = state.count - state.prefix
        x, caches = self._latents(
            own, place, (keys, values), state.count, state.caches, past
        )
        state = ARState(symbols, state.count + 1, state.prefix, keys, values, caches)
        return state, self._logits(x)[0]

    def _read(self, symbols: Array, count: Int[Array, ""], latents: int):
        """The state of the first symbols, so many of them, the last being latents; and
        the logits after them."""
        prefix = count - latents
        places = jnp.arange(self.max_symbols)
        inputs = self._inputs(symbols, places)
        is_latent = (places >= prefix)[:, None]
        normed = jnp.where(
            is_latent, self.cross.query_norm(inputs), self.cross.input_norm(inputs)
        )
        keys_values = self._keys_values(normed, places)
        own = lax.dynamic_slice_in_dim(inputs, prefix, latents)
        own_places = prefix + jnp.arange(latents)
        caches = self._caches(self.max_latents)
        x, caches = self._latents(own, own_places, keys_values, prefix, caches, 0)
        state = ARState(symbols, count, prefix, *keys_values, caches)
        return state, self._logits(x)[-1]

    def generate(
        self,
        prompt: Integer[Array, " n"],
        num_symbols: int,
        *,
        latents: int = 1,
        stride: int | None = None,
        draw: Callable[[Array, PRNGKeyArray], Array] = lambda logits, key: (
            jr.categorical(key, logits)
        ),
        key: PRNGKeyArray,
    ) -> Int[Array, " num_symbols"]:
        """What follows a prompt, symbol by symbol.

        Args:
            prompt, latents: as of `init_state`.
            num_symbols: how many; beyond `max_symbols` too.
            stride: as of `advance`.
            draw: takes a symbol by its logits; by default as probable as they say.
        """
        check_sizes(num_symbols=num_symbols)

        def step(carry, key):
            state, logits = carry
            symbol = draw(logits, key).astype(jnp.int32)
            return self.advance(state, symbol, stride=stride), symbol

        start = self.init_state(prompt, latents=latents)
        keys = jr.split(key, num_symbols)
        return lax.scan(step, start, keys)[1]
