"""The image files in a data set's folder, with class and split."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from images.decoding import UNREADABLE
from utils import UserError


class File(NamedTuple):
    """One image file.

    Attributes:
        path: relative to the data set's folder, with forward slashes.
        label: its class, a position in the class names; -1 where unknown.
        size: bytes, -1 of a broken link.
        mtime_ns: time of the last modification, -1 of a broken link.
    """

    path: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """The image files of a data set's folder.

    Attributes:
        classes: names, sorted.
        splits: the files of "train", "val" and "test", in this order, each sorted by class, then path. "val" is absent
            where the folder has none.
    """

    classes: list[str]
    splits: dict[str, list[File]]

    @cached_property
    def files(self) -> list[File]:
        """The files of all splits, in order."""
        return [f for files in self.splits.values() for f in files]

    def without(self, idxs: Collection[int]) -> Listing:
        """The listing without some of its files, named by their positions in `files`."""
        splits, start = {}, 0
        for name, files in self.splits.items():
            splits[name] = [f for i, f in enumerate(files, start) if i not in idxs]
            start += len(files)
        return Listing(self.classes, splits)


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case file suffixes of the formats that Pillow decodes."""
    Image.init()
    no_decoder = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # recognised by Pillow, never read
    return frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN and f not in no_decoder)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image: by its suffix, or by its content where it has none.

    Files that cannot be opened count as images, so that they are reported as unreadable.
    """
    if not entry.is_file() and os.path.exists(entry.path):
        return False  # reading from a pipe or a device may never end
    _, dot, suffix = entry.name.rpartition(".")
    if dot:
        return f".{suffix.lower()}" in image_suffixes()
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(entry.path):  # metadata
            return True
    except UNREADABLE as e:
        return isinstance(e, OSError) and e.errno is not None


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and modification time of a file; -1 of a broken link."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _class_names(folder: Path) -> list[str]:
    """The names of the folders in a folder.

    Raises:
        UserError: there is a broken link, such as one to a class on a disk that is not mounted: skipping it would
            lose the class.
    """
    entries = visible(folder)
    for entry in entries:
        if not Path(entry.name).suffix and entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist")
    return [e.name for e in entries if e.is_dir()]


def _image_files(folder: Path, path: str, label: int) -> Iterator[File]:
    """Image files below a class folder, sorted. Hidden files and files that are not images are skipped."""
    for entry in visible(folder):
        if entry.is_dir():
            yield from _image_files(folder / entry.name, f"{path}/{entry.name}", label)
        elif _is_image(entry):
            yield File(f"{path}/{entry.name}", label, *_stamp(entry))


def _files_of_classes(folder: Path, prefix: str, names: list[str], classes: list[str]) -> list[File]:
    """Image files of some class folders; `prefix` leads from the data set's folder to `folder`."""
    files = []
    for name in names:
        of_class = list(_image_files(folder / name, prefix + name, classes.index(name)))
        if not of_class:
            raise UserError(f"{folder / name} is a class folder without images; add some or remove the folder")
        files += of_class
    return files


def folder_of(name: str, data_dir: Path) -> Path | None:
    """Where the images of a data set are, or None if they are not there."""
    names = ("DATA_CIFAR10", "CIFAR10") if name == "CIFAR10" else (name,)
    return next((data_dir / n for n in names if (data_dir / n).is_dir()), None)


def list_folder(root: Path) -> Listing:
    """The classes and image files of a folder.

    The folder holds `train/<class>/*`, `test/<class>/*` and maybe `val/<class>/*`, or `<class>/*`. In the second
    layout, a fifth of each class becomes the test set: the files whose paths hash lowest, so that the split is the
    same on every machine and changes little when files are added.

    Raises:
        UserError: the folder has neither layout; the message says where it departs from them.
    """
    names = _class_names(root)
    if not {"train", "test"} & set(names):
        return _list_unsplit(root, names)
    for part in ("train", "test"):
        if part not in names:
            raise UserError(f"{root} has no {part}/ folder; expected train/<class>/* and test/<class>/*, or <class>/*")
    classes = _class_names(root / "train")
    _check_classes(root / "train", classes)
    parts = [part for part in ("train", "val", "test") if part in names]
    return Listing(classes, {part: _list_part(root, part, classes) for part in parts})


def _list_part(root: Path, part: str, classes: list[str]) -> list[File]:
    own = _class_names(root / part)
    if not own:
        raise UserError(f"{root / part} has no class folders; expected {part}/<class>/<image>")
    if unknown := [c for c in own if c not in classes]:
        raise UserError(f"{root / part} has classes that train does not have: {', '.join(unknown)}")
    return _files_of_classes(root / part, f"{part}/", own, classes)


def _check_classes(folder: Path, classes: list[str]) -> None:
    if not classes:
        raise UserError(f"{folder} has no class folders; expected one folder per class with its images in it")
    if len(classes) < 2:
        raise UserError(f"{folder} has a single class, {classes[0]!r}; two or more are needed to learn anything")


def _list_unsplit(root: Path, classes: list[str]) -> Listing:
    parts = {"train", "training", "test", "testing", "val", "valid", "validation"}
    if classes and {c.lower() for c in classes} <= parts:
        raise UserError(f"{root} holds {', '.join(classes)}; the two parts must be named train and test")
    _check_classes(root, classes)
    train, test = [], []
    for name in classes:
        of_class = sorted(_files_of_classes(root, "", [name], classes))
        if len(of_class) < 2:
            raise UserError(f"{root / name} has a single image; two are needed for a split into train and test")
        chosen = lowest_fifth(of_class)
        train += [f for f in of_class if f not in chosen]
        test += [f for f in of_class if f in chosen]
    return Listing(classes, {"train": train, "test": test})


def lowest_fifth(files: Sequence[File]) -> set[File]:
    """The fifth of the files, at least one, whose paths hash lowest."""
    ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f.path)).digest())
    return set(ranked[: max(1, round(0.2 * len(ranked)))])
