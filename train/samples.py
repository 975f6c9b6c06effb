"""What a model makes on the way: for a person to read, to hear or to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from perceiver_eqx import ByteLM, generate

from .config import TrainConfig
from .data.media import MediaConfig, encode, piano_roll
from .data.pairs import END, Pair


# Tasks that are made up have nothing to look at.
SAMPLED_KINDS = "bytes", "sequences", "pairs"
# How many sequences, and how many pairs.
SAMPLED = 3
# Letters that are shown of a source and of its target.
SHOWN = 600


class Sample(NamedTuple):
    """Bytes that were made.

    Attributes:
        given: the prompt, or the source of a pair.
        target: what should have been made of a source; `None` where there is none.
    """

    given: bytes
    target: bytes | None
    made: bytes


def make_samples(
    model: ByteLM, config: TrainConfig, key: PRNGKeyArray, pairs: Sequence[Pair]
) -> list[Sample]:
    """The prompt gone on with; or sequences from nothing; or targets of the first of
    some pairs."""
    kind, sample, pairs = config.data.kind, config.sample, pairs[:SAMPLED]
    given: dict = {"stop": [END]} if kind != "bytes" and config.data.ends else {}
    prompts = [sample.prompt.encode()] if kind == "bytes" else [b""] * SAMPLED
    if kind == "pairs":
        prompts = [b""] * len(pairs)
        given["context"] = [pair.source for pair in pairs]
    found = generate(
        model, prompts, sample.num_bytes, **sample.rules(), **given, key=key
    )
    made = [np.asarray(one).tobytes() for one in found]
    if kind == "pairs":
        return [Sample(*pair, one) for pair, one in zip(pairs, made, strict=True)]
    return [Sample(text, None, one) for text, one in zip(prompts, made, strict=True)]


def text_of(samples: Sequence[Sample]) -> str:
    """Samples as text, of sources and their targets the beginning; of what is no text,
    how much there is."""

    def told(sample: Sample) -> str:
        if sample.target is None:
            return _shown(sample.given + sample.made)
        given, target = (_begun(_shown(x)) for x in (sample.given, sample.target))
        return f"{given}\n  given {target}\n  made  {_shown(sample.made)}"

    return "\n".join(map(told, samples))


def _begun(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} letters)"


def _shown(data: bytes) -> str:
    text = data.decode(errors="replace")
    controls = sum(not (letter.isprintable() or letter.isspace()) for letter in text)
    # What a model makes of text may hold a few.
    return text if controls <= len(text) // 8 else f"({len(data):,} bytes, no text)"


def save_samples(
    samples: Sequence[Sample], config: TrainConfig, step: int
) -> Path | None:
    """Writes samples into the run's folder as one file of the kind that its config
    says, unless they are empty."""
    data, suffix = config.data, config.sample.suffix
    path = config.out / "samples" / f"step_{step:06}{suffix}"
    path.parent.mkdir(exist_ok=True)
    made = [sample.given * (data.kind == "bytes") + sample.made for sample in samples]
    return save(b"".join(made), path, data.media)


def save(data: bytes, path: Path, media: MediaConfig) -> Path | None:
    """Writes bytes as a file of the kind that its suffix says, and beside music a
    picture of it, unless they are empty."""
    if not data:
        return None
    encode(data, path, media)
    if path.suffix == ".mid":
        piano_roll(data, path.with_suffix(".png"), media)
    return path
