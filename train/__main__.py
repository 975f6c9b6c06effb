"""The command line: `python -m train [COMMAND] --help`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax.random as jr
import tyro

from perceiver_eqx import ByteLM, stream
from perceiver_eqx.checks import check_multiples
from perceiver_eqx.pretrained.native import load

from . import configs
from .accuracy import accuracy
from .compress import compress, decompress
from .config import SampleConfig, TrainConfig
from .data.pairs import END
from .data.source import make_of
from .data.stream import open_all, open_split
from .data.synthetic import LINE, fresh, is_value
from .data.windows import validation_batches
from .evaluate import evaluate
from .loop import train
from .loss import batch_bits


USAGE = """\
python -m train [COMMAND] [OPTIONS]

  train [CONFIG]   train a model on any file or folder, as bytes (the default)
  sample           continue a prompt with a trained model, byte by byte
  evaluate         bits per byte of a trained model on any file or folder
  compress         make a file smaller, without loss, by a trained model
  decompress       make it what it was

COMMAND --help lists the options. CONFIG is one of: {configs}.
"""


@dataclass(frozen=True)
class SampleOptions(SampleConfig):
    """Continue a prompt with a trained model, byte by byte as they come. `--prompt -`
    reads it from the standard input."""

    model: Path = Path("runs/laptop/model.safetensors")
    """The model's file."""
    min_p: float | None = None
    """Keep bytes at least so many times as probable as the most likely one."""
    repetition_penalty: float = 1.0
    """Weakens the bytes among the last 64; 1 for none."""
    stop: tuple[str, ...] = ()
    """Texts before which to end."""
    context: str | None = None
    """For a model of pairs, the source; it ends by itself, and begins with nothing if
    no prompt is given."""
    seed: int = 0
    """The same seed gives the same bytes."""

    def rules(self) -> dict:
        """How to draw a byte: arguments of `perceiver_eqx.stream`."""
        penalty = self.repetition_penalty
        more = {"min_p": self.min_p, "repetition_penalty": penalty}
        return {**super().rules(), **more}


@dataclass(frozen=True)
class EvaluateOptions:
    """Bits per byte of a trained model on any file or folder; or how much of a task
    that is made up it says right."""

    model: Path = Path("runs/laptop/model.safetensors")
    """The model's file."""
    path: Path | None = None
    """A file or a folder; None for the Python standard library's own sources."""
    part: Literal["validation", "all"] = "validation"
    """Whether to read the held-out part, as in training, or everything."""
    validation_fraction: float = 0.05
    """Share of the content that is held out."""
    window_bytes: int = 1024
    """Length of a sequence, a multiple of the model's bytes-per-step."""
    batch_size: int = 8
    """Sequences at a time."""
    chunk_steps: int = 64
    """Steps that are held at once."""
    max_bytes: int | None = None
    """How much to read at most, spread evenly; None for all."""
    task: Literal["copy", "needle"] | None = None
    """Fresh sequences of this, in the place of bytes to go on with."""
    context_bytes: int = 1024
    """Length of a context of a task; to find, it is asked for one line."""
    rows: int = 8
    """Sequences of a task."""
    seed: int = 0
    """Of the sequences; training takes others with the same seed."""


@dataclass(frozen=True)
class CompressOptions:
    """Make a file smaller, without loss, by what a trained model expects. It is bound
    to that model, and to this machine and build. It is slow: each byte is a call."""

    path: Path
    """The file."""
    out: Path
    """Where the result goes."""
    model: Path = Path("runs/laptop/model.safetensors")
    """The model's file."""


