"""Sampling: one byte after the other, from a state that never looks back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Integer, PRNGKeyArray, UInt8

from .adapters.byte_lm import ByteLM, ByteState


def generate(
    model: ByteLM,
    prompt: bytes | Integer[Array, " prompt"],
    num_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context: Integer[Array, " source"] | None = None,
    key: PRNGKeyArray,
) -> UInt8[Array, " num_bytes"]:
    """Continue a prompt. The past is never computed again: each byte costs the same.

    Args:
        prompt: bytes to go on from; may be empty, and may end inside a step.
        num_bytes: how many to add, at least 1.
        temperature: divides the logits; 0 takes the most likely byte.
        top_k: keep the `top_k` most likely bytes, 1 to 256.
        top_p: keep the fewest most likely bytes whose probabilities sum to `top_p`, in
            (0, 1], after `top_k`.
        context: bytes that every step sees, for a model with `use_context`.
        key: the same key gives the same bytes.

    Returns:
        the added bytes.

    Raises:
        ValueError: for a value outside its range.

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020)
        for `top_p`.
    """
    if num_bytes < 1:
        raise ValueError(f"`num_bytes` must be at least 1, got {num_bytes}.")
    if temperature < 0:
        raise ValueError(f"`temperature` must be at least 0, got {temperature}.")
    if top_k is not None and not 1 <= top_k <= 256:
        raise ValueError(f"`top_k` must be between 1 and 256, got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], got {top_p}.")
    if isinstance(prompt, bytes):
        prompt = jnp.frombuffer(prompt, jnp.uint8) if prompt else jnp.zeros(0, int)
    prompt = prompt.astype(jnp.int32)
    rules = (temperature, 256 if top_k is None else top_k, top_p or 1.0)
    return _generate(model, prompt, num_bytes, rules, context, key)


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
    logits = logits / temperature
    falling = jnp.sort(logits, descending=True)
    probabilities = jax.nn.softmax(
        jnp.where(jnp.arange(falling.size) < top_k, falling, -jnp.inf)
    )
    before = jnp.cumsum(probabilities) - probabilities
    # The most likely symbol always stays; further ones while the sum is short of top_p.
    kept = jnp.sum((before < top_p) & (probabilities > 0))
    least = falling[jnp.maximum(kept, 1) - 1]
    return jnp.where(logits >= least, logits, -jnp.inf)


@eqx.filter_jit
def _generate(model, prompt, num_bytes, rules, context, key):
    per_step = model.bytes_per_step
    whole_steps, inside = divmod(prompt.size, per_step)
    steps = -(-(inside + num_bytes) // per_step)
    state = model.init_state(context, max_steps=whole_steps + steps)
    if whole_steps:
        whole = prompt[: whole_steps * per_step].reshape(whole_steps, per_step)
        state, _ = model.advance_readout(state, whole)
    # Of the step where the prompt ends, its last bytes are given, not drawn.
    given = jnp.full((steps, per_step), -1)
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
    # The step's own bytes do not matter to its readout, so any will do.
    after, readout = model.advance_readout(state, jnp.zeros_like(given)[None])

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
    safe = jnp.where(temperature == 0, 1.0, temperature)
    drawn = jr.categorical(key, filter_logits(logits, safe, top_k, top_p))
    return jnp.where(temperature == 0, likeliest, drawn)
