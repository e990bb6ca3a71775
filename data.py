"""Data sets: rows of one array with splits and labels, the known ones by name, and the Pool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.backbones import load_backbone
from features.cache import cached_features, features_of_arrays
from features.rows import Frozen, feature_stats
from images.cache import cached_images
from images.cifar10 import cifar10_folder
from images.content import channel_stats, content_digest
from images.listing import File, list_folder, lowest_fifth, visible
from utils import UserError, warn

MIN_SIZE, MAX_SIZE = 8, 1024  # pixels a side: below, no network has anything to convolve; above, memory explodes

CPU = torch.device("cpu")
Idxs = NDArray[np.int64]


class Inputs:
    """Rows of one array; a batch of them is gathered when it is requested.

    A row is an image or a vector of features. Nothing here depends on which, except that images are gathered with
    their channels last in memory.

    Args:
        x: the array; may be a view of a memory map. Shape (N, 3, H, W), uint8, or (N, D).
        idxs: which rows these inputs are, in order; all when absent.
    """

    def __init__(self, x: Tensor, idxs: Idxs | None = None) -> None:
        self.x = x
        self.idxs = np.arange(len(x)) if idxs is None else idxs

    def __len__(self) -> int:
        return len(self.idxs)

    def __getitem__(self, idxs: Idxs) -> Inputs:
        return Inputs(self.x, self.idxs[idxs])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: (3, H, W) or (D,)."""
        return tuple(self.x.shape[1:])

    def batch(self, start: int, stop: int, device: torch.device, pin: bool = False) -> Tensor:
        """Rows start to stop on `device`, in the type of the array; images with channels last in memory.

        Args:
            start: the first row.
            stop: one after the last row.
            device: where the batch is wanted.
            pin: gather into page-locked memory, from which a GPU copies asynchronously.

        Returns:
            Shape (B, 3, H, W) or (B, D).
        """
        idxs = torch.from_numpy(self.idxs[start:stop]).to(self.x.device)
        rows = channels_last(self.x).index_select(0, idxs)
        return channels_first((rows.pin_memory() if pin else rows).to(device, non_blocking=pin))

    def batches(self, start: int, size: int, device: torch.device) -> Iterator[Tensor]:
        """Batches of `size` rows from row `start` on; the next is gathered while the current one is in use."""
        spans = [(i, min(i + size, len(self))) for i in range(start, len(self), size)]
        if not spans or device.type in ("cpu", self.x.device.type):
            yield from (self.batch(*span, device) for span in spans)
            return
        pin = device.type == "cuda"
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.batch, *spans[0], device, pin)
            for span in spans[1:]:
                ready, coming = coming.result(), thread.submit(self.batch, *span, device, pin)
                yield ready
            yield coming.result()

    def to(self, device: torch.device) -> Inputs:
        """The same inputs with their array on `device` where it fits in half of the free memory, else unchanged."""
        if device.type != "cuda" or self.x.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return Inputs(self.x.to(device), self.idxs)


def channels_last(x: Tensor) -> Tensor:
    """A view of images (B, 3, H, W) as (B, H, W, 3); features (B, D) as they are."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def channels_first(x: Tensor) -> Tensor:
    """A view of images (B, H, W, 3) as (B, 3, H, W); features (B, D) as they are."""
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        inputs: the rows. Length N.
        labels: classes, int64, -1 where unknown. Shape (N,).
        paths: relative to the data set's folder, with forward slashes. Length N.
    """

    inputs: Inputs
    labels: NDArray[np.int64]
    paths: list[str]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ImageData:
    """A complete data set.

    Attributes:
        splits: "train" and "test", and "val" where there is one.
        classes: names, sorted; a class is a position in it.
        mean, std: of the training images' channels, in 0 to 1, shape (3,); or of their features, shape (D,).
        digest: identifies the content of all splits: classes, paths, labels and pixels.
        unreadable: paths of images that cannot be read and were skipped.
        flip: whether a mirrored image keeps its class.
        backbone: where rows are features, what made them, by the names of settings in config.json; else empty.
    """

    splits: dict[str, Split]
    classes: list[str]
    mean: Tensor
    std: Tensor
    digest: str
    unreadable: list[str]
    flip: bool = True
    backbone: dict[str, Any] = field(default_factory=dict)

    @property
    def train(self) -> Split:
        """The split that the pool is made of."""
        return self.splits["train"]

    @property
    def test(self) -> Split:
        """The split that networks are measured on."""
        return self.splits["test"]


