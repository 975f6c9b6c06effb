import math
import struct
from io import BytesIO

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from tests.train.media_files import (
    TONE,
    WHOLE,
    read,
    refused,
    sound,
    wav,
    written,
)
from train.data.media.audio import from_mu_law, mu_law


def test_mu_law_is_that_of_the_formula():
    def code(x: float) -> int:
        loudness = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
        return min(range(256), key=lambda n: abs(n - 127.5 - 127.5 * loudness))

    samples = np.linspace(-1, 1, 4000)
    assert mu_law(samples).tolist() == [code(x) for x in samples]
    assert mu_law(np.array([-1.0, -0.0, 0.0, 1.0])).tolist() == [0, 128, 128, 255]


def test_levels_of_mu_law_are_those_of_the_formula():
    expected = [
        math.copysign((256 ** abs(n / 127.5 - 1) - 1) / 255, n - 127.5)
        for n in range(256)
    ]
    found = from_mu_law(np.arange(256).astype(np.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(st.floats(-1, 1))
@example(0.0)
def test_mu_law_is_off_by_half_a_level_at_most(x):
    back = from_mu_law(mu_law(np.array([x])))[0]
    slope = math.log(256) * (1 / 255 + max(abs(x), abs(back)))
    assert abs(back - x) <= slope / 255 * (1 + 1e-12)


def test_every_byte_of_mu_law_comes_back_from_a_file():
    data = bytes(range(256))
    assert read(".wav", written(".wav", data)) == data


def test_two_bytes_of_a_sample_are_offset_binary():
    content = wav([0, 1, -1, -32768, 32767])
    expected = bytes.fromhex("8000 8001 7fff 0000 ffff")
    assert read(".wav", content, audio="16-bit") == expected


@given(st.binary(min_size=2, max_size=40))
def test_two_bytes_of_a_sample_come_back_from_a_file(data):
    config = {"audio": "16-bit", "sample_rate": 44100}
    back = read(".wav", written(".wav", data, **config), **config)
    assert back == data[: len(data) // 2 * 2]


def test_half_a_sample_is_not_written():
    with pytest.raises(ValueError, match="a sample of two bytes, got 1"):
        written(".wav", b"a", audio="16-bit")


def test_channels_are_averaged():
    content = wav([100, 301, 402, -1, 0, 0], channels=3)
    assert read(".wav", content, audio="16-bit") == bytes.fromhex("810c 8000")


def test_sound_is_the_same_from_other_files():
    expected = np.rint(TONE * 2**15) + 2**15
    for suffix, most in ((".flac", 1), (".ogg", 2500), (".opus.ogg", 2500)):
        data = read(suffix, WHOLE[suffix], audio="16-bit")
        found = np.frombuffer(data, ">u2").astype(int)
        assert found.shape == TONE.shape
        assert abs(found - expected).max() <= most


def test_long_sound_is_read_in_blocks(monkeypatch):
    expected = read(".flac", WHOLE[".flac"])
    monkeypatch.setattr("train.data.media.audio._BLOCK", 7)
    assert read(".flac", WHOLE[".flac"]) == expected


def test_another_rate_is_refused():
    content = wav([1, 2], rate=44100)
    assert read(".wav", content, sample_rate=44100) == read(".wav", content)
    with pytest.raises(
        ValueError, match="^[^ ]* must have 8000 .* found 44100. Resamp"
    ):
        read(".wav", content, sample_rate=8000)


@pytest.mark.parametrize(("rate", "expected"), [(None, 8000), (16000, 16000)])
def test_a_rate_is_written(rate, expected):
    content = written(".wav", b"sound", sample_rate=rate)
    found = soundfile.info(BytesIO(content))
    assert (found.samplerate, found.subtype, found.frames) == (expected, "PCM_16", 5)


def test_what_is_too_loud_is_cut():
    content = sound([2.0, -2.0, 0.0], "WAV", "FLOAT")
    assert read(".wav", content) == bytes([255, 0, 128])
    assert read(".wav", content, audio="16-bit") == bytes.fromhex("ffff 0000 8000")


@refused(
    (wav([]), "hold at least one sample, found none"),
    (wav([1], form=0x9999), "be a whole file of WAV, FLAC or Ogg, found"),
    (sound([0.0, np.nan], "WAV", "FLOAT"), "have finite samples, found NaN"),
    (sound([0.0], "AIFF", "PCM_16"), "be .* found a file that begins with b'FORM'"),
    (wav([1, 2])[:40] + b"\5" + wav([1, 2])[41:], "be .* byte 50 of the 48"),
    (WHOLE[".ogg"][:58], "be .* found a last page of Ogg that is not the end"),
    (WHOLE[".ogg"][:68], "be .* found no page of Ogg at byte 58"),
)
def test_no_sound_is_refused(content, message):
    with pytest.raises(ValueError, match=f"^[^ ]*some.wav' must {message}"):
        read(".wav", content)


def test_a_missing_page_of_ogg_is_refused():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000)
    _, *pages = sound(noise, "OGG", "VORBIS").split(b"OggS")
    assert len(pages) > 3
    with pytest.raises(ValueError, match="a page of Ogg missing before byte"):
        read(".ogg", b"".join(b"OggS" + page for page in pages[:2] + pages[3:]))


def test_the_byte_that_makes_a_chunk_even_may_be_uncounted():
    odd = bytearray(sound([0.25, 0.5, 0.75], "WAV", "PCM_U8"))
    expected = read(".wav", bytes(odd))
    odd[4:8] = struct.pack("<I", len(odd) - 9)
    assert read(".wav", bytes(odd[:-1])) == expected
