"""Whatever a run is trained on, as the loop takes it, and what is held out of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceiver_eqx.checks import check_multiples

from ..config import DataConfig, TrainConfig
from .examples import Examples, training_pairs, validation_pairs
from .files import Read
from .media import decode
from .pairs import (
    END,
    Pair,
    fingerprint_of_pairs,
    read_pairs,
    read_sequences,
    split_pairs,
)
from .stream import ByteStream, open_all, open_split
from .synthetic import (
    LINE,
    Make,
    Needles,
    copy_backwards,
    fresh,
    growing,
    lengths_of,
)
from .windows import Batch, training_batches, validation_batches


# Lines are hidden in the first so many bytes of what is at the path.
HAY = 1 << 24


class Source(NamedTuple):
    """Data, in two parts.

    Attributes:
        description: of both, for the person who watches.
        fingerprint: their name, by their content.
        training: batches without end from the batch of a number on, to be closed.
        validation: batches of what is held out, each once.
        held_out: pairs that are held out; none of plain bytes.
    """

    description: str
    fingerprint: str
    training: Callable[[int], AbstractContextManager[Iterator[Batch]]]
    validation: Callable[[], Iterator[Batch]]
    held_out: list[Pair]


def open_source(config: TrainConfig) -> Source:
    """The data of a run.

    Raises:
        FileNotFoundError, ValueError: there is nothing at its path, or nothing that can
            be used.
    """
    data = config.data
    if data.kind == "bytes":
        return _bytes(config, data)
    paired = data.kind in ("sequences", "pairs")
    return _pairs(config, data) if paired else _made_up(config, data)


def held_out_batches(
    data: DataConfig, *, per_step: int, batch_size: int, everything: bool = False
) -> tuple[Iterator[Batch], list[Pair]]:
    """What training on such data holds out, or all there is: its batches, each once,
    and its pairs.

    Args:
        data: of bytes, sequences or pairs.
        per_step: bytes of a step of the model.
    """
    if data.kind != "bytes":
        train, held_out = _parted(data)
        pairs = [*train, *held_out] if everything else held_out
        examples = _examples(pairs, data, per_step)
        return _validation(examples, data, batch_size), pairs
    check_multiples("`bytes_per_step`", per_step, window_bytes=data.window_bytes)
    if everything:
        stream = open_all(data.path, _read(data))
    else:
        _, stream, _ = open_split(data.path, data.validation_fraction, _read(data))
    return _windows(stream, data, batch_size), []


def _read(data: DataConfig) -> Read | None:
    return partial(decode, media=data.media) if data.decode else None


def _bytes(config: TrainConfig, data: DataConfig) -> Source:
    stream, held_out, fingerprint = open_split(
        data.path, data.validation_fraction, _read(data)
    )
    sizes = {"window_bytes": data.window_bytes, "batch_size": config.batch_size}
    return Source(
        f"{len(stream):,} bytes to train on, {len(held_out):,} held out",
        fingerprint,
        lambda start: closing(
            training_batches(stream, **sizes, seed=config.seed, start=start)
        ),
        lambda: _windows(held_out, data, config.batch_size),
        [],
    )


def _windows(
    held_out: ByteStream, data: DataConfig, batch_size: int
) -> Iterator[Batch]:
    return validation_batches(
        held_out,
        window_bytes=data.window_bytes,
        batch_size=batch_size,
        max_bytes=data.validation_bytes,
    )


def _parted(data: DataConfig) -> tuple[list[Pair], list[Pair]]:
    """Pairs, or sequences, to train on and held out."""
    path, how = data.path, {"read": _read(data) or Path.read_bytes, "ends": data.ends}
    if path is None:
        raise ValueError(f"`data.path` must name the {data.kind}, got None.")

    def found(path: Path) -> list[Pair]:
        if data.kind == "sequences":
            return read_sequences(path, **how)
        return read_pairs(path, data.target_path, **how)

    if data.validation_path is not None:
        return found(path), found(data.validation_path)
    return split_pairs(found(path), data.validation_fraction)


def _examples(pairs: list[Pair], data: DataConfig, per_step: int) -> Examples:
    check_multiples("`bytes_per_step`", per_step, window_bytes=data.window_bytes)
    return Examples(
        pairs,
        window_bytes=data.window_bytes,
        context_bytes=data.context_bytes if data.kind == "pairs" else None,
        per_step=per_step,
        end=END if data.ends else b"",
    )


def _validation(
    examples: Examples, data: DataConfig, batch_size: int
) -> Iterator[Batch]:
    return validation_pairs(
        examples, batch_size=batch_size, max_bytes=data.validation_bytes
    )


def _pairs(config: TrainConfig, data: DataConfig) -> Source:
    train, held_out = _parted(data)
    batch_size, per_step = config.batch_size, config.model.bytes_per_step
    examples, others = (_examples(pairs, data, per_step) for pairs in (train, held_out))
    return Source(
        f"{len(train):,} {data.kind} to train on, {len(held_out):,} held out",
        fingerprint_of_pairs([*train, *held_out]),
        lambda start: closing(
            training_pairs(
                examples, batch_size=batch_size, seed=config.seed, start=start
            )
        ),
        lambda: _validation(others, data, batch_size),
        held_out,
    )


def make_of(
    kind: str, path: Path | None, num_lines: int = 1, read: Read | None = None
) -> tuple[Make, str]:
    """What makes the sequences of a task that is made up, and its name by content.

    Args:
        kind: `"copy"` or `"needle"`.
        path, read: a file or folder that lines are hidden in, as `open_all` takes it.
        num_lines: how many.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    if kind == "copy":
        return copy_backwards, kind
    stream = open_all(path, read)
    hay = stream.read(0, min(len(stream), HAY))
    name = f"{kind} {num_lines} {blake2b(hay.tobytes(), digest_size=8).hexdigest()}"
    return Needles(hay, num_lines), name


def _made_up(config: TrainConfig, data: DataConfig) -> Source:
    if data.kind == "needle":
        check_multiples("a line to find", LINE, window_bytes=data.window_bytes)
    lines = data.window_bytes // LINE
    make, name = make_of(data.kind, data.path, lines, _read(data))
    batch_size, seed, full = config.batch_size, config.seed, data.context_bytes
    lengths = lengths_of(full, data.shortest_bytes, config.steps)
    for length, _ in lengths:
        one = make(np.random.default_rng(0), 1, length)["bytes"]
        per_step = config.model.bytes_per_step
        check_multiples("`bytes_per_step`", per_step, target_bytes=one.size)
    rows = max(1, (data.validation_bytes or full) // data.window_bytes)
    grown = " to ".join(f"{length:,}" for length, _ in lengths)
    return Source(
        f"contexts of {grown} bytes, made up for {data.kind}",
        f"{name} {lengths}",
        lambda start: closing(
            growing(make, lengths, batch_size=batch_size, seed=seed, start=start)
        ),
        lambda: fresh(make, full, rows=rows, batch_size=batch_size, seed=seed),
        [],
    )
