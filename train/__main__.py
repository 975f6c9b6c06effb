"""The command line: `python -m train [COMMAND] --help`."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.random as jr
import tyro

from perceiver_eqx import ByteLM, stream
from perceiver_eqx.checks import check_multiples
from perceiver_eqx.pretrained.native import load

from . import configs
from .accuracy import accuracy, plot_accuracy
from .compress import compress, decompress
from .config import DataConfig, SampleConfig, TrainConfig
from .data.media import MediaConfig, decode
from .data.pairs import END, Pair
from .data.prepare import TASKS, prepare
from .data.source import held_out_batches, make_of
from .data.synthetic import LINE, fresh, is_value
from .distributed import FirstFailed, ProcessLost, end
from .evaluate import evaluate
from .loop import NotFinite, train
from .loss import batch_bits
from .memory import OutOfMemory, is_out_of_memory
from .plan import plan
from .samples import save
from .targets import agreement, make_targets, targets_of


USAGE = """\
python -m train [COMMAND] [OPTIONS]

  train [CONFIG]   train a model on any file or folder, as bytes (the default)
  sample           continue a prompt with a trained model, byte by byte
  evaluate         how well a trained model does on any data
  plan [CONFIG]    what training would take, told without running it
  prepare TASK     make the data of one of the task configs
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
    """For a model of pairs, the source."""
    context_path: Path | None = None
    """The same from a file."""
    ends: bool = True
    """What is made of a source ends by itself, as in training."""
    save: Path | None = None
    """A file of the kind that its suffix says, such as .wav, .png or .mid, for what was
    made and the prompt."""
    decode: bool = False
    """Read context-path as sound, pictures, music or numbers, by its suffix."""
    media: MediaConfig = field(default_factory=MediaConfig)
    seed: int = 0
    """The same seed gives the same bytes."""

    def rules(self) -> dict:
        """How to draw a byte: arguments of `perceiver_eqx.stream`."""
        penalty = self.repetition_penalty
        more = {"min_p": self.min_p, "repetition_penalty": penalty}
        return {**super().rules(), **more}


@dataclass(frozen=True)
class EvaluateOptions:
    """Bits per byte of a trained model on data as in training; of pairs, what it makes
    of the sources too; of a task that is made up, how much it says right."""

    data: DataConfig = field(default_factory=lambda: DataConfig(validation_bytes=None))
    model: Path = Path("runs/laptop/model.safetensors")
    """The model's file."""
    part: Literal["validation", "all"] = "validation"
    """Whether to read the held-out part, as in training, or everything."""
    batch_size: int = 8
    """Sequences at a time."""
    chunk_steps: int = 64
    """Steps that are held at once."""
    rows: int | None = 8
    """Sequences of a task of each length, or sources to make targets of; None for all
    of these."""
    lengths: tuple[int, ...] = ()
    """Lengths of contexts of a task, in the place of data.context-bytes."""
    picture: Path | None = None
    """A file for a picture of what is right of a task, against the length."""
    made: Path | None = None
    """A .tsv for sources, their targets, and what was made of them."""
    seed: int = 0
    """Of the sequences of a task; training takes others with the same seed."""


@dataclass(frozen=True)
class PrepareOptions:
    """Make the data of a task config, of what can be fetched or is at hand."""

    out: Path
    """The file or folder to make."""
    path: Path | None = None
    """Of chorales, a .json of piano rolls in the parts train, valid and test; None for
    those that music21 brings."""
    transpose: bool = False
    """Train on chorales in all twelve keys."""


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
        if command in ("train", "plan"):
            _run(command, words)
        elif command == "sample":
            _sample(words)
        elif command == "evaluate":
            _evaluate(words)
        elif command == "prepare":
            _prepare(words)
        elif command in ("compress", "decompress"):
            _code(command, words)
        else:
            raise ValueError(
                f"there is no command {command!r}; choose train, plan, sample, "
                "evaluate, prepare, compress or decompress."
            )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        end(2)
    except (NotFinite, OutOfMemory, FirstFailed, ProcessLost, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        end(1)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"error: out of memory: {str(error).splitlines()[0]} Lower batch-size, "
            "chunk-steps, num-bytes or the length of what is read.",
            file=sys.stderr,
        )
        sys.exit(1)


def _parse(kind, command: str, words: Sequence[str], **options):
    program = f"python -m train {command}"
    return tyro.cli(kind, prog=program, args=words, **options)


