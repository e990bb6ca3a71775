"""One image file decoded to pixels."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from images.opening import ready_to_decode

RESIZE_RULE = "upright RGB, squashed to a square, bilinear with antialiasing; JPEGs are drafted at twice the side"
CROP_RULE = RESIZE_RULE.replace("squashed to a square", "the middle square")
# What Pillow's plug-ins raise on damaged files, found by damaging files of all formats at random.
UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


def upright(image: Image.Image) -> Image.Image:
    """An image as RGB, turned as its camera was held. Transparency is dropped."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut at 255
        deep = np.asarray(image).clip(0, 65535)
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        deep = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((deep * (255 if deep.max() <= 1 else 1)).clip(0, 255).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(image: Image.Image, img_size: int, crop: bool = False) -> NDArray[np.uint8]:
    """An image as upright RGB, squashed to a square, or its middle square. Shape (img_size, img_size, 3)."""
    image = upright(image)
    if crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (img_size, img_size):
        image = image.resize((img_size, img_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def square_images(images: NDArray[np.uint8], img_size: int) -> NDArray[np.uint8]:
    """Images in memory as RGB, squashed to squares.

    Args:
        images: grey or RGB. Shape (N, H, W) or (N, H, W, 3).
        img_size: side of the squares in pixels.

    Returns:
        Shape (N, img_size, img_size, 3).
    """
    return np.stack([to_square(Image.fromarray(image), img_size) for image in images])


def decode(path: Path, img_size: int, limit: int | None = None, crop: bool = False) -> NDArray[np.uint8]:
    """Read one image file as upright RGB of the given size. Shape (img_size, img_size, 3).

    Args:
        path: an image file.
        img_size: side of the square in pixels.
        limit: bytes of memory that this may take; by default what there is for decoding.
        crop: take the middle square instead of squashing the image.

    Raises:
        One of UNREADABLE: the file is not an image, damaged, or takes more memory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata; damage raises errors
        with ready_to_decode(path, img_size, limit) as image:
            return to_square(image, img_size, crop)


def try_decode(path: Path, img_size: int, limit: int | None = None, crop: bool = False) -> NDArray[np.uint8] | str:
    """The image, or the reason why it cannot be read, in one line; see `decode`."""
    try:
        return decode(path, img_size, limit, crop)
    except UNREADABLE as e:
        return why_unreadable(e, path)


def why_unreadable(error: Exception, path: Path) -> str:
    """The reason why a file cannot be read, in one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.replace(repr(str(path)), "").split()) or type(error).__name__
