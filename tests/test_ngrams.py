import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.adapters.ngrams import ngram_hashes


def test_ngrams_are_told_apart_by_their_own_bytes_and_by_no_others():
    text = np.frombuffer(b"some bytes, some other bytes", np.uint8)
    hashes = np.asarray(ngram_hashes(jnp.asarray(text, jnp.int32), (2, 5)))
    for order, of_order in zip((2, 5), hashes, strict=True):
        seen = {}
        for end, found in enumerate(of_order):
            gram = bytes(text[max(0, end + 1 - order) : end + 1]).rjust(order, b"^")
            assert seen.setdefault(gram, found) == found
        assert len(set(seen.values())) == len(seen) < len(text)


def test_hashes_of_ngrams_fill_their_table_as_chance_would():
    text = np.frombuffer(np.arange(8192, dtype=np.uint32).tobytes(), np.uint8)
    (rows,) = np.asarray(ngram_hashes(jnp.asarray(text, jnp.int32), (4,)) % 2**14)
    padded = np.pad(text, (3, 0))
    distinct = len(
        np.unique(np.lib.stride_tricks.sliding_window_view(padded, 4), axis=0)
    )
    assert distinct > 16_384
    hit = 1 - np.exp(-distinct / 16_384)
    assert np.unique(rows).size / 16_384 == pytest.approx(hit, rel=0.02)
