"""Pictures for the page: any image file, however large or strange, as a small JPEG or PNG made here."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from images.decoding import UNREADABLE, upright, why_unreadable
from images.memory import memory_for_decoding
from images.opening import ready_to_decode

LARGE, SMALL = 1024, 256  # pixels of the longer side: alone, and in a grid
LOSSLESS = 256 * 256  # pixels of images that stay as they are: where each counts, a JPEG would blur them
QUALITY = 85  # of JPEGs; at 75, grain and fine textures begin to show blocks
N_THREADS = 2  # decode at a time; the training wants the other cores
CACHE_BYTES = 2**26


class Picture(NamedTuple):
    """An image as the page shows it.

    Attributes:
        content: bytes of a JPEG or PNG file.
        media_type: image/jpeg or image/png.
    """

    content: bytes
    media_type: str


class Pictures:
    """Makes pictures in threads and keeps the latest ones in memory. Used by the event loop's thread."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(N_THREADS, "pictures")
        self._cache: OrderedDict[tuple[Path, int], Picture] = OrderedDict()
        self._n_bytes = 0

    async def get(self, path: Path, side: int) -> Picture | str:
        """The picture of an image file, or the reason in one line why there is none.

        Args:
            path: the image file.
            side: the longest that the picture's longer side may be, in pixels.
        """
        key = path, side
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        made = await asyncio.get_running_loop().run_in_executor(self._threads, make_picture, path, side)
        if isinstance(made, Picture) and key not in self._cache:
            self._cache[key] = made
            self._n_bytes += len(made.content)
            while self._n_bytes > CACHE_BYTES:
                self._n_bytes -= len(self._cache.popitem(last=False)[1].content)
        return made

    def close(self) -> None:
        """Make no more pictures."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def make_picture(path: Path, side: int) -> Picture | str:
    """Read an image file as upright RGB, at most `side` pixels wide and high; or say in one line why not."""
    try:
        # The shorter side is at least half of `side` before the last step, unless the image is smaller or narrow.
        with ready_to_decode(path, side // 2, memory_for_decoding() // N_THREADS) as image:
            small = upright(image)
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
        small.info.clear()  # comments, profiles and positions of the camera stay where they are
        out = io.BytesIO()
        lossless = small.width * small.height <= LOSSLESS
        small.save(out, "PNG") if lossless else small.save(out, "JPEG", quality=QUALITY)
    except UNREADABLE as e:
        return why_unreadable(e, path)
    return Picture(out.getvalue(), "image/png" if lossless else "image/jpeg")