@dataclass(frozen=True)
class DecompressOptions(CompressOptions):
    """Make a compressed file what it was."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: of the command line; `None` takes the process' own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(configs.names())))
        return
    command = words.pop(0) if words and not words[0].startswith("-") else "train"
    try:
        if command == "train":
            _train(words)
        elif command == "sample":
            _sample(words)
        elif command == "evaluate":
            _evaluate(words)
        elif command in ("compress", "decompress"):
            _code(command, words)
        else:
            raise ValueError(
                f"there is no command {command!r}; choose train, sample, evaluate, "
                "compress or decompress."
            )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parse(kind, command: str, words: Sequence[str], **options):
    program = f"python -m train {command}"
    return tyro.cli(kind, prog=program, args=words, **options)


def _train(words: list[str]) -> None:
    name = words.pop(0) if words and not words[0].startswith("-") else "laptop"
    config = _parse(
        TrainConfig,
        f"train {name}",
        words,
        default=configs.load(name),
        description=f"Train a model. Configs: {', '.join(configs.names())}.",
    )
    train(config, report=partial(print, flush=True))


def _byte_lm(path: Path) -> ByteLM:
    model = load(path)
    if not isinstance(model, ByteLM):
        raise ValueError(
            f"`model` must be a file of a ByteLM, {str(path)!r} holds a "
            f"{type(model).__name__}."
        )
    return model


def _sample(words: list[str]) -> None:
    options = _parse(SampleOptions, "sample", words)
    model, output = _byte_lm(options.model), sys.stdout.buffer
    prompt, stop = options.prompt.encode(), [text.encode() for text in options.stop]
    if options.prompt == "-":
        prompt = sys.stdin.buffer.read()
    given = {}
    if options.context is not None:
        if prompt == SampleOptions().prompt.encode():
            prompt = b""
        given["context"] = options.context.encode()
        stop.append(END)
    try:
        pieces = stream(
            model,
            prompt,
            options.num_bytes,
            **options.rules(),
            stop=stop,
            **given,
            key=jr.key(options.seed),
        )
        for piece in chain([prompt], pieces):
            output.write(piece)
            output.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        output.write(b"\n")
        output.flush()


def _code(command: str, words: list[str]) -> None:
    kind = CompressOptions if command == "compress" else DecompressOptions
    options = _parse(kind, command, words)
    model, data = _byte_lm(options.model), options.path.read_bytes()
    if options.out.is_dir() or not options.out.parent.is_dir():
        raise ValueError(
            f"`out` must be a file in a folder that exists, got {str(options.out)!r}."
        )

    def progress(done: int) -> None:
        print(f"\r{done:,} bytes", end="", file=sys.stderr, flush=True)

    code = compress if command == "compress" else decompress
    result = code(model, data, progress=progress)
    options.out.write_bytes(result)
    print(file=sys.stderr)
    print(f"{len(data):,} bytes to {len(result):,} in {options.out}")


def _accuracy(model: ByteLM, task: str, options: EvaluateOptions) -> str:
    """How much of a task the model says right, in a line."""
    length = options.context_bytes
    target = length if task == "copy" else LINE
    per_step = model.bytes_per_step
    check_multiples("the model's bytes_per_step", per_step, target_bytes=target)
    make, _ = make_of(task, options.path)
    batches = fresh(
        make,
        length,
        rows=options.rows,
        batch_size=min(options.rows, options.batch_size),
        seed=options.seed,
    )
    found = accuracy(model, batches, is_value if task == "needle" else None)
    return (
        f"{found.bytes:.6f} of the bytes right, {found.rows:.4f} of {found.sequences} "
        f"sequences in all, of contexts of {length:,} bytes"
    )


def _evaluate(words: list[str]) -> None:
    options = _parse(EvaluateOptions, "evaluate", words)
    model = _byte_lm(options.model)
    if options.task is not None:
        print(_accuracy(model, options.task, options))
        return
    if options.window_bytes % model.bytes_per_step:
        raise ValueError(
            f"`window_bytes` must be a multiple of the model's bytes_per_step = "
            f"{model.bytes_per_step}, got {options.window_bytes}."
        )
    if options.part == "validation":
        _, stream, _ = open_split(options.path, options.validation_fraction)
    else:
        stream = open_all(options.path)
    batches = validation_batches(
        stream,
        window_bytes=options.window_bytes,
        batch_size=options.batch_size,
        max_bytes=options.max_bytes,
    )
    bits = eqx.filter_jit(
        lambda model, batch: batch_bits(
            model, batch, None, chunk_steps=options.chunk_steps
        )
    )
    print(f"{evaluate(model, batches, bits):.4f} bits per byte")


if __name__ == "__main__":
    main()
