"""Which byte comes next: rules on logits."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray


# Below this temperature, dividing by it would leave the range of float32.
COLDEST = 1e-6

# How many of the newest bytes processors and the repetition penalty look at.
RECENT = 64

# From the logits of the next byte and the `RECENT` bytes before it (-1 where there were
# none), other logits. It is compiled, so it is made of JAX operations.
Processor = Callable[[Float[Array, " symbols"], Int[Array, " recent"]], Array]


class Rules(eqx.Module):
    """How to draw a byte."""

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    min_p: Float[Array, ""]
    repetition_penalty: Float[Array, ""]
    processors: tuple[Processor, ...] = eqx.field(static=True)

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        processors: Sequence[Processor] = (),
    ):
        """
        Args:
            temperature: divides the logits; 0 (and anything below 1e-6) takes the most
                likely byte.
            top_k: keep the `top_k` most likely bytes, 1 to 256.
            top_p: keep the fewest most likely bytes whose probabilities sum to `top_p`,
                in (0, 1], after `top_k`.
            min_p: keep bytes that are at least `min_p` times as probable as the most
                likely one, in [0, 1].
            repetition_penalty: above 0; divides the positive logits of the bytes among
                the last 64, and multiplies their negative ones. 1 for none.
            processors: functions of the logits and of the last 64 bytes, applied in
                their order before all else.

        Raises:
            ValueError: for a value outside its range.

        Source:
            Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), for
            `top_p`; Nguyen et al., "Turning Up the Heat" (2024), for `min_p`; Keskar et
            al., "CTRL" (2019), §4.1, for the penalty.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(
                f"`temperature` must be at least 0 and finite, got {temperature}."
            )
        if top_k is not None and not 1 <= top_k <= 256:
            raise ValueError(f"`top_k` must be between 1 and 256, got {top_k}.")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"`top_p` must lie in (0, 1], got {top_p}.")
        if min_p is not None and not 0 <= min_p <= 1:
            raise ValueError(f"`min_p` must lie in [0, 1], got {min_p}.")
        if not 0 < repetition_penalty < math.inf:
            raise ValueError(
                "`repetition_penalty` must be above 0 and finite, got "
                f"{repetition_penalty}."
            )
        self.temperature = jnp.float32(temperature)
        self.top_k = jnp.int32(256 if top_k is None else top_k)
        self.top_p = jnp.float32(1.0 if top_p is None else top_p)
        self.min_p = jnp.float32(min_p or 0.0)
        self.repetition_penalty = jnp.float32(repetition_penalty)
        self.processors = tuple(processors)

    def draw(
        self,
        logits: Float[Array, " symbols"],
        recent: Int[Array, " recent"],
        key: PRNGKeyArray,
    ) -> Int[Array, ""]:
        """The next byte."""
        logits = self.process(logits, recent)
        coldest = self.temperature < COLDEST
        kept = filter_logits(
            logits,
            jnp.where(coldest, 1.0, self.temperature),
            self.top_k,
            self.top_p,
            self.min_p,
        )
        drawn = jr.categorical(key, kept)
        return jnp.where(coldest, jnp.argmax(logits), drawn).astype(jnp.int32)

    def process(
        self, logits: Float[Array, " symbols"], recent: Int[Array, " recent"]
    ) -> Float[Array, " symbols"]:
        """The logits after the processors and the penalty."""
        for processor in self.processors:
            logits = processor(logits, recent)
        seen = jnp.any(jnp.arange(logits.size) == recent[:, None], 0)
        penalty = self.repetition_penalty
        less = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(seen, less, logits)


def filter_logits(
    logits: Float[Array, " symbols"],
    temperature: ArrayLike,
    top_k: ArrayLike,
    top_p: ArrayLike,
    min_p: ArrayLike = 0.0,
) -> Float[Array, " symbols"]:
    """Logits to sample from: `-inf` for symbols that are ruled out.

    Args:
        temperature: above 0; `top_k`, `top_p`, `min_p`: as in `Rules`.
    """
    logits = (logits - logits.max()) / temperature
    order = jnp.argsort(logits, descending=True)
    ranks = jnp.arange(order.size)
    falling = jnp.where(ranks < top_k, logits[order], -jnp.inf)
    probabilities = jax.nn.softmax(falling)
    before = jnp.cumsum(probabilities) - probabilities
    # The most likely symbol always stays; further ones while the sum is short of top_p.
    kept = (before < top_p) | (jnp.asarray(top_p) >= 1) | (ranks == 0)
    kept &= jnp.exp(falling) >= min_p
    return jnp.zeros_like(logits).at[order].set(jnp.where(kept, falling, -jnp.inf))
