import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.files import Segment, find_files, fingerprint, split


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return find_files(folder)


def content(segments: tuple[Segment, ...]) -> list[bytes]:
    return [s.path.read_bytes()[s.start : s.start + s.length] for s in segments]


def test_a_file_is_found_as_itself(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"x")
    assert find_files(file) == [file]


def test_a_folder_is_walked_to_the_bottom_in_sorted_order(tmp_path):
    names = ["b/z", "b/c/y", "a", "c"]
    files = write(tmp_path, dict.fromkeys(names, b"x"))
    assert files == [tmp_path / name for name in ("a", "b/c/y", "b/z", "c")]


def test_empty_and_hidden_files_and_links_are_left_out(tmp_path):
    outside = tmp_path / "outside"
    write(outside, {"file": b"x"})
    root = tmp_path / "root"
    write(root, {"kept": b"x", "empty": b"", ".hidden": b"x", ".git/object": b"x"})
    (root / "linked_file").symlink_to(outside / "file")
    (root / "linked_folder").symlink_to(outside)
    (root / "broken").symlink_to(tmp_path / "nowhere")
    assert find_files(root) == [root / "kept"]


def test_none_finds_the_standard_library_without_its_tests():
    files = find_files(None)
    names = {file.name for file in files}
    assert {"argparse.py", "typing.py"} <= names
    assert {file.suffix for file in files} == {".py"}
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    library = Path(os.__file__).parent
    assert not any(left_out & {*f.relative_to(library).parts} for f in files)
    assert sum(file.stat().st_size for file in files) > 1_000_000


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder .*nothing"):
        find_files(tmp_path / "nothing")


def test_a_folder_without_bytes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`path` must hold at least one byte"):
        write(tmp_path, {"empty": b""})


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda file, mode: file.name != "secret")
    with pytest.raises(PermissionError, match="secret' may not be read"):
        write(tmp_path, {"open": b"x", "secret": b"x"})


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "secret":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="secret' may not be listed"):
        write(tmp_path, {"open": b"x", "secret/file": b"x"})


def test_the_two_sides_hold_every_byte_once(tmp_path):
    files = write(tmp_path, {"a": random_bytes(50_001), "b": random_bytes(700, seed=1)})
    train, validation = split(files, validation_fraction=0.3, segment_bytes=1024)
    segments = sorted(train + validation, key=lambda s: (s.path, s.start))
    assert b"".join(content(tuple(segments))) == b"".join(
        file.read_bytes() for file in files
    )
    assert train == tuple(segment for segment in segments if segment in train)


# Blocks from a small alphabet make equal content common; 40 of them are enough data
# for no finer cut.
blocks = st.lists(st.integers(0, 60), min_size=40, max_size=60).filter(
    lambda seeds: len(set(seeds)) > 1
)


@given(seeds=blocks)
def test_equal_content_never_lies_on_both_sides(seeds: list[int]):
    with tempfile.TemporaryDirectory() as folder:
        data = b"".join(random_bytes(256, seed) for seed in seeds)
        files = write(Path(folder), {"a": data, "b": data[: 256 * 8]})
        sides = split(files, validation_fraction=0.3, segment_bytes=256)
        train, validation = map(content, sides)
    assert not set(train) & set(validation)


@given(seeds=blocks, added=blocks)
def test_new_names_and_files_move_no_content(seeds: list[int], added: list[int]):
    def sides(contents: dict[str, bytes]) -> list[set[bytes]]:
        with tempfile.TemporaryDirectory() as folder:
            files = write(Path(folder), contents)
            found = split(files, validation_fraction=0.5, segment_bytes=256)
            return [set(content(side)) for side in found]

    old, new = (
        {f"{seed}": random_bytes(256, seed) for seed in range(offset, offset + 40)}
        for offset in (seeds[0], 1000 + added[0])
    )
    moved = {f"folder/{name[::-1]}.txt": data for name, data in old.items()}
    before, after = sides(old), sides(moved | new)
    assert all(b <= a for b, a in zip(before, after, strict=True))


def test_the_held_out_share_is_near_the_fraction(tmp_path):
    files = write(tmp_path, {"a": random_bytes(256 * 2000)})
    _, validation = split(files, validation_fraction=0.1, segment_bytes=256)
    assert abs(len(validation) / 2000 - 0.1) < 0.03


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
@pytest.mark.parametrize("size", [257, 5000, 100_000])
def test_no_side_of_a_single_short_file_is_empty(tmp_path, size, fraction):
    files = write(tmp_path, {"a": random_bytes(size)})
    train, validation = split(files, validation_fraction=fraction)
    assert train
    assert validation
    assert min(len(train), len(validation)) == 1
    digests = sorted(segment.digest for segment in train + validation)
    assert max(segment.digest for segment in validation) < min(s.digest for s in train)
    assert digests == sorted(set(digests))


def test_little_data_is_cut_into_many_segments(tmp_path):
    files = write(tmp_path, {"a": random_bytes(1_100_000)})
    train, validation = split(files, validation_fraction=0.05)
    assert len(train) + len(validation) == 34
    assert {s.length for s in train + validation} == {32768, 1_100_000 % 32768}


def test_data_that_is_too_small_to_split_is_an_error(tmp_path):
    files = write(tmp_path, {"a": random_bytes(256)})
    with pytest.raises(ValueError, match="256 bytes in 1 file.*hold 1. Add data"):
        split(files, validation_fraction=0.1)


def test_data_of_one_content_is_an_error(tmp_path):
    files = write(tmp_path, {"a": b"same" * 64, "b": b"same" * 64})
    with pytest.raises(ValueError, match="two segments of different content"):
        split(files, validation_fraction=0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_outside_its_range_is_an_error(tmp_path, fraction):
    with pytest.raises(ValueError, match=r"`validation_fraction` must lie in \(0, 1\)"):
        split([tmp_path], validation_fraction=fraction)


def test_segments_without_bytes_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="`segment_bytes` must be at least 1; got 0"):
        split([tmp_path], validation_fraction=0.1, segment_bytes=0)


def test_the_fingerprint_knows_content_and_order_but_no_names(tmp_path):
    a, b = random_bytes(5000), random_bytes(5000, seed=1)
    names = [{"a": a, "b": b}, {"x": a, "y": b}, {"a": b, "b": a}, {"a": a, "b": a}]
    prints = []
    for number, contents in enumerate(names):
        files = write(tmp_path / str(number), contents)
        train, validation = split(files, validation_fraction=0.5)
        prints.append(fingerprint(train + validation))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert len(prints[0]) == 16


def test_a_file_that_shrinks_while_it_is_hashed_is_an_error(tmp_path, monkeypatch):
    files = write(tmp_path, {"a": random_bytes(1000)})
    real = Path.stat
    monkeypatch.setattr(
        Path,
        "stat",
        lambda self: SimpleNamespace(st_size=2000, st_mtime_ns=real(self).st_mtime_ns),
    )
    with pytest.raises(ValueError, match="had 2000 bytes .* now has 1000"):
        split(files, validation_fraction=0.1)
