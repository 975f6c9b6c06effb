"""Published weights, by what the tests of transformers say: for who has the files.

`LANGUAGE_PERCEIVER` and `VISION_PERCEIVER_LEARNED` name the folders of the models of
deepmind with these names, as transformers saves them, and `COCO_CATS` the picture
000000039769 of COCO's val2017. Without them there is nothing to compare.
"""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx.adapters.text import MASK, text_symbols
from perceiver_eqx.pretrained import load


pytestmark = pytest.mark.parity


def given(*names: str) -> list[str]:
    values = [os.environ.get(name) for name in names]
    if None in values:
        pytest.skip(f"needs {' and '.join(names)}, files that not everybody has")
    return values


def test_the_language_model_fills_the_sentence():
    (folder,) = given("LANGUAGE_PERCEIVER")
    sentence = b"This is an incomplete sentence where some words are missing."
    symbols = text_symbols(sentence)
    symbols[52:61] = MASK
    logits = np.asarray(load(folder)(jnp.asarray(symbols)))
    expected = [
        [-10.8609, -10.7651, -10.9187],
        [-12.1689, -11.9389, -12.1479],
        [-12.1518, -11.9707, -12.2073],
    ]
    np.testing.assert_allclose(logits[:3, :3], expected, rtol=1e-4, atol=1e-4)
    filled = [38, 115, 111, 121, 121, 111, 116, 109, 52]
    assert logits[52:61].argmax(-1).tolist() == filled


def test_the_image_model_sees_the_cats():
    from PIL import Image
    from transformers import PerceiverImageProcessor

    folder, picture = given("VISION_PERCEIVER_LEARNED", "COCO_CATS")
    prepared = PerceiverImageProcessor()(Image.open(picture), return_tensors="np")
    pixels = np.asarray(prepared["pixel_values"])[0].transpose(1, 2, 0)
    logits = load(folder)(jnp.asarray(pixels))
    expected = [-1.1652, -0.1992, -0.7520]
    np.testing.assert_allclose(logits[:3], expected, rtol=1e-4, atol=1e-4)
