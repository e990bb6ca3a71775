"""The features of a data set, computed once.

A cache folder holds `RowFiles` for each data set, backbone and size, named <stem> = <data set>+<backbone>-<size>px, and
<stem>.lock, held by the process that writes.

The key depends on the files, the weights and the transform, never on labels or class names: labeling an image computes
nothing again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.backbones import Backbone
from features.embedding import embed
from features.row_files import RowFiles, Rows
from features.sources import ImageArray, ImageFiles, Source
from files import alone, writing
from images.cache import cache_folders, first_writable
from images.listing import Listing
from utils import UserError, printable

FORMAT = 1  # of the files; another one is another key


class CachedFeatures(NamedTuple):
    """The features of a listing.

    Attributes:
        x: of the readable images, in the order of listing.files: a memory map. Shape (N, D), float16.
        unreadable: the reason by position in listing.files of each image that is left out.
        digest: identifies what the features are made of on every machine: classes, paths, labels, the content of the
            files, the weights and the transform.
    """

    x: Tensor
    unreadable: dict[int, str]
    digest: str


def cached_features(
    root: Path,
    listing: Listing,
    data_dir: Path,
    backbone: Backbone,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> CachedFeatures:
    """The features of a listing from the cache, computed first where they are not there.

    Args:
        root: the folder of the data set.
        listing: its files.
        data_dir: the folder that holds the data sets' folders.
        backbone: computes them.
        device: where.
        report: called with how many images are embedded, and of how many.

    Raises:
        UserError: features must be computed, and no cache folder can be written, or embedding fails.
    """
    key = _key(backbone, [len(files) for files in listing.splits.values()])
    for f in listing.files:
        key.update(b"%s\0%d %d\n" % (os.fsencode(f.path), f.size, f.mtime_ns))
    source = ImageFiles(root, listing.files, backbone.transform)
    rows = _rows(_Wanted(root.name, source, backbone, device, key.hexdigest()[:16], report), cache_folders(data_dir))
    return CachedFeatures(rows.x, rows.unreadable, _digest(listing.without(rows.unreadable), backbone, rows.hashes))


def features_of_arrays(
    images: NDArray[np.uint8], backbone: Backbone, device: torch.device, name: str, data_dir: Path
) -> Tensor:
    """The features of images in memory, from the cache like those of a folder.

    Args:
        images: Shape (N, H, W, 3).
        backbone: computes them.
        device: where.
        name: of the data set.
        data_dir: the folder that holds the data sets' folders.

    Returns:
        Shape (N, D), float16.

    Raises:
        UserError: as for `cached_features`.
    """
    key = _key(backbone, images.shape)
    key.update(np.ascontiguousarray(images).data)
    source = ImageArray(images, backbone.transform)
    return _rows(_Wanted(name, source, backbone, device, key.hexdigest()[:16]), cache_folders(data_dir)).x


def _key(backbone: Backbone, sizes: Sequence[int]) -> Any:
    """The hash to which what identifies the images is added."""
    facts = [FORMAT, PIL.__version__, backbone.weights_hash, backbone.transform, [*sizes]]
    return hashlib.sha256(json.dumps(facts).encode())


def _digest(readable: Listing, backbone: Backbone, hashes: bytes) -> str:
    splits = {name: len(files) for name, files in readable.splits.items()}
    facts = [FORMAT, readable.classes, splits, backbone.weights_hash, backbone.transform]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(b"".join(b"%s\0%d\n" % (os.fsencode(f.path), f.label) for f in readable.files))
    digest.update(hashes)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Wanted:
    """Rows that are looked up in the cache, and what it takes to compute them."""

    name: str
    source: Source
    backbone: Backbone
    device: torch.device
    key: str
    report: Callable[[int, int], None] = lambda done, total: None

    def files(self, folder: Path) -> RowFiles:
        """Where they are in a cache folder."""
        stem = f"{self.name}+{self.backbone.name.removeprefix('timm:')}-{self.backbone.size}px"
        return RowFiles(folder, stem, self.key, len(self.source), self.backbone.n_features)

    def look_up(self, folder: Path) -> Rows | None:
        """The rows, unless images that were unreadable can be read now: permissions do not change the key."""
        rows = self.files(folder).open()
        return None if rows and any(not isinstance(self.source.read(i)[0], str) for i in rows.unreadable) else rows


def _rows(wanted: _Wanted, folders: Sequence[Path]) -> Rows:
    """The rows from the first folder that has them, or computed."""
    for folder in folders:
        if rows := wanted.look_up(folder):
            return rows
    folder = first_writable(folders)
    files = wanted.files(folder)
    with alone(folder / f"{files.stem}.lock", f"embedding {wanted.name}"):
        rows = wanted.look_up(folder)  # another process may have computed them meanwhile
        if rows is None:
            _compute(wanted, files)
            rows = files.open()
    if rows is None:
        raise UserError(f"the features below {folder} were changed by another process; start again")
    return rows


def _compute(wanted: _Wanted, files: RowFiles) -> None:
    """Compute the rows that are missing."""
    if files.open():  # images that were unreadable can be read now
        files.discard()
    with writing(files.folder), files.growing() as growing:
        blocks = embed(wanted.source, wanted.backbone, wanted.device, growing.n_done)
        name, n = printable(wanted.name), len(wanted.source)
        bar = tqdm(total=n, initial=growing.n_done, desc=f"embedding {name}", unit="image", disable=None)
        with bar, closing(blocks):
            for block in blocks:
                growing.add(block)
                bar.update(block.stop - block.start)
                wanted.report(block.stop, n)
        growing.commit()
