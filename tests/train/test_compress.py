import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_eqx import log_prob
from tests.models import byte_lm
from train import compress as coding
from train.compress import compress, decompress


RANDOM = np.random.default_rng(0).integers(0, 256, 500, np.uint8).tobytes()


def model_of(window=3):
    return byte_lm(window, num_layers=1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("data", [b"", b"\x00", b"abcdefgh" * 12, RANDOM])
def test_any_data_come_back_byte_for_byte(window, data):
    model = model_of(window)
    assert decompress(model, compress(model, data)) == data


def test_the_code_is_as_long_as_the_model_is_surprised():
    """A byte that leaked into its own probability would surprise less."""
    model = model_of()
    code = compress(model, RANDOM)[coding.HEADER.size :]
    bits = -log_prob(model, RANDOM) / np.log(2)
    assert bits - 32 <= 8 * len(code) <= 1.001 * bits + 64


def test_the_progress_ends_with_all_bytes():
    told = []
    compress(model_of(), RANDOM, progress=told.append)
    assert told == [384, 500]


def test_what_another_model_made_is_refused():
    with pytest.raises(ValueError, match="made by this model, whose hash is"):
        decompress(model_of(1), compress(model_of(3), b"abc"))


def test_what_another_build_made_is_refused(monkeypatch):
    made, here = compress(model_of(), b"abc"), {**coding._build(), "jax": "0.0.1"}
    monkeypatch.setattr(coding, "_build", lambda: here)
    with pytest.raises(ValueError, match=r"made by another. Here are .* jax 0\.0\.1"):
        decompress(model_of(), made)


@pytest.mark.parametrize("made", [b"", b"abc", b"pqx2", bytes(40), b"pqx2" + bytes(25)])
def test_what_is_no_code_is_refused(made):
    with pytest.raises(ValueError, match="must be all that `compress` returned"):
        decompress(model_of(), made)


@given(st.data())
def test_a_single_flipped_bit_is_refused_before_anything_is_decoded(data):
    made = bytearray(made_of_random())
    place = data.draw(st.integers(0, 8 * len(made) - 1))
    made[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError, match="`compressed` (is damaged|must)"):
        decompress(model_of(), bytes(made))


@functools.cache
def made_of_random() -> bytes:
    return compress(model_of(), RANDOM)


def repacked(**changes) -> bytes:
    """What was made with other fields or another code, and the right checksum."""
    made = made_of_random()
    names = "mark", "num_bytes", "checksum", "model_hash", "build_hash"
    fields = dict(zip(names, coding.HEADER.unpack_from(made), strict=False))
    code = changes.pop("code", made[coding.HEADER.size :])
    return coding._packed(tuple((fields | changes).values()), code)


def test_what_would_take_all_time_is_refused():
    assert repacked() == made_of_random()
    with pytest.raises(ValueError, match="the number of bytes that it tells, is wrong"):
        decompress(model_of(), repacked(num_bytes=1 << 60))


def test_other_rounding_is_told_by_the_checksum_of_the_data():
    code = bytearray(made_of_random()[coding.HEADER.size :])
    code[-200] ^= 1
    with pytest.raises(ValueError, match="decodes to other bytes"):
        decompress(model_of(), repacked(code=bytes(code)))


def test_a_code_that_cannot_be_is_told_where_it_fails():
    code = b"\xff" * (len(made_of_random()) - coding.HEADER.size)
    with pytest.raises(ValueError, match="decodes to other bytes") as error:
        decompress(model_of(), repacked(code=code))
    assert isinstance(error.value.__cause__, AssertionError)
