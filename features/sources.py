"""Where the images come from that a backbone embeds: files, or an array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.transform import Transform
from files import read_bytes
from images.decoding import UNREADABLE, why_unreadable
from images.listing import File


class Source(Protocol):
    """Images by position, 0 to N - 1, and how a backbone reads them."""

    transform: Transform

    def __len__(self) -> int:
        """N."""

    def read(self, i: int) -> tuple[NDArray[np.uint8] | str, bytes]:
        """The pixels that the backbone reads (S, S, 3), and the SHA-256 of the image's content.

        Instead of the pixels, the reason in one line why the image cannot be read.
        """


@dataclass
class ImageFiles:
    """Files below a folder."""

    root: Path
    files: Sequence[File]
    transform: Transform

    def __len__(self) -> int:
        """How many."""
        return len(self.files)

    def read(self, i: int) -> tuple[NDArray[np.uint8] | str, bytes]:
        """As of every `Source`."""
        path = self.root / self.files[i].path
        try:
            content = read_bytes(path)
            return self.transform.decode(content), hashlib.sha256(content).digest()
        except UNREADABLE as e:
            return why_unreadable(e, path), b""


@dataclass
class ImageArray:
    """Images in memory. Shape (N, H, W, 3)."""

    images: NDArray[np.uint8]
    transform: Transform

    def __len__(self) -> int:
        """How many."""
        return len(self.images)

    def read(self, i: int) -> tuple[NDArray[np.uint8] | str, bytes]:
        """As of every `Source`."""
        return self.transform.of_pixels(self.images[i]), hashlib.sha256(self.images[i].tobytes()).digest()
