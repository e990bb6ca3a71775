"""The decoded images of a folder as one memory map, built once.

A cache folder holds, for each data set and image size, named <stem> = <data set>-<size>px:

    <stem>-<key>.u8        the pixels, row after row in the order of the listing, without the unreadable images
    <stem>.json            the manifest, written last: it names the key of the .u8 file that is complete
    <stem>.digests.json    content digests of these pixels, one for each set of labels seen lately
    <stem>.lock            held by the process that writes

The key depends on the files alone, never on labels or class names: labeling an image rebuilds nothing.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from files import alone, replacing, sweep_temporaries, writing
from images.content import channel_stats, content_digest
from images.decoding import CROP_RULE, RESIZE_RULE, try_decode
from images.listing import File, Listing
from images.records import is_damaged, read_record, write_record
from images.workers import decode_files
from utils import UserError, warn

N_DIGESTS = 32  # digests remembered: labels may change with each start, and the file shall stay small


class CachedImages(NamedTuple):
    """The decoded images of a listing.

    Attributes:
        x: the readable images, in the order of listing.files. Shape (N, H, W, 3).
        unreadable: position in listing.files and reason of each image that is left out, sorted.
        mean, std: of the training images' channels, in 0 to 1.
        digest: identifies the content of train and test: classes, paths, labels and pixels.
    """

    x: NDArray[np.uint8]
    unreadable: list[tuple[int, str]]
    mean: list[float]
    std: list[float]
    digest: str


def cached_images(root: Path, listing: Listing, data_dir: Path, img_size: int, crop: bool = False) -> CachedImages:
    """The images of a listing from the cache, decoded first if they are not there.

    Args:
        root: the folder of the data set.
        listing: its files.
        data_dir: the folder that holds the data sets' folders.
        img_size: side of the square images in pixels.
        crop: whether they are the middle squares of the images, instead of squashed.

    Raises:
        UserError: images must be decoded, and no cache folder can be written.
    """
    images = _Images(root, listing, img_size, crop)
    folder, pixels = _pixels(images, cache_folders(data_dir))
    digest = _digest(images, pixels, [folder, *cache_folders(data_dir)])
    return CachedImages(pixels.x, pixels.unreadable, pixels.mean, pixels.std, digest)


def cache_folders(data_dir: Path) -> list[Path]:
    """Folders for caches, the preferred one first: beside the data and in the user's home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [data_dir / ".cache", Path(home, "dalmax")]
    return folders[:1] if home.startswith("~") else folders  # some containers run a user without a home


