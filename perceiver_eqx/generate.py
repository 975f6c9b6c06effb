"""Sampling: one byte after the other, from a state that never looks back."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int, Integer, PRNGKeyArray, UInt8

from .adapters.byte_lm import ByteLM, ByteState
from .adapters.bytes import NUM_BYTES
from .checks import check_shape, check_sizes


# Below this temperature, dividing by it would leave the range of float32.
COLDEST = 1e-6


def generate(
    model: ByteLM,
    prompt: bytes | bytearray | Integer[Array, " prompt"],
    num_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context: bytes | bytearray | Integer[Array, " source"] | None = None,
    key: PRNGKeyArray,
) -> UInt8[Array, " num_bytes"]:
    """Continue a prompt. The past is never computed again: each byte costs the same.

    Args:
        prompt: bytes to go on from; may be empty, and may end inside a step.
        num_bytes: how many to add, at least 1.
        temperature: divides the logits; 0 (and anything below 1e-6) takes the most
            likely byte.
        top_k: keep the `top_k` most likely bytes, 1 to 256.
        top_p: keep the fewest most likely bytes whose probabilities sum to `top_p`, in
            (0, 1], after `top_k`.
        context: bytes that every step sees, for a model with `use_context`.
        key: the same key gives the same bytes.

    Returns:
        the added bytes.

    Raises:
        ValueError: for a value outside its range.
        TypeError: for a model that is no `ByteLM`, or a prompt or context that is
            neither bytes nor integers.

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020)
        for `top_p`.
    """
    if not isinstance(model, ByteLM):
        raise TypeError(f"`model` must be a ByteLM, got {type(model).__name__}.")
    check_sizes(num_bytes=num_bytes)
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"`temperature` must be at least 0 and finite, got {temperature}."
        )
    if top_k is not None and not 1 <= top_k <= 256:
        raise ValueError(f"`top_k` must be between 1 and 256, got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], got {top_p}.")
    prompt = _symbols("prompt", prompt)
    context = None if context is None else _symbols("context", context)
    rules = (temperature, 256 if top_k is None else top_k, top_p or 1.0)
    return _generate(model, prompt, int(num_bytes), rules, context, key)


def filter_logits(
    logits: Float[Array, " symbols"],
    temperature: ArrayLike,
    top_k: ArrayLike,
    top_p: ArrayLike,
) -> Float[Array, " symbols"]:
    """Logits to sample from: `-inf` for symbols that are ruled out.

    Args:
        temperature: above 0; `top_k`, `top_p`: as in `generate`.
    """
    logits = (logits - logits.max()) / temperature
    order = jnp.argsort(logits, descending=True)
    ranks = jnp.arange(order.size)
    falling = jnp.where(ranks < top_k, logits[order], -jnp.inf)
    probabilities = jax.nn.softmax(falling)
    before = jnp.cumsum(probabilities) - probabilities
    # The most likely symbol always stays; further ones while the sum is short of top_p.
    kept = (before < top_p) | (jnp.asarray(top_p) >= 1) | (ranks == 0)
    return jnp.zeros_like(logits).at[order].set(jnp.where(kept, falling, -jnp.inf))


def _symbols(name: str, text) -> Int[Array, " n"]:
    if isinstance(text, bytes | bytearray):
        text = np.frombuffer(text, np.uint8)
    elif isinstance(text, str):
        raise TypeError(f"`{name}` must be bytes, got a str; pass {name}.encode().")
    kind = getattr(text, "dtype", None)
    if kind is None or not jnp.issubdtype(kind, jnp.integer):
        raise TypeError(f"`{name}` must be bytes or an integer array, got {text!r}.")
    check_shape(name, text, name)
    if isinstance(text, Tracer):  # it has no values yet to check
        return text.astype(jnp.int32)
    symbols = np.asarray(text)
    if symbols.size and not (0 <= symbols.min() and symbols.max() < NUM_BYTES):
        raise ValueError(
            f"`{name}` must hold bytes, 0 to 255, got {symbols.min()} to "
            f"{symbols.max()}."
        )
    return jnp.asarray(symbols, jnp.int32)


@eqx.filter_jit
def _generate(model, prompt, num_bytes, rules, context, key):
    per_step = model.bytes_per_step
    whole_steps, inside = divmod(prompt.size, per_step)
    steps = -(-(inside + num_bytes) // per_step)
    state = model.init_state(context, max_steps=whole_steps + steps)
    if whole_steps:
        whole = prompt[: whole_steps * per_step].reshape(whole_steps, per_step)
        state, _ = model.advance_latents(state, whole)
    # Of the step where the prompt ends, its last bytes are given, not drawn.
    given = jnp.full((steps, per_step), -1, jnp.int32)
    given = given.at[0, :inside].set(prompt[whole_steps * per_step :])

    def take_step(state, of_step):
        given, key = of_step
        return _sample_step(model, state, given, rules, key)

    _, drawn = lax.scan(take_step, state, (given, jr.split(key, steps)))
    return drawn.ravel()[inside : inside + num_bytes].astype(jnp.uint8)


def _sample_step(
    model: ByteLM,
    state: ByteState,
    given: Int[Array, " bytes_per_step"],
    rules: tuple,
    key: PRNGKeyArray,
) -> tuple[ByteState, Int[Array, " bytes_per_step"]]:
    """Draw the bytes of one step, but for those given (0 or more)."""
    # The step's own bytes do not matter to its latents, so any will do.
    after, latents = model.advance_latents(state, jnp.zeros_like(given)[None])
    readout = model.perceiver.decoder(latents)

    def take_byte(carry, of_byte):
        before, cache = carry
        position, readout, given, key = of_byte
        logits, cache = model.outputs.next_byte(readout, before, position, cache)
        byte = jnp.where(given >= 0, given, _draw(logits, rules, key))
        return (byte, cache), byte

    positions = jnp.arange(given.size)
    keys = jr.split(key, given.size)
    start = state.last_step[-1], model.outputs.empty_cache(model.dtype)
    _, drawn = lax.scan(take_byte, start, (positions, readout[0], given, keys))
    return ByteState(after.perceiver, drawn), drawn


def _draw(logits: Float[Array, " symbols"], rules: tuple, key) -> Int[Array, ""]:
    temperature, top_k, top_p = rules
    likeliest = jnp.argmax(logits)
    safe = jnp.maximum(temperature, COLDEST)
    drawn = jr.categorical(key, filter_logits(logits, safe, top_k, top_p))
    return jnp.where(temperature < COLDEST, likeliest, drawn).astype(jnp.int32)
