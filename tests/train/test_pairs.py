import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.examples import Examples, training_pairs, validation_pairs
from train.data.pairs import (
    Pair,
    fingerprint_of_pairs,
    read_pairs,
    read_sequences,
    split_pairs,
)


PAIRS = [Pair(b"one", b"eins"), Pair("zwölf".encode(), b""), Pair(b"", b"leer")]
SIZES = {"window_bytes": 24, "context_bytes": 16, "per_step": 3}

texts = st.binary(max_size=16)
targets = st.binary(max_size=23).map(lambda text: text.replace(b"\0", b"."))
many = st.lists(st.builds(Pair, texts, targets), min_size=1, max_size=30)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_are_read_from_lines(tmp_path, suffix, end):
    lines = {
        ".tsv": [b"\t".join(pair).decode() for pair in PAIRS],
        ".jsonl": [
            json.dumps({"source": p.source.decode(), "target": p.target.decode()})
            for p in PAIRS
        ],
    }
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes((end.join(lines[suffix]) + end + end).encode())
    assert read_pairs(path) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "one\teins\nonly", "line 2 of .*a.tsv.* found 1"),
        ("a.tsv", "a\tb\tc", "line 1 .* found 3"),
        ("a.tsv", "a\tb\0", "line 1 .* byte 0"),
        ("a.tsv", "\n\n", "holds no pair"),
        ("a.jsonl", '["a", "b"]', "line 1 .* the texts source and target"),
        ("a.jsonl", "{", "line 1 of"),
        ("a.txt", "a\tb", r"must be one of \['.jsonl', '.tsv'\]"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(path)


def test_a_missing_file_is_an_error(tmp_path):
    for paths in ((tmp_path / "none.tsv",), (tmp_path, tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match="no file or folder at .*none"):
            read_pairs(*paths)


def folder(path, texts):
    for name, text in texts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text)
    return path


def test_sources_and_targets_that_stand_apart_are_matched(tmp_path):
    """By their lines, and by the names of their files in two folders."""
    files = folder(
        tmp_path, {"a.en": b"one\ntwo\n\nlast", "a.es": b"uno\r\ndos\n\nfin"}
    )
    found = read_pairs(files / "a.en", files / "a.es")
    assert found == [Pair(b"one", b"uno"), Pair(b"two", b"dos"), Pair(b"last", b"fin")]
    sources = folder(tmp_path / "in", {"b.png": b"pixels", "a/b.png": b"others"})
    targets = folder(tmp_path / "out", {"b.txt": b"label", "a/b.txt": b"another"})
    found = read_pairs(sources, targets, read=lambda file: file.read_bytes().upper())
    assert found == [Pair(b"OTHERS", b"ANOTHER"), Pair(b"PIXELS", b"LABEL")]


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ({"a": b"x"}, {"b": b"y"}, "same names, but 2 stand alone in .*: a, b"),
        ({"a": b"x", "c": b"z"}, {"a": b"y"}, "1 stand alone in .*: c"),
        (
            {"a.x": b"x", "a.y": b"x"},
            {"a": b"y"},
            "more than their suffixes, got .*a.x",
        ),
        ({"a": b"x"}, {"a": b"\0"}, "out.a.*: the target holds a byte 0"),
    ],
)
def test_files_that_are_no_pairs_are_refused_by_name(
    tmp_path, sources, targets, message
):
    places = folder(tmp_path / "in", sources), folder(tmp_path / "out", targets)
    with pytest.raises(ValueError, match=message):
        read_pairs(*places)


def test_unequal_lines_and_a_file_beside_a_folder_are_refused(tmp_path):
    folder(tmp_path, {"a": b"1\n2\n3", "b": b"1\n2", "c/d": b"1"})
    with pytest.raises(ValueError, match="as many lines, got 3 of .*a' and 2 of .*b'"):
        read_pairs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="two files or two folders"):
        read_pairs(tmp_path / "a", tmp_path / "c")


