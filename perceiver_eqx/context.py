"""The context as it is asked: its tokens as keys and values, which every layer between
latents attends, by content and by place.

What the encoder's fixed queries pool of a context is one average, whatever it holds. To
copy, to translate or to find, a latent must ask a question of its own.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .attention.attend import attend
from .attention.masks import StepMask, first_keys
from .attention.ring import ring_ask
from .attention.softmax import SoftmaxAverage
from .checks import check_shape
from .draws import split_key
from .layers import Linear
from .norms import LayerNorm, RMSNorm
from .positions import sinusoids
from .time_axis import TimeAxis, last_of


# Channels of a place; half of them wavelengths, from 2 pi to millions of places.
PLACE_DIM = 128


class Memory(eqx.Module):
    """The keys and values of a context's tokens.

    Attributes:
        keys, values: of the tokens, and room for more.
        count: how many tokens there are. A number if it is known when compiling.
        grows: whether more tokens make the arrays longer; else they must find room.
    """

    keys: Float[Array, "capacity heads head_dim"]
    values: Float[Array, "capacity heads head_dim"]
    count: Int[Array, ""] | int
    grows: bool = eqx.field(static=True)

    @property
    def capacity(self) -> int:
        """For how many tokens there is room."""
        return self.keys.shape[0]

    def extend(
        self,
        keys: Float[Array, "more heads head_dim"],
        values: Float[Array, "more heads head_dim"],
        count: Int[Array, ""] | int,
    ) -> "Memory":
        """The memory with more tokens, of which the first `count` are there.

        Raises:
            ValueError: there would be no room for them in an empty memory.
            RuntimeError: when run, if there is no room for them.
        """
        total = self.count + count
        if self.grows:
            keys, values = (
                jnp.concatenate([old, new.astype(old.dtype)])
                for old, new in ((self.keys, keys), (self.values, values))
            )
            return Memory(keys, values, total, grows=True)
        if keys.shape[0] > self.capacity:
            raise ValueError(
                f"a piece of the context must find room among {self.capacity} tokens, "
                f"got {keys.shape[0]}; pass a larger `max_context` to `init_state`."
            )
        total = eqx.error_if(
            total,
            total > self.capacity,
            f"the context goes past the {self.capacity} tokens that there is room for; "
            "pass a larger `max_context` to `init_state`.",
        )
        # A piece that is filled up may reach past the end: it is put where it fits.
        room = ((0, keys.shape[0]), (0, 0), (0, 0))

        def put(old, new):
            new = new.astype(old.dtype)
            longer = lax.dynamic_update_slice_in_dim(
                jnp.pad(old, room), new, self.count, 0
            )
            return longer[: self.capacity]

        return Memory(put(self.keys, keys), put(self.values, values), total, False)

    def mask(self, rows: int) -> StepMask | None:
        """Who may be asked by so many rows; `None` for all."""
        if isinstance(self.count, int) and self.count == self.capacity:
            return None
        return first_keys(rows, self.capacity, self.count)

    @property
    def total(self) -> Int[Array, ""] | int:
        """How many tokens the context has."""
        return self.count

    def told(
        self, queries: Float[Array, "rows heads head_dim"]
    ) -> Float[Array, "rows heads head_dim"]:
        """What the tokens answer."""
        return attend(queries, self.keys, self.values, self.mask(queries.shape[0]))


class MemoryOver(eqx.Module):
    """The keys and values of a context's tokens that lie over devices, seen from one.

    Attributes:
        keys, values: of the tokens of this device.
        count: how many of them are there, the first ones.
        total: how many tokens the context has.
        time: the devices.
    """

    keys: Float[Array, "capacity heads head_dim"]
    values: Float[Array, "capacity heads head_dim"]
    count: Int[Array, ""]
    total: Int[Array, ""] | int
    time: TimeAxis = eqx.field(static=True)

    @property
    def capacity(self) -> int:
        """For how many tokens there is room on a device."""
        return self.keys.shape[0]

    def told(
        self, queries: Float[Array, "rows heads head_dim"]
    ) -> Float[Array, "rows heads head_dim"]:
        """What the tokens of all devices answer."""
        return ring_ask(queries, self.keys, self.values, self.count, self.time)


class Context(eqx.Module):
    """What is known of a context.

    Attributes:
        seen: what the encoder's latents see of it, pooled.
        memory: what is asked of it; `None` for a model that does not ask.
        before: what the last tokens give to the keys of those to come.
    """

    seen: SoftmaxAverage
    memory: Memory | MemoryOver | None
    before: Float[Array, "most_behind heads head_dim"] | None


class Remember(eqx.Module):
    """From the tokens of a context to keys and values.

    A key knows the place of its value, and what stands some tokens before it: of a head
    none, of another a step's number of them. So a latent finds the like of itself, or
    what comes after the like of what it has just read.

    Source:
        Olsson et al., "In-context Learning and Induction Heads" (2022), for keys of
        what stands before.
    """

    norm: LayerNorm
    key: Linear
    place: Linear
    value: Linear
    key_norm: RMSNorm | None
    behind: tuple[int, ...] = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        context_dim: int,
        dim: int,
        num_heads: int,
        *,
        stride: int = 1,
        most_behind: int = 1,
        qk_norm: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            context_dim: channels of a token.
            dim, num_heads: channels of all heads' keys, and of their values.
            stride: places that a token takes.
            most_behind: tokens by which the last head's keys are behind its values; the
                first one's are not, and the others' lie between.
            qk_norm: norm every head's keys.
        """
        keys = split_key(key, 3)
        self.norm = LayerNorm(context_dim)
        self.key = Linear(context_dim, dim, key=keys[0])
        self.place = Linear(PLACE_DIM, dim, use_bias=False, key=keys[1])
        self.value = Linear(context_dim, dim, key=keys[2])
        self.key_norm = RMSNorm(dim // num_heads) if qk_norm else None
        # Rounded up, so that a single head's are behind.
        self.behind = tuple(
            -(-most_behind * (head + (num_heads == 1)) // max(num_heads - 1, 1))
            for head in range(num_heads)
        )
        self.stride = stride

    @property
    def num_heads(self) -> int:
        """How many heads there are."""
        return len(self.behind)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.key.weight.shape[-1] // self.num_heads

    def empty(self, capacity: int, dtype: DTypeLike, *, grows: bool) -> Memory:
        """A memory that holds nothing yet."""
        shape = capacity, self.num_heads, self.head_dim
        # Two arrays, or a state could not be donated.
        return Memory(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), 0, grows)

    def nothing_before(
        self, dtype: DTypeLike
    ) -> Float[Array, "most_behind heads head_dim"]:
        """What the first tokens' keys know of those before them."""
        return jnp.zeros((max(self.behind), self.num_heads, self.head_dim), dtype)

    @jax.named_scope("pqx.remember")
    def __call__(
        self,
        tokens: Float[Array, "more context_dim"],
        first: Int[Array, ""] | int,
        before: Float[Array, "most_behind heads head_dim"],
        time: TimeAxis | None = None,
    ) -> tuple[
        tuple[Float[Array, "more heads head_dim"], Float[Array, "more heads head_dim"]],
        Float[Array, "most_behind heads head_dim"],
    ]:
        """The keys and values of tokens, `first` of which came before them; and what to
        give to those after. Of this device's, a run, if they lie over several."""
        dim = self.norm.scale.size
        check_shape("context", tokens, "source context_dim", context_dim=dim)
        normed = self.norm(tokens)
        shape = tokens.shape[0], self.num_heads, self.head_dim
        own = self.key(normed).reshape(shape).astype(before.dtype)
        after = None
        if time is not None:
            before, after = time.before(last_of(own, before.shape[0]), before)
        found = jnp.concatenate([before, own])
        starts = [before.shape[0] - behind for behind in self.behind]
        key = jnp.stack(
            [found[s : s + shape[0], head] for head, s in enumerate(starts)], axis=1
        )
        places = self.stride * (first + jnp.arange(shape[0]))
        key = key + self.place(_places(places, key.dtype)).reshape(shape)
        if self.key_norm is not None:
            key = self.key_norm(key)
        value = self.value(normed).reshape(shape)
        if after is None:
            after = found[found.shape[0] - before.shape[0] :]
        return (key, value), after


class Questions(eqx.Module):
    """What a layer needs in order to ask.

    Attributes:
        memory: what is asked.
        places: those of the steps that ask, counted from both ends of the context.
    """

    memory: Memory | MemoryOver
    places: Float[Array, "steps both_places"]


def questions(
    memory: Memory | MemoryOver,
    steps: Int[Array, " steps"],
    *,
    step_places: int,
    token_places: int,
    dtype: DTypeLike,
) -> Questions:
    """The questions of steps, by where they stand.

    A step asks from as far from the beginning of the context as it is itself from that
    of the sequence, and as far from its end. So to read on alongside, and to read
    backwards from the end, is the same at every step and every length.

    Args:
        steps: how many came before each of them.
        step_places, token_places: places that a step takes, and a token of the context.
        dtype: of what asks.
    """
    starts = step_places * steps
    left = token_places * memory.total - starts
    both = [_places(starts, dtype), _places(left, dtype)]
    return Questions(memory, jnp.concatenate(both, axis=-1))


def _places(places: Int[Array, " n"], dtype: DTypeLike) -> Float[Array, "n place_dim"]:
    return sinusoids(places, PLACE_DIM).astype(dtype)


class Ask(eqx.Module):
    """Pre-norm attention of latents to the whole context, whose queries are made of
    the latents and of where their step stands."""

    norm: LayerNorm
    query: Linear
    place: Linear
    output: Linear
    query_norm: RMSNorm | None
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: bool = False,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim, num_heads: channels of a latent, and heads that divide them.
            qk_norm: norm every head's queries.
            scale: factor on the initial deviation of the output projection.
        """
        keys = split_key(key, 3)
        self.norm = LayerNorm(dim)
        self.query = Linear(dim, dim, key=keys[0])
        self.place = Linear(2 * PLACE_DIM, dim, use_bias=False, key=keys[1])
        # Without a bias, nothing comes from a context of nothing.
        self.output = Linear(dim, dim, use_bias=False, scale=scale, key=keys[2])
        self.query_norm = RMSNorm(dim // num_heads) if qk_norm else None
        self.num_heads = num_heads

    @jax.named_scope("pqx.ask")
    def __call__(
        self, x: Float[Array, "steps rows dim"], asked: Questions
    ) -> Float[Array, "steps rows dim"]:
        """What the latents are told, to be added to them."""
        steps, rows, dim = x.shape
        query = self.query(self.norm(x)) + self.place(asked.places)[:, None]
        query = query.reshape(steps * rows, self.num_heads, -1)
        if self.query_norm is not None:
            query = self.query_norm(query)
        told = asked.memory.told(query)
        return self.output(told.reshape(steps, rows, dim).astype(x.dtype))
