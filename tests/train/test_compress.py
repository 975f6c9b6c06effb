import numpy as np
import pytest

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


@pytest.mark.parametrize("made", [b"", b"abc", b"pqx1", bytes(40), b"pqx1" + bytes(21)])
def test_what_is_no_code_is_refused(made):
    with pytest.raises(ValueError, match="must be all that `compress` returned"):
        decompress(model_of(), made)


def test_a_damaged_code_is_told_by_its_checksum():
    made = bytearray(compress(model_of(), RANDOM))
    made[-200] ^= 1
    with pytest.raises(ValueError, match="is damaged"):
        decompress(model_of(), bytes(made))


def test_a_code_that_cannot_be_is_told_where_it_fails():
    made = compress(model_of(), RANDOM)
    words = b"\xff" * (len(made) - coding.HEADER.size)
    with pytest.raises(ValueError, match="is damaged") as error:
        decompress(model_of(), made[: coding.HEADER.size] + words)
    assert isinstance(error.value.__cause__, AssertionError)
