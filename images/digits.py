"""scikit-learn's handwritten digits as images: the data set that needs no files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from images.decoding import square_images


def digit_images(img_size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """The 1,797 digits of 8 x 8 pixels, resized.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.

    Returns:
        Images (1797, img_size, img_size, 3), classes (1797,) and a name for each, such as "3/0124".
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)
    return (
        square_images(grey, img_size),
        bunch.target.astype(np.int64),
        [f"{label}/{i:04d}" for i, label in enumerate(bunch.target)],
    )
