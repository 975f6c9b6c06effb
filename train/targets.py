"""What a model makes of sources, beside what it should."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.random as jr
import numpy as np
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.chrf import CHRF

from perceiver_eqx import ByteLM, generate

from .data.pairs import Pair


class Agreement(NamedTuple):
    """How far what was made is from the targets: of several of one source, from the
    one whose words are the closest.

    Attributes:
        exact: share of the sources whose target was made.
        word_errors: words to put in, leave out or change, over the words of targets.
        byte_errors: likewise of bytes.
        chrf: the F-score of characters, up to six together, in 0 to 100.
        sources: how many there were.

    Source:
        Popović, "chrF" (2015), as sacrebleu computes it.
    """

    exact: float
    word_errors: float
    byte_errors: float
    chrf: float
    sources: int


def targets_of(pairs: Iterable[Pair]) -> dict[bytes, list[bytes]]:
    """Each source once, and its targets."""
    found: dict[bytes, list[bytes]] = {}
    for pair in pairs:
        found.setdefault(pair.source, []).append(pair.target)
    return found


def make_targets(
    model: ByteLM,
    sources: Sequence[bytes],
    *,
    num_bytes: int,
    stop: bytes = b"",
    batch_size: int = 64,
) -> list[bytes]:
    """The likeliest byte each time, from each source.

    Args:
        num_bytes: how many at most, at least 1.
        stop: what ends a target; nothing if all are of `num_bytes`.
        batch_size: sources at a time, at least 1.
    """
    # Those of about one length together; the last ones are filled up with others.
    order = sorted(range(len(sources)), key=lambda at: len(sources[at]))
    made = [b""] * len(sources)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        filled = chosen + chosen[-1:] * (batch_size - len(chosen))
        found = generate(
            model,
            [b""] * batch_size,
            num_bytes,
            temperature=0.0,
            context=[sources[at] for at in filled],
            stop=[stop] if stop else [],
            key=jr.key(0),
        )
        for at, data in zip(chosen, found, strict=False):
            made[at] = np.asarray(data).tobytes()
    return made


def agreement(made: Sequence[bytes], targets: Sequence[Sequence[bytes]]) -> Agreement:
    """What was made beside the targets of each source, at least one.

    Raises:
        ValueError: there is nothing to compare.
    """
    if not made:
        raise ValueError("`made` must hold at least one target, got none.")
    pairs = [
        (one, min(those, key=lambda target: _word_edits(one, target)))
        for one, those in zip(made, targets, strict=True)
    ]
    texts = [[text.decode(errors="replace") for text in pair] for pair in pairs]
    ours, theirs = map(list, zip(*texts, strict=True))
    return Agreement(
        float(np.mean([one == target for one, target in pairs])),
        sum(_word_edits(*pair) for pair in pairs)
        / max(1, sum(len(target.split()) for _, target in pairs)),
        sum(Levenshtein.distance(*pair) for pair in pairs)
        / max(1, sum(len(target) for _, target in pairs)),
        CHRF().corpus_score(ours, [theirs]).score,
        len(made),
    )


def _word_edits(one: bytes, other: bytes) -> int:
    return Levenshtein.distance(one.split(), other.split())
