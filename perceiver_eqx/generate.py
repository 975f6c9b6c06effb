"""Generation: one byte after the other, from a state that never looks back."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from .adapters.byte_lm import ByteLM
from .adapters.byte_state import ByteState
from .adapters.bytes import Symbols
from .adapters.open_step import begin_step, end_step, predict, put, ready
from .checks import check_sizes
from .prompts import read_prompts
from .sampling import Processor, Rules


def generate(
    model: ByteLM,
    prompt: Symbols | Sequence[Symbols],
    num_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    processors: Sequence[Processor] = (),
    stop: bytes | Sequence[bytes] = (),
    num_samples: int | None = None,
    context: Symbols | Sequence[Symbols] | None = None,
    state: ByteState | None = None,
    key: PRNGKeyArray,
) -> UInt8[Array, " num_bytes"] | list[UInt8[Array, " num_bytes"]]:
    """Continue a prompt. The past is never computed again: each byte costs the same.

    It runs on the host and jits its parts: each of up to four sizes of pieces by which
    prompts enter, and one step for so many rows, compile once whatever the lengths;
    with `latent_window=None` for each power of two. Contexts are filled up to few
    sizes.

    Args:
        prompt: bytes to go on from, or a list of such, of any lengths. May be empty,
            and may end inside a step.
        num_bytes: how many to add at most, at least 1.
        temperature, top_k, top_p, min_p, repetition_penalty, processors: how to draw a
            byte, as in `Rules`.
        stop: generation ends before the first of these byte strings.
        num_samples: how many continuations of the one prompt; `None` for one alone.
        context: bytes that every step sees, for a model with `use_context`; of a list
            of prompts, one for all or a list of one for each.
        state: where to go on from; `None` for the beginning. It is left as it is.
        key: the same key gives the same bytes. A list of prompts, and several samples,
            take one each of `jax.random.split(key, len(prompts))`.

    Returns:
        the added bytes; a list of them for a list of prompts or several samples.

    Raises:
        ValueError: for a value outside its range, or a context beside a state (the
            state has its own).
        TypeError: for a model that is no `ByteLM`, or a prompt, context or stop that is
            neither bytes nor integers.
        RuntimeError, ValueError: if the bytes go past the `max_steps` of `state`.
    """
    rules = Rules(temperature, top_k, top_p, min_p, repetition_penalty, processors)
    many = isinstance(prompt, list | tuple)
    if num_samples is not None:
        check_sizes(num_samples=num_samples)
        if many:
            raise ValueError(
                "`num_samples` must be None for a list of prompts, got "
                f"{num_samples} for {len(prompt)} prompts. Repeat the prompts instead."
            )
    prompts = list(prompt) if many else [cast(Symbols, prompt)]
    stops = _stops(stop)
    if not prompts:
        return []
    rows = _rows(model, prompts, num_bytes, context, state)
    count = len(prompts) * (num_samples or 1)
    alone = not many and num_samples is None
    keys = key[None] if alone else jr.split(key, count)
    texts = [bytearray() for _ in range(count)]
    ends: list[int | None] = [None] * count
    for drawn in _draw(model, rules, rows, keys, num_bytes):
        for at, (text, more) in enumerate(zip(texts, drawn, strict=True)):
            if ends[at] is None:
                text += more
                ends[at] = _end(text, len(text) - len(more), stops)
        if None not in ends:
            break
    found = [
        jnp.asarray(np.frombuffer(text[:end], np.uint8))
        for text, end in zip(texts, ends, strict=True)
    ]
    return found[0] if alone else found


def stream(
    model: ByteLM,
    prompt: Symbols,
    num_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    processors: Sequence[Processor] = (),
    stop: bytes | Sequence[bytes] = (),
    context: Symbols | None = None,
    state: ByteState | None = None,
    key: PRNGKeyArray,
) -> Iterator[bytes]:
    """`generate`, step by step: the same bytes, as soon as they are known.

    Args:
        As `generate` takes them.

    Yields:
        the next bytes, at most those of a step, and none that may yet turn out to be
        the beginning of a `stop`.

    Raises:
        As `generate` does, before the first byte.
    """
    rules = Rules(temperature, top_k, top_p, min_p, repetition_penalty, processors)
    stops = _stops(stop)
    rows = _rows(model, [prompt], num_bytes, context, state)
    drawn = _draw(model, rules, rows, key[None], num_bytes)
    return _told(drawn, stops)


def _told(drawn: Iterator[list[bytes]], stops: Sequence[bytes]) -> Iterator[bytes]:
    text, told = bytearray(), 0
    for (more,) in drawn:
        text += more
        end = _end(text, len(text) - len(more), stops)
        safe = len(text) - _begun(text, stops) if end is None else end
        if safe > told:
            yield bytes(text[told:safe])
            told = safe
        if end is not None:
            return
    if len(text) > told:
        yield bytes(text[told:])


def _stops(stop: bytes | Sequence[bytes]) -> list[bytes]:
    stops = [stop] if isinstance(stop, bytes) else list(stop)
    for one in stops:
        if not isinstance(one, bytes):
            raise TypeError(f"`stop` must be bytes or a list of them, got {one!r}.")
        if not one:
            raise ValueError(f"`stop` must hold no empty bytes, got {stop!r}.")
    return stops


def _end(text: bytearray, seen: int, stops: Sequence[bytes]) -> int | None:
    """Where the first of the stops begins, of which none lies in the first `seen`."""
    places = [text.find(one, max(0, seen - len(one) + 1)) for one in stops]
    return min((place for place in places if place >= 0), default=None)


def _begun(text: bytearray, stops: Sequence[bytes]) -> int:
    """How many of the last bytes may be the beginning of a stop."""
    lengths = range(max(map(len, stops), default=1) - 1, 0, -1)
    return next((n for n in lengths if any(text.endswith(one[:n]) for one in stops)), 0)


class Row(eqx.Module):
    """A continuation: where it stands, the newest bytes, how many steps were drawn."""

    state: ByteState
    recent: Int[Array, " recent"]
    steps: Int[Array, ""]


def _rows(model: ByteLM, prompts: Sequence[Symbols], *arguments) -> Row:
    states, recent = read_prompts(model, prompts, *arguments)
    steps = jnp.zeros(len(prompts), jnp.int32)
    return jax.vmap(Row)(states, jnp.asarray(recent), steps)


def _draw(
    model: ByteLM,
    rules: Rules,
    rows: Row,
    keys: Array,
    num_bytes: int,
) -> Iterator[list[bytes]]:
    """The next bytes for every key, step by step, until each has `num_bytes`: of its
    row, or of the only one."""
    model = ready(model)
    copies = len(keys) // len(rows.steps)
    stacked = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), rows)
    given = np.sum(np.asarray(stacked.state.unfinished) >= 0, 1).tolist()
    left = [num_bytes] * len(keys)

    def told(drawn) -> list[bytes]:
        found = []
        for at, symbols in enumerate(np.asarray(drawn, np.uint8)):
            new = symbols[given[at] :][: left[at]]
            given[at], left[at] = 0, left[at] - new.size
            found.append(new.tobytes())
        return found

    # Rows end their steps at unequal bytes: one may need a step less than another.
    needed = -(-(np.array(given) + num_bytes) // model.bytes_per_step)
    # The next step is on its way while the last one is looked at.
    coming = None
    for taken in range(needed.max()):
        done = jnp.asarray(taken >= needed)
        stacked, drawn = _draw_step((model, rules, keys, done), stacked)
        if coming is not None:
            yield told(coming)
        coming = drawn
    yield told(coming)


@eqx.filter_jit(donate="all-except-first")
def _draw_step(fixed: tuple[ByteLM, Rules, Array, Bool[Array, " rows"]], rows: Row):
    """`draw_step` for every row. Of those that are done nothing is read any more, and
    their steps are not counted: there may be no room for more."""
    model, rules, keys, done = fixed
    counted = jnp.where(done, 0, rows.state.perceiver.steps)
    rows = eqx.tree_at(lambda rows: rows.state.perceiver.steps, rows, counted)
    return jax.vmap(partial(draw_step, model, rules))(rows, keys)


def draw_step(
    model: ByteLM, rules: Rules, row: Row, key: PRNGKeyArray
) -> tuple[Row, Int[Array, " bytes_per_step"]]:
    """The bytes of the next step: those that are given already, and the others drawn.

    Args:
        key: the same for all steps of a row.
    """
    state, given = row.state, row.state.unfinished
    after, step = begin_step(model, state)

    def draw_byte(carry, of_byte):
        step, recent = carry
        position, given, key = of_byte
        step, logits = predict(model, step, position)
        byte = jnp.where(given >= 0, given, rules.draw(logits, recent, key))
        step = put(model, step, position, byte)
        return (step, jnp.append(recent[1:], byte)), byte

    keys = jr.split(jr.fold_in(key, row.steps), given.size)
    of_bytes = jnp.arange(given.size), given, keys
    (step, recent), drawn = lax.scan(draw_byte, (step, row.recent), of_bytes)
    return Row(end_step(after, step), recent, row.steps + 1), drawn
