import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.media_files import (
    WHOLE,
    checked,
    read,
    whole,
    written,
)
from train.data.media import MediaConfig, decode


def test_other_files_are_read_and_written_as_they_are():
    assert read(".txt", b"\0text") == b"\0text"
    assert read("", b"text") == written("", b"text") == b"text"


@whole
def test_capitals_of_a_suffix_change_nothing(suffix):
    assert read(suffix.upper(), WHOLE[suffix]) == read(suffix, WHOLE[suffix])


@pytest.mark.parametrize("suffix", [*WHOLE, ".txt"])
def test_an_empty_file_is_refused(suffix):
    with pytest.raises(
        ValueError, match=f"some{suffix}' must hold .* byte, found none"
    ):
        read(suffix, b"")


@whole
def test_a_file_cut_short_anywhere_is_refused(suffix):
    content = WHOLE[suffix]
    # Only the checksum of nothing follows the word that ends a PNG.
    last = len(content) - (5 if suffix == ".png" else 1)
    for length in np.unique(np.linspace(1, last, 60).astype(int)):
        with pytest.raises(
            ValueError, match=f"some{suffix}' must be a whole .*, found"
        ):
            read(suffix, content[:length])


@checked
def test_damage_to_a_file_with_checksums_is_refused(suffix):
    content, rng = WHOLE[suffix], np.random.default_rng(0)
    before = read(suffix, content)
    for at in rng.integers(len(content), size=150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        try:
            assert read(suffix, bytes(damaged)) == before
        except ValueError as error:
            assert "must be a whole" in str(error)  # noqa: PT017


@whole
@settings(max_examples=100)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_whatever_is_damaged_is_bytes_or_refused(suffix, random, times):
    content = bytearray(WHOLE[suffix])
    for _ in range(times):
        content[random.randrange(len(content))] = random.randrange(256)
    try:
        assert read(suffix, bytes(content))
    except ValueError as error:
        assert f"some{suffix}' must " in str(error)  # noqa: PT017


def test_a_missing_file_and_a_folder_are_errors_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "none.wav", MediaConfig())
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        decode(tmp_path / "folder.png", MediaConfig())


@pytest.mark.parametrize(
    ("module", "suffix", "name"),
    [("soundfile", ".wav", "soundfile"), ("PIL", ".png", "Pillow")]
    + [("mido", ".mid", "mido")],
)
def test_a_missing_package_is_named(monkeypatch, module, suffix, name):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "PIL":
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ValueError, match=f"package {name} .* pip install {name}`"):
        read(suffix, WHOLE[suffix])
    with pytest.raises(ValueError, match=f"package {name} .* pip install {name}`"):
        written(suffix, b"abcd", image_size=(1, 1))


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        (".txt", b"", "`data` must hold at least one byte .*some.txt"),
        (".flac", b"a", r"`path` must have a suffix .*'.wav', '.png'.*some.flac"),
        (".JPG", b"a", "`path` must have a suffix .*some.JPG"),
        (".png", b"a", "`image_size` must be a height and a width .* got None"),
    ],
)
def test_what_cannot_be_written_is_refused(suffix, data, message):
    with pytest.raises(ValueError, match=message):
        written(suffix, data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sample_rate": 0}, "`sample_rate` must be between 1 and 16777216, got 0"),
        ({"steps_per_quarter": 257}, "`steps_per_quarter` .* 1 and 256, got 257"),
        ({"voices": 0}, "`voices` must be between 1 and 126, got 0"),
        ({"image_size": (4, 0)}, r"`image_size` must be .* got \(4, 0\)"),
    ],
)
def test_a_config_out_of_range_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MediaConfig(**config)