def _run(command: str, words: list[str]) -> None:
    """Trains by a config, or plans to."""
    name = words.pop(0) if words and not words[0].startswith("-") else "laptop"
    what = {"train": "Train a model", "plan": "What training a model would take"}
    config = _parse(
        TrainConfig,
        f"{command} {name}",
        words,
        default=configs.load(name),
        description=f"{what[command]}. Configs: {', '.join(configs.names())}.",
    )
    do = {"train": train, "plan": plan}[command]
    do(config, report=partial(print, flush=True))


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
    given, context, path = {}, options.context, options.context_path
    if context is not None and path is not None:
        raise ValueError(
            f"`context` must be None beside `context_path`, got {context!r}."
        )
    if context is not None:
        given["context"] = context.encode()
    if path is not None:
        decoded = options.decode
        given["context"] = decode(path, options.media) if decoded else path.read_bytes()
    if given and options.ends:
        stop.append(END)
    made = bytearray()
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
            made += piece
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        output.write(b"\n")
        output.flush()
    if options.save is not None and save(bytes(made), options.save, options.media):
        print(f"saved {options.save}", file=sys.stderr)


def _prepare(words: list[str]) -> None:
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    options = _parse(
        PrepareOptions,
        f"prepare {name or 'TASK'}",
        words,
        description=f"Make the data of a task: {', '.join(TASKS)}.",
    )
    made = prepare(name, options.out, options.path, transpose=options.transpose)
    print(made)


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


def _evaluate(words: list[str]) -> None:
    options = _parse(EvaluateOptions, "evaluate", words)
    model = _byte_lm(options.model)
    if options.data.kind in ("copy", "needle"):
        _evaluate_task(model, options)
        return
    batches, pairs = held_out_batches(
        options.data,
        per_step=model.bytes_per_step,
        batch_size=options.batch_size,
        everything=options.part == "all",
    )
    bits = eqx.filter_jit(
        lambda model, batch: batch_bits(
            model, batch, None, chunk_steps=options.chunk_steps
        )
    )
    found = evaluate(model, batches, bits)
    nats = found * model.bytes_per_step * math.log(2)
    steps = f", {nats:.4f} nats per step of {model.bytes_per_step} bytes"
    print(f"{found:.4f} bits per byte{steps}", flush=True)
    if options.data.kind == "pairs":
        _evaluate_targets(model, pairs, options)


def _evaluate_task(model: ByteLM, options: EvaluateOptions) -> None:
    """How much of a task the model says right, a line for each length."""
    kind, found = options.data.kind, {}
    make, _ = make_of(kind, options.data.path)
    rows = 1 if options.rows is None else options.rows
    for length in options.lengths or (options.data.context_bytes,):
        target = length if kind == "copy" else LINE
        per_step = model.bytes_per_step
        check_multiples("the model's bytes_per_step", per_step, target_bytes=target)
        batches = fresh(
            make,
            length,
            rows=rows,
            batch_size=min(rows, options.batch_size),
            seed=options.seed,
        )
        right = accuracy(model, batches, is_value if kind == "needle" else None)
        found[length] = right
        print(
            f"contexts of {length:,} bytes: {right.bytes:.6f} of the bytes right, "
            f"{right.rows:.4f} of {right.sequences} sequences in all",
            flush=True,
        )
    if options.picture is not None:
        plot_accuracy(found, kind, options.picture)


def _evaluate_targets(
    model: ByteLM, pairs: list[Pair], options: EvaluateOptions
) -> None:
    """What the model makes of sources that are spread over all, beside the targets."""
    data, found = options.data, targets_of(pairs)
    sources, count = list(found), options.rows or len(found)
    chosen = [sources[i] for i in range(0, len(sources), -(-len(sources) // count))]
    made = make_targets(
        model,
        chosen,
        num_bytes=data.window_bytes,
        stop=END if data.ends else b"",
        batch_size=options.batch_size,
    )
    right = agreement(made, [found[source] for source in chosen])
    print(
        f"{right.exact:.4f} of {right.sources} targets right, word errors "
        f"{right.word_errors:.4f}, byte errors {right.byte_errors:.4f}, "
        f"chrF {right.chrf:.2f}"
    )
    if options.made is not None:
        rows = [[s, *found[s][:1], m] for s, m in zip(chosen, made, strict=True)]
        options.made.write_bytes(b"".join(b"\t".join(row) + b"\n" for row in rows))


if __name__ == "__main__":
    main()
