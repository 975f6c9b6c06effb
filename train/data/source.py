"""Whatever a run is trained on, as the loop takes it."""

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
from .pairs import Pair, fingerprint_of_pairs, read_pairs, split_pairs
from .stream import open_all, open_split
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
    return _pairs(config, data) if data.kind == "pairs" else _made_up(config, data)


def _bytes(config: TrainConfig, data: DataConfig) -> Source:
    stream, held_out, fingerprint = open_split(data.path, data.validation_fraction)
    sizes = {"window_bytes": data.window_bytes, "batch_size": config.batch_size}
    validation = partial(
        validation_batches, held_out, **sizes, max_bytes=data.validation_bytes
    )
    return Source(
        f"{len(stream):,} bytes to train on, {len(held_out):,} held out",
        fingerprint,
        lambda start: closing(
            training_batches(stream, **sizes, seed=config.seed, start=start)
        ),
        validation,
        [],
    )


def _pairs(config: TrainConfig, data: DataConfig) -> Source:
    if data.path is None:
        raise ValueError("`data.path` must name a file of pairs, got None.")
    pairs = read_pairs(data.path)
    train, held_out = split_pairs(pairs, data.validation_fraction)
    sizes = {
        "window_bytes": data.window_bytes,
        "context_bytes": data.context_bytes,
        "per_step": config.model.bytes_per_step,
    }
    examples, batch_size = Examples(train, **sizes), config.batch_size
    validation = partial(
        validation_pairs,
        Examples(held_out, **sizes),
        batch_size=batch_size,
        max_bytes=data.validation_bytes,
    )
    return Source(
        f"{len(train):,} pairs to train on, {len(held_out):,} held out",
        fingerprint_of_pairs([*train, *held_out]),
        lambda start: closing(
            training_pairs(
                examples, batch_size=batch_size, seed=config.seed, start=start
            )
        ),
        validation,
        held_out,
    )


def make_of(kind: str, path: Path | None, num_lines: int = 1) -> tuple[Make, str]:
    """What makes the sequences of a task that is made up, and its name by content.

    Args:
        kind: `"copy"` or `"needle"`.
        path: a file or folder that lines are hidden in, as `find_files` takes it.
        num_lines: how many.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    if kind == "copy":
        return copy_backwards, kind
    stream = open_all(path)
    hay = stream.read(0, min(len(stream), HAY))
    name = f"{kind} {num_lines} {blake2b(hay.tobytes(), digest_size=8).hexdigest()}"
    return Needles(hay, num_lines), name


def _made_up(config: TrainConfig, data: DataConfig) -> Source:
    if data.kind == "needle":
        check_multiples("a line to find", LINE, window_bytes=data.window_bytes)
    make, name = make_of(data.kind, data.path, data.window_bytes // LINE)
    batch_size, seed, full = config.batch_size, config.seed, data.context_bytes
    lengths = lengths_of(full, data.shortest_bytes, config.steps)
    for length, _ in lengths:
        one = make(np.random.default_rng(0), 1, length)["bytes"]
        per_step = config.model.bytes_per_step
        check_multiples("`bytes_per_step`", per_step, target_bytes=one.size)
    rows = max(1, data.validation_bytes // data.window_bytes)
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