def first_writable(folders: Sequence[Path]) -> Path:
    """The first of some folders that can be written, created if it does not exist.

    Raises:
        UserError: none can be written.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise UserError(f"no folder for the image cache can be written: tried {', '.join(map(str, folders))}")


@dataclass(frozen=True)
class _Images:
    """What is looked up in the cache: the images of a listing at one size."""

    root: Path
    listing: Listing
    img_size: int
    crop: bool = False

    @property
    def stem(self) -> str:
        """How the names of its files begin."""
        return f"{self.root.name}-{self.img_size}px{'-crop' if self.crop else ''}"

    @cached_property
    def key(self) -> str:
        """A hash of all that the rows and their statistics depend on."""
        rule = CROP_RULE if self.crop else RESIZE_RULE
        n_files = [len(files) for files in self.listing.splits.values()]
        key = hashlib.sha256(json.dumps([2, self.img_size, rule, PIL.__version__, n_files]).encode())
        for f in self.listing.files:
            key.update(b"%s\0%d %d\n" % (os.fsencode(f.path), f.size, f.mtime_ns))
        return key.hexdigest()[:16]

    def has_become_readable(self, i: int) -> bool:
        """Whether a file can be read now: a change of permissions does not change the key."""
        return not isinstance(try_decode(self.root / self.listing.files[i].path, self.img_size, None, self.crop), str)


class _Pixels(NamedTuple):
    """A cached .u8 file, and what its manifest records."""

    x: NDArray[np.uint8]
    unreadable: list[tuple[int, str]]
    mean: list[float]
    std: list[float]
    mtime_ns: int  # of the .u8 file


def _pixels(images: _Images, folders: Sequence[Path]) -> tuple[Path, _Pixels]:
    """The pixels, and the folder that they are cached in."""
    for folder in folders:
        if pixels := _look_up(images, folder):
            return folder, pixels
    folder = first_writable(folders)
    with alone(folder / f"{images.stem}.lock", f"reading {images.root}"):
        pixels = _look_up(images, folder)  # another process may have built it meanwhile
        if pixels is None:
            _build(images, folder)
            pixels = _open(images, folder)
    if pixels is None:
        raise UserError(f"the image cache below {folder} was changed by another process; start again")
    return folder, pixels


def _look_up(images: _Images, folder: Path) -> _Pixels | None:
    """The cached pixels, unless images that were unreadable can be read now."""
    pixels = _open(images, folder)
    return None if pixels and any(images.has_become_readable(i) for i, _ in pixels.unreadable) else pixels


def _open(images: _Images, folder: Path) -> _Pixels | None:
    """The cached pixels; None where they are missing, incomplete or damaged."""
    try:
        manifest = read_record(folder / f"{images.stem}.json")
        path = folder / f"{images.stem}-{images.key}.u8"
        unreadable = [(int(i), str(reason)) for i, reason in manifest["unreadable"]]
        shape = (len(images.listing.files) - len(unreadable), images.img_size, images.img_size, 3)
        stat = path.stat()
        complete = manifest["key"] == images.key and manifest["mtime_ns"] == stat.st_mtime_ns
        if not complete or stat.st_size != math.prod(shape):
            return None
        # Copy-on-write, as torch warns about arrays that cannot be written.
        x = np.memmap(path, np.uint8, "c", shape=shape) if shape[0] else np.empty(shape, np.uint8)
        mean, std = ([float(v) for v in manifest[name]] for name in ("mean", "std"))
        valid = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
        return _Pixels(x, unreadable, mean, std, stat.st_mtime_ns) if valid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(images: _Images, folder: Path) -> None:
    """Decode every image into the .u8 file, then write the manifest."""
    files, img_size = images.listing.files, images.img_size
    final = folder / f"{images.stem}-{images.key}.u8"
    manifest_path = folder / f"{images.stem}.json"
    sweep_temporaries(manifest_path)
    if is_damaged(manifest_path):
        warn(f"{manifest_path} is damaged; the images are read again")
    of_any_key = f"{glob.escape(images.stem)}-{'[0-9a-f]' * len(images.key)}"
    with writing(final):
        for old in [*folder.glob(f"{of_any_key}.*"), *folder.glob(f".{of_any_key}.u8.*.tmp")]:
            old.unlink(missing_ok=True)
        with replacing(final) as f:
            unreadable = decode_files(images.root, files, img_size, Path(f.name), images.crop)
            bad = {i for i, _ in unreadable}
            shape = (len(files) - len(bad), img_size, img_size, 3)
            mean, std = [0.0] * 3, [1.0] * 3
            if shape[0]:
                rows = np.memmap(f.name, np.uint8, "r+", shape=(len(files), *shape[1:]))
                _close_gaps(rows, bad)
                mean, std = channel_stats(rows[: len(images.listing.without(bad).splits["train"])])
                del rows
            f.truncate(math.prod(shape))
            os.fsync(f.fileno())
    mtime_ns = final.stat().st_mtime_ns  # another one means that the file was written to since
    manifest = dict(key=images.key, mtime_ns=mtime_ns, unreadable=unreadable, mean=mean, std=std)
    write_record(manifest_path, manifest)


def _close_gaps(rows: NDArray[np.uint8], bad: set[int]) -> None:
    """Move the good rows together, in order."""
    if not bad:
        return
    good = [i for i in range(len(rows)) if i not in bad]
    for to, row in enumerate(good):
        if to != row:
            rows[to] = rows[row]


def _digest(images: _Images, pixels: _Pixels, folders: Sequence[Path]) -> str:
    """The digest of train and test: remembered from an earlier start, or computed from the pixels.

    It is remembered in the first of the folders that can be written, as the cache may belong to a colleague. Where
    none can, each start computes it.
    """
    name = _digest_name(images, pixels)
    for folder in folders:
        if digest := _remembered(images, folder).get(name):
            return digest
    digest = None
    with suppress(UserError, OSError):
        folder = first_writable(folders)
        with alone(folder / f"{images.stem}.lock", f"reading {images.root}"):  # processes started at once compute once
            path = folder / f"{images.stem}.digests.json"
            if is_damaged(path):
                warn(f"{path} is damaged; the digest is computed again")
            known = _remembered(images, folder)
            digest = known.get(name) or _compute_digest(images, pixels)
            sweep_temporaries(path)
            write_record(path, dict([*known.items(), (name, digest)][-N_DIGESTS:]))
    return digest or _compute_digest(images, pixels)


def _digest_name(images: _Images, pixels: _Pixels) -> str:
    """A hash of all that the digest depends on, without reading the pixels."""
    listing = images.listing
    name = [images.key, pixels.mtime_ns, [i for i, _ in pixels.unreadable], listing.classes]
    labels = [f.label for part in ("train", "test") for f in listing.splits.get(part, [])]
    return hashlib.sha256(json.dumps(name).encode() + np.array(labels, np.int64).tobytes()).hexdigest()


def _remembered(images: _Images, folder: Path) -> dict[str, str]:
    """Digests by the names that they were remembered under, the latest last; empty where the file is damaged."""
    digests = read_record(folder / f"{images.stem}.digests.json")
    return {name: digest for name, digest in digests.items() if isinstance(digest, str) and len(digest) == 16}


def _compute_digest(images: _Images, pixels: _Pixels) -> str:
    """The digest from all pixels of train and test."""
    readable = images.listing.without({i for i, _ in pixels.unreadable})
    files: list[File] = []
    x: list[NDArray[np.uint8]] = []
    start = 0
    for name, of_split in readable.splits.items():
        if name != "val":  # the digest is older than this split
            files += of_split
            x.append(pixels.x[start : start + len(of_split)])
        start += len(of_split)
    return content_digest(readable.classes, files, *x)
