"""Pictures as bytes: pixels from the top, of three bytes or one."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from .config import MediaConfig
from .errors import package, reading


if TYPE_CHECKING:
    import PIL.Image

# Pictures of a row, and rows, of what is drawn.
_GRID = 8


def decode_image(path: Path, media: MediaConfig) -> bytes:
    """The pixels of a PNG or JPEG file, the right way up, before black.

    Raises:
        ValueError: a broken file, or more pixels than Pillow holds for harmless.
    """
    with package("Pillow"):
        import PIL.Image
        import PIL.ImageOps

    forms = "PNG", "JPEG"
    anew = "Save it anew, smaller if it is too large, or leave it out."
    with reading(path, "be a whole file of PNG or JPEG", anew), _strict():
        with PIL.Image.open(path, formats=forms) as picture:
            # Only this reads checksums; it leaves the picture unfit for more.
            picture.verify()
        with PIL.Image.open(path, formats=forms) as picture:
            upright = _before_black(PIL.ImageOps.exif_transpose(picture))
        pixels = upright.convert("L" if media.gray else "RGB")
        if media.image_size is not None:
            height, width = media.image_size
            pixels = pixels.resize((width, height), PIL.Image.Resampling.BOX)
        return pixels.tobytes()


@contextmanager
def _strict() -> Iterator[None]:
    """Makes what Pillow warns of an error: a size, a file cut short, a broken EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield


def _before_black(picture: "PIL.Image.Image") -> "PIL.Image.Image":
    import PIL.Image

    if picture.mode.startswith("I"):
        # Of 16 bits the higher 8, as Pillow itself takes of three colours.
        return PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    black = PIL.Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return PIL.Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")


def encode_image(data: bytes, media: MediaConfig) -> bytes:
    """A PNG file of one picture, or of many in a grid that is as square as can be.

    Raises:
        ValueError: no `image_size`.
    """
    with package("Pillow"):
        import PIL.Image

    if media.image_size is None:
        raise ValueError(
            "`image_size` must be a height and a width to write a picture, got None: "
            "set it to the size of those that were read."
        )
    (height, width), channels = media.image_size, 1 if media.gray else 3
    size = height * width * channels
    pixels = np.frombuffer(data, np.uint8)[: _GRID**2 * size]
    count = math.ceil(pixels.size / size)
    columns = math.isqrt(count - 1) + 1
    rows = math.ceil(count / columns)
    grid = rearrange(
        np.pad(pixels, (0, rows * columns * size - pixels.size)),
        "(rows columns h w c) -> (rows h) (columns w) c",
        rows=rows,
        columns=columns,
        h=height,
        w=width,
    )
    buffer = BytesIO()
    PIL.Image.fromarray(grid[..., 0] if media.gray else grid).save(buffer, "PNG")
    return buffer.getvalue()
