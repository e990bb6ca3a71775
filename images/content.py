"""Sums over all pixels of a data set: channel statistics, and the digest that identifies its content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from images.listing import File


def channel_stats(x: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in 0 to 1, from exact sums. Shape of x (N, H, W, 3)."""
    total = np.zeros(3)
    squares = np.zeros(3)
    for start in range(0, len(x), 1024):
        block = x[start : start + 1024].reshape(-1, 3)
        for c in range(3):
            counts = np.bincount(block[:, c], minlength=256).astype(np.float64)
            total[c] += counts @ np.arange(256)
            squares[c] += counts @ np.arange(256) ** 2
    n = max(1, x.size // 3)
    mean = total / n / 255
    variance = np.maximum(squares / n / 255**2 - mean**2, 0)
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / 255).tolist()


def content_digest(classes: Sequence[str], files: Sequence[File], *x: NDArray[np.uint8]) -> str:
    """A hash of the content of a data set: classes, paths, labels and pixels.

    Args:
        classes: names, in the order of the labels.
        files: one for each image.
        x: the images in the order of the files, in one array or several. Shapes (n, H, W, 3).
    """
    digest = hashlib.sha256(json.dumps([*classes]).encode())
    for f in files:
        digest.update(b"%s\0%d\n" % (os.fsencode(f.path), f.label))
    for rows in x:
        for start in range(0, len(rows), 4096):
            digest.update(np.ascontiguousarray(rows[start : start + 4096]).data)
    return digest.hexdigest()[:16]
