"""The loss: bits per byte over every position, never holding more than a chunk."""

import math
from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key, PRNGKeyArray, PyTree

from perceiver_eqx import ByteLM, ByteState
from perceiver_eqx.adapters.bytes import delayed
from perceiver_eqx.checks import check_multiples, check_shape, check_sizes
from perceiver_eqx.context import Context
from perceiver_eqx.draws import split_key
from perceiver_eqx.time_axis import TimeAxis, devices_in


# Up to this many chunks, the backward pass keeps every state carried between two. With
# more, it keeps those between groups of chunks, and goes through each group once more.
UNGROUPED_CHUNKS = 32

# From a model, a batch and a key, the bits and bytes of the batch, both summed.
Loss = Callable[
    [ByteLM, dict[str, Array], PRNGKeyArray | None],
    tuple[Float[Array, ""], Int[Array, ""]],
]


def sequence_bits(
    model: ByteLM,
    data: Integer[Array, " window_bytes"],
    length: Int[Array, ""],
    context: Integer[Array, "*source"] | None = None,
    *,
    context_length: Int[Array, ""] | None = None,
    chunk_steps: int,
    time: TimeAxis | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """Bits that the model spends on a sequence, summed over its bytes.

    With a finite latent window the model goes through the sequence chunk by chunk: a
    `lax.scan` of `advance`, each chunk computed again in the backward pass, exact
    gradients through what is carried. Memory is that of one chunk, and of carried
    states as many as the square root of the number of chunks, twice. With
    `latent_window=None` the latents of all steps are held, and only what goes in and
    out of them goes chunk by chunk.

    Over several devices each has its part of every chunk, and gives the bits of those.

    Args:
        data: bytes; a multiple of `model.bytes_per_step`.
        length: how many of them count, from the first on; all if it is more.
        context, context_length: bytes that every step sees, and how many of them are
            there; `None` for all.
        chunk_steps: steps of a chunk, at least 1.
        time: devices over which the steps lie, inside `jax.shard_map`: `data` are those
            of this one, runs of `chunk_steps` steps, and `context` its runs (runs,
            run). `None` for one.
        key: for dropout; `None` for none.

    Raises:
        TypeError, ValueError: for data of another shape or no whole number of steps, or
            chunks of less than a step.
    """
    check_sizes(chunk_steps=chunk_steps)
    check_shape("data", data, "window_bytes")
    per_step = model.bytes_per_step
    check_multiples("`bytes_per_step`", per_step, window_bytes=data.size)
    length = jnp.minimum(length, data.size * devices_in(time))
    tokens = data.reshape(-1, per_step)
    steps = tokens.shape[0]
    chunk = min(chunk_steps, steps)
    if time is not None:
        check_multiples("`chunk_steps`", chunk, steps=steps)
    count = -(-steps // chunk)
    carries = model.latent_window is not None
    group = math.isqrt(count) if carries and count > UNGROUPED_CHUNKS else 1
    count += -count % group
    # Zeros after the end are seen by nothing before it, and do not count.
    tokens = jnp.pad(tokens, ((0, count * chunk - steps), (0, 0)))
    chunks = tokens.reshape(count, chunk, per_step)
    indices = jnp.arange(count)
    rounds = indices if time is None else indices * time.size + time.index
    starts = rounds * (chunk * per_step)

    def bits(logits, tokens, start):
        places = start + jnp.arange(tokens.size).reshape(tokens.shape)
        return jnp.sum(jnp.where(places < length, symbol_bits(logits, tokens), 0.0))

    def advance_chunk(state, of_chunk):
        tokens, start, index = of_chunk
        state, logits = model.advance_unchecked(
            _with_context(state, known), tokens, time=time, key=_chunk_key(key, index)
        )
        return _with_context(state, None), bits(logits, tokens, start)

    if count == 1 and time is None:
        given = {"context_length": context_length, "key": _chunk_key(key, 0)}
        return bits(model(tokens, context, **given), tokens, 0)
    if time is not None and key is not None:
        key = jr.fold_in(key, time.index)
    context_key, key = split_key(key)
    start = model.keep_nothing(context, context_length, time=time, key=context_key)
    if not carries:
        return _bits_of_latents(model, start, chunks, starts, bits, time, key)
    # The context is the same for all chunks: it is no part of what they hand on.
    known = start.perceiver.context
    state = _with_context(model.init_state(), None)
    return _scan_chunks(advance_chunk, state, (chunks, starts, indices), group).sum()


def passes_forward(chunks: int) -> int:
    """How often a step goes through each of so many chunks: at first, and for its
    backward pass, and if there are very many for that of its group."""
    return 1 + (chunks > 1) + (chunks > UNGROUPED_CHUNKS)


def _with_context(state: ByteState, context: Context | None) -> ByteState:
    return eqx.tree_at(
        lambda s: s.perceiver.context, state, context, is_leaf=lambda x: x is None
    )


def _bits_of_latents(
    model: ByteLM,
    state: ByteState,
    chunks: Integer[Array, "chunks steps bytes_per_step"],
    starts: Int[Array, " chunks"],
    bits: Callable[[Array, Array, Array], Float[Array, ""]],
    time: TimeAxis | None,
    key: PRNGKeyArray | None,
) -> Float[Array, ""]:
    """Bits of a sequence whose latents are all held, since all see all before them:
    only what goes in and out of them goes chunk by chunk."""
    count, steps = chunks.shape[:2]
    keys = split_key(key, 3)
    indices = jnp.arange(count)
    perceiver = state.perceiver

    def read_chunk(carry, of_chunk):
        (inputs, before, prefix), (tokens, index) = carry, of_chunk
        input_key, encoder_key = split_key(_chunk_key(keys[0], index))
        features, inputs = model.inputs(
            tokens, inputs, model.dtype, time=time, key=input_key
        )
        step_late, byte_late, before = delayed(before, features, time)
        prefix, latents = model.perceiver.encode(
            replace(perceiver, prefix=prefix),
            model.inputs.tokens(step_late),
            time=time,
            key=encoder_key,
        )
        return (inputs, before, prefix), (latents, byte_late)

    def write_chunk(state, of_chunk):
        latents, byte_late, tokens, start, index = of_chunk
        readout_key, output_key = split_key(_chunk_key(keys[2], index))
        readout = model.perceiver.decoder(latents, key=readout_key)
        logits, state = model.outputs(
            readout, byte_late, state, time=time, key=output_key
        )
        return state, bits(logits, tokens, start)

    before = model.inputs.before_all(model.dtype)
    start = model.inputs.init_state(model.dtype), before, perceiver.prefix
    latents, byte_late = _scan_chunks(read_chunk, start, (chunks, indices))
    latents = latents.reshape(count * steps, *latents.shape[2:])
    # Each chunk is a run of this device.
    runs = None if time is None else replace(time, runs=count)
    _, latents = model.perceiver.process(perceiver, latents, time=runs, key=keys[1])
    latents = latents.reshape(count, steps, *latents.shape[1:])
    of_chunks = latents, byte_late, chunks, starts, indices
    start = model.outputs.layers.init_state(model.dtype)
    return _scan_chunks(write_chunk, start, of_chunks).sum()


def batch_bits(
    model: ByteLM,
    batch: dict[str, Array],
    key: PRNGKeyArray | Key[Array, " batch"] | None,
    *,
    chunk_steps: int,
    time: TimeAxis | None = None,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Bits and bytes of a batch, both summed.

    Args:
        batch: `bytes` (batch, window_bytes) and `length` (batch,), as the data gives
            them; for sequences with a context `context` (batch, source) and
            `context_length` (batch,) too.
        chunk_steps, time, key: as in `sequence_bits`; the key may be one for each
            sequence.
    """
    data, length = batch["bytes"], batch["length"]
    keys = key
    if key is not None and not _is_many(key):
        keys = jr.split(key, data.shape[0])
    given = {name: x for name, x in batch.items() if name.startswith("context")}

    def one(data, length, given, key):
        return sequence_bits(
            model, data, length, chunk_steps=chunk_steps, time=time, key=key, **given
        )

    return jax.vmap(one)(data, length, given, keys).sum(), length.sum()


def _is_many(key: Array) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 1


def _scan_chunks(take, carry, chunks, group: int = 1) -> PyTree[Array]:
    """What `take` gives of each chunk, by a scan whose backward pass computes the
    chunks again, one `group` of them after the other."""
    if jax.tree.leaves(chunks)[0].shape[0] == 1:
        _, found = take(carry, jax.tree.map(lambda x: x[0], chunks))
        return jax.tree.map(lambda x: x[None], found)
    take = jax.checkpoint(take)
    if group == 1:
        return lax.scan(take, carry, chunks)[1]

    @jax.checkpoint
    def take_group(carry, chunks):
        return lax.scan(take, carry, chunks)

    groups = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), chunks)
    return lax.scan(take_group, carry, groups)[1]


@jax.named_scope("train.bits")
def symbol_bits(
    logits: Float[Array, "*rows symbols"], symbols: Integer[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """Minus the base-2 logarithm of the probability of each symbol."""
    # Not by an index, whose gradient is a scatter: on a GPU slow, and in any order.
    known = symbols[..., None] == jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(known, logits, 0), -1)
    return (jax.nn.logsumexp(logits, -1) - chosen) / math.log(2)


def _chunk_key(key: PRNGKeyArray | None, index) -> PRNGKeyArray | None:
    return None if key is None else jr.fold_in(key, index)
