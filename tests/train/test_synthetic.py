import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.source import make_of
from train.data.synthetic import (
    LINE,
    MOST_ROWS,
    Needles,
    copy_backwards,
    fresh,
    growing,
    is_value,
    lengths_of,
)


HAY = np.frombuffer(40 * b"no needle here. ", np.uint8)


def test_a_copy_is_the_context_backwards():
    batch = copy_backwards(np.random.default_rng(0), 2, 9)
    assert np.array_equal(batch["bytes"][:, ::-1], batch["context"])
    assert (
        len(np.unique(copy_backwards(np.random.default_rng(0), 9, 999)["bytes"])) > 250
    )


@given(st.integers(0, 99), st.integers(1, 7), st.integers(LINE * 8, LINE * 10))
def test_every_line_asked_for_is_hidden_once(seed, count, length):
    batch = Needles(HAY, count)(np.random.default_rng(seed), 3, length)
    assert batch["context"].shape == (3, length)
    for context, target in zip(batch["context"], batch["bytes"], strict=True):
        lines = target.tobytes().splitlines(keepends=True)
        assert len(lines) == count
        for line in lines:
            assert len(line) == LINE
            key, value = line[1:-1].split(b"=")
            assert key.isalpha()
            assert value.isdigit()
            assert context.tobytes().count(line) == 1
        values = target[is_value(target.size)].tobytes()
        assert values == b"".join(line[8:15] for line in lines)
    assert not np.array_equal(batch["context"][0], batch["context"][1])


def test_needles_without_room_are_refused():
    with pytest.raises(ValueError, match="3 needles .* more than 48 .* got 48"):
        Needles(HAY, 3)(np.random.default_rng(0), 1, 48)
    with pytest.raises(ValueError, match="at most 640 bytes, got 641"):
        Needles(HAY, 3)(np.random.default_rng(0), 1, 641)


@pytest.mark.parametrize(
    ("full", "shortest", "expected"),
    [
        (4096, None, [(4096, 0)]),
        (4096, 512, [(512, 0), (4096, 50)]),
        (65536, 1024, [(1024, 0), (8192, 50), (65536, 75)]),
        (4096, 1024, [(4096, 0)]),
    ],
)
def test_sequences_grow_by_eight_from_half_of_the_steps_on(full, shortest, expected):
    assert lengths_of(full, shortest, 100) == expected


def test_batches_grow_in_length_and_not_in_bytes_and_begin_anywhere():
    lengths = [(8, 0), (64, 2)]
    options = {"batch_size": 2, "seed": 0}
    batches = growing(copy_backwards, lengths, **options)
    first = [next(batches) for _ in range(4)]
    assert [b["bytes"].shape for b in first] == [(16, 8), (16, 8), (2, 64), (2, 64)]
    assert not np.array_equal(first[0]["bytes"], first[1]["bytes"])
    later = next(growing(copy_backwards, lengths, **options, start=3))
    assert np.array_equal(later["bytes"], first[3]["bytes"])
    many = growing(copy_backwards, [(1, 0), (512, 9)], **options)
    assert next(many)["bytes"].shape == (MOST_ROWS, 1)
    held_out = list(fresh(copy_backwards, 64, rows=3, **options))
    assert len(held_out) == 2
    assert not np.array_equal(held_out[0]["bytes"], first[2]["bytes"])


def test_another_text_to_hide_lines_in_is_another_task(tmp_path):
    path, names = tmp_path / "hay.txt", set()
    for text, count in (("hay " * 20, 1), ("hay " * 20, 2), ("hey " * 20, 1)):
        path.write_text(text)
        names.add(make_of("needle", path, count)[1])
    assert len(names) == 3