class Pool:
    """The training inputs and the labels acquired so far. An index is a position in the training set, everywhere.

    It does not hold the labels of unlabeled images, so that no strategy can read them.

    Args:
        inputs: all rows. Length N.
        n_classes: C, from the class names.
    """

    def __init__(self, inputs: Inputs, n_classes: int) -> None:
        self.inputs = inputs
        self.n_classes = n_classes
        self._labels = np.full(len(inputs), -1, np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of the labeled images, -1 where unlabeled; not writable. Shape (N,)."""
        view = self._labels.view()
        view.flags.writeable = False
        return view

    @property
    def labeled(self) -> Idxs:
        """Labeled indices, ascending. Shape (L,)."""
        return np.flatnonzero(self._labels >= 0)

    @property
    def unlabeled(self) -> Idxs:
        """Unlabeled indices, ascending. Shape (U,)."""
        return np.flatnonzero(self._labels < 0)

    def label(self, idxs: Idxs, labels: NDArray[np.int64]) -> None:
        """Record the labels of these images.

        Args:
            idxs: indices of the training set. Shape (n,).
            labels: their classes, 0 to C - 1. Shape (n,).

        Raises:
            ValueError: an index is repeated, out of range or labeled already, or a label is no class. Nothing is
                labeled then.
        """
        idxs, labels = np.asarray(idxs), np.asarray(labels)
        for name, values in (("indices", idxs), ("labels", labels)):
            if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name} must be integers of shape (n,), not {values.dtype} of shape {values.shape}")
        if len(idxs) != len(labels):
            raise ValueError(f"{len(idxs)} indices, {len(labels)} labels")
        n = len(self._labels)
        if len(idxs) and (idxs.min() < 0 or idxs.max() >= n):
            raise ValueError(f"index {idxs.min() if idxs.min() < 0 else idxs.max()} is not in the pool of {n} images")
        if len(np.unique(idxs)) != len(idxs):
            raise ValueError("an index is repeated")
        if (self._labels[idxs] >= 0).any():
            raise ValueError(f"index {idxs[self._labels[idxs] >= 0][0]} is labeled already")
        if len(labels) and (labels.min() < 0 or labels.max() >= self.n_classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"label {wrong} is not one of the {self.n_classes} classes")
        self._labels[idxs] = labels


def split_of(x: Tensor, files: Sequence[File]) -> Split:
    """A split of rows with their files' labels and paths. Length of x N."""
    return Split(Inputs(x), np.array([f.label for f in files], np.int64), [f.path for f in files])


def from_arrays(
    x: NDArray[np.uint8], labels: NDArray[np.int64], paths: Sequence[str], classes: Sequence[str], flip: bool = True
) -> ImageData:
    """A data set from images in memory. A fifth of each class, those whose paths hash lowest, is the test set.

    Args:
        x: square images. Shape (N, S, S, 3), uint8.
        labels: their classes. Shape (N,).
        paths: a different name for each image, which result files show. Length N.
        classes: names, in the order of the labels.
        flip: whether a mirrored image keeps its class.
    """
    files = [File(path, int(label), 0, 0) for path, label in zip(paths, labels, strict=True)]
    held_out: set[File] = set()
    for label in range(len(classes)):
        held_out.update(lowest_fifth([f for f in files if f.label == label]))
    rows = {"train": [i for i, f in enumerate(files) if f not in held_out]}
    rows["test"] = [i for i, f in enumerate(files) if f in held_out]
    mean, std = channel_stats(x[rows["train"]])
    return ImageData(
        splits={
            name: split_of(channels_first(torch.from_numpy(x[idxs])), [files[i] for i in idxs])
            for name, idxs in rows.items()
        },
        classes=list(classes),
        mean=torch.tensor(mean),
        std=torch.tensor(std),
        digest=content_digest(classes, files, x),
        unreadable=[],
        flip=flip,
    )


def load_folder(
    root: Path,
    data_dir: Path,
    img_size: int,
    skip_unreadable: bool,
    frozen: Frozen | None = None,
    crop: bool = False,
) -> ImageData:
    """A data set from a folder of images, through the cache: pixels, or features where `frozen` is given.

    Raises:
        UserError: the folder does not have the required layout, or has unreadable images that may not be skipped.
    """
    try:
        listing = list_folder(root)
    except OSError as e:
        raise UserError(f"cannot read {e.filename or root}: {e.strerror or e}") from e
    if passed_over := str(listing.passed_over):
        warn(f"passed over in {root}: {passed_over}")
    if frozen is None:
        pixels = cached_images(root, listing, data_dir, img_size, crop)
        x, unreadable, digest = channels_first(torch.from_numpy(pixels.x)), dict(pixels.unreadable), pixels.digest
        stats = torch.tensor(pixels.mean), torch.tensor(pixels.std)
        facts: dict[str, Any] = {}
    else:
        backbone = load_backbone(frozen.name, frozen.size, frozen.weights)
        features = cached_features(root, listing, data_dir, backbone, frozen.device)
        x, unreadable, digest, facts = features.x, dict(features.unreadable), features.digest, backbone.facts
        stats = feature_stats(x[: len(listing.without(unreadable).splits["train"])])
    if unreadable and not skip_unreadable:  # position in listing.files: reason
        lines = (f"{root / listing.files[i].path}: {reason}" for i, reason in unreadable.items())
        raise UserError(f"{len(unreadable)} unreadable images (--skip_unreadable leaves them out):", *lines)
    splits, n_rows = {}, 0
    for name, files in listing.without(unreadable).splits.items():
        if lost := {f.label for f in listing.splits[name]} - {f.label for f in files}:
            names = ", ".join(listing.classes[i] for i in sorted(lost))
            raise UserError(f"{root}: no {name} image of {names} is readable")
        splits[name] = split_of(x[n_rows : n_rows + len(files)], files)
        n_rows += len(files)
    paths = [listing.files[i].path for i in sorted(unreadable)]
    return ImageData(splits, listing.classes, *stats, digest, paths, backbone=facts)


def embedded(name: str, data_dir: Path, skip_unreadable: bool, frozen: Frozen) -> ImageData:
    """A data set that is no folder, with its images replaced by features of them at the size of the backbone."""
    backbone = load_backbone(frozen.name, frozen.size, frozen.weights)
    data = DATASETS[name](data_dir, backbone.size, skip_unreadable)
    images = torch.cat([split.inputs.batch(0, len(split), CPU) for split in data.splits.values()])
    x = features_of_arrays(channels_last(images).numpy(), backbone, frozen.device, name, data_dir)
    rows = dict(zip(data.splits, x.split([len(s) for s in data.splits.values()]), strict=True))
    splits = {part: replace(split, inputs=Inputs(rows[part])) for part, split in data.splits.items()}
    mean, std = feature_stats(splits["train"].inputs.x)
    digest = hashlib.sha256(repr((data.digest, sorted(backbone.facts.items()))).encode()).hexdigest()[:16]
    return replace(data, splits=splits, mean=mean, std=std, digest=digest, backbone=backbone.facts)


@dataclass(frozen=True)
class Folder:
    """A data set that is a folder of images, so that it can be read as pixels and as features.

    Attributes:
        find: from the folder of the data sets to the one with these images.
    """

    find: Callable[[Path], Path]

    def __call__(self, data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
        """Load its pixels, as every data set does."""
        return load_folder(self.find(data_dir), data_dir, img_size, skip_unreadable)


def _existing(name: str, data_dir: Path) -> Path:
    root = data_dir / name
    if not root.is_dir():
        raise UserError(f"{root} is missing; put the images there as train/<class>/* and test/<class>/*")
    return root


def digits(data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, split 80/20 like a folder; nothing is downloaded.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
    """
    from images.digits import digit_images

    x, labels, paths = digit_images(img_size)
    return from_arrays(x, labels, paths, [str(c) for c in range(10)], flip=False)


# A function takes the folder of the data sets, the side of the images in pixels, and whether to skip unreadable images.
DATASETS: dict[str, Callable[[Path, int, bool], ImageData]] = {
    "CIFAR10": Folder(cifar10_folder),
    "DaninhasDataset": Folder(partial(_existing, "DaninhasDataset")),
    "Digits": digits,
}


def load(
    name: str,
    data_dir: Path | str,
    img_size: int,
    skip_unreadable: bool = False,
    frozen: Frozen | None = None,
    crop: bool = False,
) -> ImageData:
    """A data set by name: one of DATASETS, or any folder in `data_dir`.

    Args:
        name: name of the data set or of its folder.
        data_dir: the folder that holds the data sets' folders; the cache of decoded images is kept in its .cache/.
        img_size: side of the square images in pixels, 8 to 1024.
        skip_unreadable: leave out images that cannot be read.
        frozen: work on features of this backbone instead of pixels; `img_size` and `crop` then have no effect.
        crop: take the middle squares of image files instead of squashing them; images in memory are squashed.

    Raises:
        UserError: no such data set, a wrong layout, unreadable images or a failed download.
    """
    data_dir = Path(data_dir)
    if not MIN_SIZE <= img_size <= MAX_SIZE:
        raise UserError(f"--img_size {img_size}: must be from {MIN_SIZE} to {MAX_SIZE} pixels")
    if name in DATASETS:
        dataset = DATASETS[name]
        if isinstance(dataset, Folder):
            return load_folder(dataset.find(data_dir), data_dir, img_size, skip_unreadable, frozen, crop)
        if frozen is None:
            return dataset(data_dir, img_size, skip_unreadable)
        return embedded(name, data_dir, skip_unreadable, frozen)
    try:
        folders = [e.name for e in visible(data_dir) if e.is_dir()] if data_dir.is_dir() else []
    except OSError as e:
        raise UserError(f"cannot read {e.filename or data_dir}: {e.strerror or e}") from e
    if name not in folders:
        found = f"it holds {', '.join(folders) or 'no folders'}" if data_dir.is_dir() else "no such folder"
        raise UserError(f"--dataset_name {name}: must be {', '.join(DATASETS)} or a folder in {data_dir}: {found}")
    return load_folder(data_dir / name, data_dir, img_size, skip_unreadable, frozen, crop)


def fingerprint(data: ImageData) -> dict[str, Any]:
    """What a run's configuration records of its data, so that results of different data are never mixed."""
    return {
        "n_train": len(data.train),
        "n_test": len(data.test),
        "n_classes": len(data.classes),
        "data_digest": data.digest,
        **data.backbone,
    }