def test_sequences_are_files_or_lines_or_texts(tmp_path):
    expected = [Pair(b"", b"one"), Pair(b"", b"two\tx")]
    folder(tmp_path, {"f/1": b"one", "f/2": b"two\tx", "lines": b"one\n\ntwo\tx\n"})
    texts = tmp_path / "texts.jsonl"
    texts.write_text('"one"\n"two\\tx"\n')
    for path in (tmp_path / "f", tmp_path / "lines", texts):
        assert read_sequences(path) == expected
    texts.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="line 1 of .*must be a text"):
        read_sequences(texts)
    assert set(split_pairs(expected, 0.5)[0]) < set(expected)


def test_targets_without_an_end_are_of_one_length_and_may_hold_it(tmp_path):
    path = folder(tmp_path, {"1": b"a\0", "2": b"\0b"})
    pairs = read_sequences(path, ends=False)
    assert pairs == [Pair(b"", b"a\0"), Pair(b"", b"\0b")]
    examples = Examples(pairs, window_bytes=2, context_bytes=None, per_step=2, end=b"")
    (batch,) = validation_pairs(examples, batch_size=2)
    assert sorted(batch) == ["bytes", "length"]
    assert batch["bytes"].tolist() == [[97, 0], [0, 98]]
    assert batch["length"].tolist() == [2, 2]
    (path / "3").write_bytes(b"abc")
    with pytest.raises(ValueError, match="of one length .* 2 of .*1, 3 of .*3"):
        read_sequences(path, ends=False)


@given(many, st.floats(0.01, 0.99))
def test_equal_sources_lie_on_one_side(pairs, fraction):
    if len({pair.source for pair in pairs}) < 2:
        with pytest.raises(ValueError, match="two different sources"):
            split_pairs(pairs, fraction)
        return
    sides = split_pairs(pairs, fraction)
    assert sorted([*sides[0], *sides[1]]) == sorted(pairs)
    assert all(sides)
    assert not {p.source for p in sides[0]} & {p.source for p in sides[1]}


def test_other_pairs_have_another_name():
    others = [PAIRS, PAIRS[::-1], PAIRS[:2], [Pair(b"onee", b"ins"), *PAIRS[1:]]]
    assert len(set(map(fingerprint_of_pairs, others))) == 4


def told(batches) -> list[Pair]:
    """What stands in batches, checked to be zeros after it."""
    found = []
    for batch in batches:
        for row, length in enumerate(batch["length"]):
            texts = []
            for name in ("context", "bytes"):
                size = batch["context_length"][row] if name == "context" else length
                assert not batch[name][row, size:].any()
                texts.append(batch[name][row, :size].tobytes())
            if length:
                assert texts[1].endswith(b"\0")
                found.append(Pair(texts[0], texts[1][:-1]))
    return sorted(found)


@settings(max_examples=60)
@given(many, st.integers(1, 7), st.integers(0, 9))
def test_an_epoch_holds_each_pair_once_in_few_shapes(pairs, batch_size, seed):
    examples = Examples(pairs, **SIZES)
    once = list(validation_pairs(examples, batch_size=batch_size))
    assert told(once) == sorted(pairs)
    endless = training_pairs(examples, batch_size=batch_size, seed=seed)
    two = [next(endless) for _ in range(2 * len(once))]
    for epoch in (two[: len(once)], two[len(once) :]):
        assert told(epoch) == sorted(pairs)
    assert {batch["bytes"].shape for batch in two} <= {
        (batch_size, size) for size in (6, 12, 24)
    }
    later = training_pairs(
        examples, batch_size=batch_size, seed=seed, start=len(once) + 1
    )
    if len(once) > 1:
        for name, x in next(later).items():
            assert np.array_equal(x, two[len(once) + 1][name])


def test_a_part_of_the_pairs_is_spread_over_them():
    pairs = [Pair(b"%d" % n, b"123") for n in range(20)]
    batches = validation_pairs(Examples(pairs, **SIZES), batch_size=2, max_bytes=20)
    assert [int(pair.source) for pair in told(batches)] == [0, 12, 16, 4, 8]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Pair(b"", 24 * b"x"), "`window_bytes` must have room .* 25 bytes, got 24"),
        (Pair(17 * b"x", b""), "`context_bytes` must have room .* 17 bytes, got 16"),
    ],
)
def test_a_pair_without_room_is_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        Examples([*PAIRS, pair], **SIZES)
