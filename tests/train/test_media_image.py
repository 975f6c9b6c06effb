import warnings
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.media_files import (
    RED_AND_GREEN,
    picture,
    read,
    written,
)


def test_pixels_are_red_green_and_blue_from_the_top():
    expected = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3])
    assert read(".png", picture(RED_AND_GREEN)) == expected


def test_gray_is_the_brightness():
    # 299, 587 and 114 thousandths.
    content = picture(RED_AND_GREEN)
    assert read(".png", content, gray=True) == bytes([76, 150, 29, 2])


def test_a_jpeg_is_read_to_a_few_levels():
    data = read(".jpg", picture(np.full((8, 8, 3), (200, 100, 50)), "JPEG"))
    found = np.frombuffer(data, np.uint8).reshape(64, 3).astype(int)
    assert abs(found - (200, 100, 50)).max() <= 3


def test_what_is_transparent_is_black():
    half = np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 51]]])
    expected = bytes([0, 0, 0, 200, 100, 50, 40, 20, 10])
    assert read(".png", picture(half)) == expected
    table = PIL.Image.new("P", (2, 1))
    table.putpalette([200, 100, 50, 9, 8, 7])
    table.putpixel((1, 0), 1)
    content = picture(table, transparency=0)
    assert read(".png", content) == bytes([0, 0, 0, 9, 8, 7])


def test_of_sixteen_bits_the_higher_are_taken():
    deep = PIL.Image.fromarray(np.array([[0x12FF, 0x0001, 0xFEDC]], np.uint16))
    assert read(".png", picture(deep), gray=True) == bytes([0x12, 0, 0xFE])
    assert read(".png", picture(deep)) == bytes(3 * [0x12] + 3 * [0] + 3 * [0xFE])


def test_a_picture_is_turned_upright():
    about = PIL.Image.Exif()
    about[0x0112] = 6  # to be turned clockwise
    content = picture([[1, 2, 3], [4, 5, 6]], exif=about)
    assert read(".png", content, gray=True) == bytes([4, 1, 5, 2, 6, 3])
    assert read(".png", content, gray=True, image_size=(3, 1)) == bytes([3, 4, 5])


def test_a_picture_is_resized_by_the_mean():
    pixels = [[0, 4, 10, 10], [8, 12, 30, 30], [1, 1, 2, 2], [1, 1, 2, 2]]
    content = picture(pixels)
    assert read(".png", content, gray=True, image_size=(2, 2)) == bytes([6, 20, 1, 2])
    assert len(read(".png", content, image_size=(5, 3))) == 45


@pytest.mark.parametrize("most", [3, 1])
def test_a_picture_of_too_many_pixels_is_refused(monkeypatch, most):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"some.png' .* \(4 pixels\) exceeds"):
            read(".png", picture(RED_AND_GREEN))


def test_another_picture_under_this_suffix_is_refused():
    with pytest.raises(ValueError, match="be a whole file of PNG or JPEG, found"):
        read(".png", picture(RED_AND_GREEN, "BMP"))
    assert read(".jpg", picture(RED_AND_GREEN)) == read(".png", picture(RED_AND_GREEN))


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_a_picture_comes_back(height, width, gray, seed):
    config = {"image_size": (height, width), "gray": gray}
    data = np.random.default_rng(seed).bytes(height * width * (1 if gray else 3))
    content = written(".png", data, **config)
    assert read(".png", content, **config) == data
    assert read(".png", content, gray=gray) == data


def test_pictures_are_a_grid():
    config = {"image_size": (1, 2), "gray": True}
    content = written(".png", bytes(range(1, 10)), **config)
    # 1 2 | 3 4 | 5 6, then 7 8 | 9 and what is missing.
    found = PIL.Image.open(BytesIO(content))
    assert found.size == (6, 2)
    assert np.asarray(found).tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0]]


def test_a_grid_ends_with_the_64th_picture():
    content = written(".png", bytes(range(100)), image_size=(1, 1), gray=True)
    assert read(".png", content, gray=True) == bytes(range(64))
    content = written(".png", bytes(range(99)), image_size=(1, 1))
    assert PIL.Image.open(BytesIO(content)).size == (6, 6)
