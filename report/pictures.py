"""Small pictures of picks, as the bytes of JPEG files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from images.decoding import UNREADABLE, decode
from images.digits import digit_images
from images.listing import folder_of, is_plain

MIN_SIDE, MAX_SIDE = 32, 64  # pixels

ReadImage = Callable[[str], NDArray[np.uint8]]


def image_reader(config: dict[str, Any], data_dir: Path) -> ReadImage | None:
    """How to get the image of a path in queries.csv, or None when the images are not in `data_dir`.

    Results may come from others, and a report shows what it reads: only files below the data set's folder are read,
    or below folders that links there lead to.

    Args:
        config: of the runs; its dataset_name and img_size are used.
        data_dir: the folder that holds the data sets' folders.
    """
    name, side = config["dataset_name"], min(max(config.get("img_size", MIN_SIDE), MIN_SIDE), MAX_SIDE)
    if name == "Digits":
        images, _, paths = digit_images(side)
        rows = {path: i for i, path in enumerate(paths)}
        return lambda path: images[rows[path]]
    folder = folder_of(name, data_dir)
    return None if folder is None else lambda path: decode(_below(folder, path), side)


def _below(folder: Path, path: str) -> Path:
    """A path in queries.csv as that of a file.

    Raises:
        ValueError: it may lead out of the folder, or to hidden files.
    """
    if not all(map(is_plain, path.split("/"))):
        raise ValueError(f"{path!r} is not below the folder of the data set")
    return folder / path


def jpeg_of(path: str, read_image: ReadImage) -> bytes | None:
    """A picture as the bytes of a JPEG file; None where the image cannot be read."""
    try:
        image = read_image(path)
    except UNREADABLE:
        return None
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=82)
    return out.getvalue()
