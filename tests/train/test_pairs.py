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
    with pytest.raises(FileNotFoundError, match="no file of pairs at"):
        read_pairs(tmp_path / "none.tsv")


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
