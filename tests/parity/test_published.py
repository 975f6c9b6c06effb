"""Published weights, by what their pages say of them: for who has the files.

`LANGUAGE_PERCEIVER` names a folder of deepmind/language-perceiver, as transformers
saves it; without it there is nothing to compare.
"""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.adapters.text import MASK, text_symbols
from perceiver_eqx.pretrained import load


pytestmark = pytest.mark.parity


def test_the_language_model_fills_the_sentence_of_its_page():
    folder = os.environ.get("LANGUAGE_PERCEIVER")
    if folder is None:
        pytest.skip("LANGUAGE_PERCEIVER does not name the folder of the weights")
    sentence = b"This is an incomplete sentence where some words are missing."
    symbols = text_symbols(sentence)
    symbols[51:60] = MASK
    logits = np.asarray(load(folder)(jnp.asarray(symbols)))
    expected = [
        [-11.8336, -11.6850, -11.8483],
        [-12.8149, -12.5863, -12.7904],
        [-12.8440, -12.6410, -12.8646],
    ]
    np.testing.assert_allclose(logits[:3, :3], expected, rtol=0, atol=1e-3)
    filled = [38, 115, 111, 121, 121, 111, 116, 109, 52]
    assert logits[51:60].argmax(-1).tolist() == filled
