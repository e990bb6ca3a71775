"""Image files opened for decoding, if there is enough memory for that.

A small file can hold an image that takes gigabytes. Pillow limits the pixels of an image as soon as it knows them;
here the bytes count, which differ by a factor of ten between formats.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import EpsImagePlugin, Image

from images.libtiff import quiet_libtiff
from images.memory import LEAST, memory_for_decoding

# Bytes a pixel, measured on images of 16 and 64 megapixels with Pillow 13.
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # by mode; all others take 4
CONVERTED = {"I": 14, "F": 20}  # by the mode's first letter: taken by numpy's arrays
CONVERTED_ELSE = 8  # as RGB, and the middle that may be cut out of it
BUFFERED = {"WEBP": 20, "AVIF": 24, "JPEG2000": 32, "FITS": 44}  # by format, while it is decoded or longer
BUFFERED |= dict.fromkeys(("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "ICO"), 0)
BUFFERED_ELSE = 8  # a copy as bytes, of 4 channels with 16 bits
COEFFICIENT = 2  # of a JPEG whose channels or bits come one after the other: they are all kept, at full size
MOST = 64  # of any image

# What Image.open limits is what it may decode: an icon, or an image within another. These formats decode nothing there.
LAZY = ("JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM")

EpsImagePlugin.gs_binary = False  # PostScript is a program; Pillow would run it by Ghostscript


@contextmanager
def ready_to_decode(file: Path | io.BytesIO, side: int, limit: int | None = None) -> Iterator[Image.Image]:
    """An opened image that there is memory to decode. Its pixels are read when they are first used.

    Large JPEGs are decoded at a fraction of their size ("drafted"), which is several times faster: the smallest
    fraction that Pillow offers with at least twice the side, so that resizing still smooths.

    Args:
        file: an image file, or its content.
        side: what the shorter side will be resized to, in pixels.
        limit: bytes of memory that decoding and converting to RGB may take; by default what there is for it.

    Raises:
        One of images.decoding.UNREADABLE: the file is not an image, damaged, or takes more memory.
    """
    limit = memory_for_decoding() if limit is None else limit
    with opened(file, limit) as image:
        if image.format == "EPS":
            raise ValueError("PostScript is a program, which is not run; convert it to PNG")
        full = image.size
        image.draft("RGB", (2 * side, 2 * side))
        needed = bytes_to_decode(image, full, side)
        if needed > limit:
            needs = f"{full[0]} x {full[1]} pixels need {_gigabytes(needed)} to decode"
            raise Image.DecompressionBombError(f"{needs}, {_gigabytes(limit)} allowed")
        with quiet_libtiff() if image.format == "TIFF" else nullcontext():
            yield image


@contextmanager
def opened(file: Path | io.BytesIO, limit: int = LEAST) -> Iterator[Image.Image]:
    """An image whose format and size are known; as a rule its pixels are not decoded yet.

    Args:
        file: an image file, or its content.
        limit: bytes of memory that opening may take, and decoding an image that others are made of.

    Raises:
        One of images.decoding.UNREADABLE: the file is not an image, damaged, or takes more memory.
    """
    if isinstance(file, Path):
        _check_file(file, limit)
    n_pixels = limit // MOST
    Image.MAX_IMAGE_PIXELS = n_pixels // 2  # Pillow raises at twice this value
    with ExitStack() as stack:
        try:
            image: Image.Image | None = stack.enter_context(Image.open(file))
        except Image.DecompressionBombError:
            image = _opened_lazily(stack.enter_context(open(file, "rb")) if isinstance(file, Path) else file)
        if image is None:
            more = f"more than {n_pixels / 1e6:.0f} megapixels may not fit in the {_gigabytes(limit)} allowed"
            raise Image.DecompressionBombError(more)
        yield image


def _opened_lazily(f: BinaryIO) -> Image.Image | None:
    """An image of any size, unless its format may decode pixels when it is opened."""
    Image.init()  # else only the plug-in of the file's suffix may be there
    f.seek(0)
    prefix = f.read(16)
    f.seek(0)
    for name in LAZY:
        factory, accept = Image.OPEN[name]
        if accept and accept(prefix):
            return factory(f, "")
    return None


def _check_file(path: Path, limit: int) -> None:
    """Refuse what is no regular file, as reading a pipe may never end, or would fill the memory by being read."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > limit:
        with open(path, "rb") as f:
            head = f.read(12)
        if head[8:] == b"WEBP" or head[4:8] == b"ftyp":  # WebP and AVIF are read as a whole when they are opened
            size = f"the file has {_gigabytes(status.st_size)}"
            raise Image.DecompressionBombError(f"{size}, {_gigabytes(limit)} allowed")


def bytes_to_decode(image: Image.Image, full: tuple[int, int], side: int) -> int:
    """An upper bound on the memory that decoding, converting and resizing an image takes.

    Args:
        image: opened and, if it is a JPEG, drafted.
        full: its width and height before it was drafted.
        side: what the shorter side will be resized to.
    """
    mode, (width, height) = image.mode, image.size
    beside = max(CONVERTED.get(mode[0], CONVERTED_ELSE), BUFFERED.get(image.format or "", BUFFERED_ELSE))
    needed = width * height * (STORED.get(mode, 4) + beside)
    if image.format in ("JPEG", "MPO") and not _is_single_scan(image):
        needed += math.prod(full) * COEFFICIENT * len(image.getbands())
    return needed + 4 * side * (width + height) + 16 * (width + height)  # resized rows, and weights of each axis


def _is_single_scan(image: Image.Image) -> bool:
    """Whether an opened JPEG holds its channels together and each block at once: it is decoded line by line.

    Pillow has read up to the end of the scan's header. If not, the answer is no, as the cautious one.
    """
    if image.info.get("progressive"):
        return False
    n = len(image.getbands())
    with suppress(OSError, AttributeError):
        f = image.fp  # type: ignore[attr-defined]
        f.seek(-(8 + 2 * n), os.SEEK_CUR)
        header = f.read(8 + 2 * n)
        return bool(header[:5] == b"\xff\xda\0" + bytes([6 + 2 * n, n]))
    return False


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
