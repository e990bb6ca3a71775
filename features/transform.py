"""An image as a backbone reads it: resized by its shorter side, the middle cut out."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from images.decoding import upright
from images.opening import ready_to_decode

MAX_RATIO = 8  # of the sides; the ends of longer strips are cut off first: resized, they could fill the memory


class Transform(NamedTuple):
    """How images become the input of a backbone.

    Attributes:
        size: side of the square that the backbone reads, in pixels.
        resize_to: what the shorter side becomes before the middle is cut out; both sides where `squash` is set.
        interpolation: the filter of Pillow, in lower case, such as bicubic.
        squash: whether images are squashed to a square, as a few backbones want them.
        mean, std: of the channels in 0 to 1: subtracted, and divided by.
    """

    size: int
    resize_to: int
    interpolation: str
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the backbone reads, before mean and std. Shape (size, size, 3).

        Source: timm 1.0.31, `create_transform` for evaluation; equal to it for images that need no turning.
        """
        image = upright(image)
        longest = MAX_RATIO * min(image.size)
        if max(image.size) > longest:
            image = _middle(image, min(image.width, longest), min(image.height, longest))
        shorter = min(image.size)
        width, height = (self.resize_to if self.squash else self.resize_to * n // shorter for n in image.size)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return np.asarray(_middle(image, self.size, self.size))

    def of_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same, from an image in memory, grey or RGB. Shape (H, W) or (H, W, 3)."""
        return self.of(Image.fromarray(pixels))

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """The same, from the content of an image file. Large JPEGs are decoded at a fraction of their size.

        Raises:
            One of images.decoding.UNREADABLE: the file is not an image, or damaged, or takes too much memory.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; damage raises errors
            with ready_to_decode(io.BytesIO(content), self.resize_to) as image:
                return self.of(image)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
