"""The image files in a data set's folder, with class and split."""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from operator import attrgetter
from pathlib import Path, PurePath
from typing import NamedTuple

from PIL import Image

from images.decoding import UNREADABLE
from images.opening import opened
from utils import UserError

NO_SUFFIX, NO_FILE, BESIDE = "without suffix and no image", "no regular file", "beside the class folders"
UNNAMED = "--classes does not name"
LACKING = "train does not have"
MOST_KINDS = 12  # named in a note
PARTS = ("train", "val", "test")
UNLABELED = ("unlabeled", "_unlabeled")  # the second is FiftyOne's


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


@dataclass
class PassedOver:
    """What the listing of a folder left out; hidden files and folders apart.

    Attributes:
        files: how many, by kind: a suffix, or why.
        folders: names of those beside the ones that are used.
        used: the folders that are used, for the message.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    used: str = "train/, val/ and test/"

    def __str__(self) -> str:
        """In words; empty where nothing was left out."""
        parts = []
        if n := self.files.total():
            kinds = [f"{kind} {count}" for kind, count in self.files.most_common(MOST_KINDS)]
            others = n - sum(count for _, count in self.files.most_common(MOST_KINDS))
            parts.append(f"{n} files ({', '.join(kinds + [f'others {others}'] * (others > 0))})")
        if self.folders:
            named = ", ".join(f"{name}/" for name in self.folders)
            parts.append(f"the folders {named} (only {self.used} are used)")
        return " and ".join(parts)


@dataclass(frozen=True)
class Listing:
    """The image files of a data set's folder.

    Attributes:
        classes: names, sorted.
        splits: the files of "train", "val" and "test", in this order, each sorted by class, then path. "val" is absent
            where the folder has none.
        passed_over: what else the folder holds.
    """

    classes: list[str]
    splits: dict[str, list[File]]
    passed_over: PassedOver = field(default_factory=PassedOver)

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
        return replace(self, splits=splits)


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case file suffixes of the formats that Pillow decodes."""
    Image.init()
    no_decoder = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # recognised by Pillow, never read
    return frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN and f not in no_decoder)


@lru_cache(1000)
def _why_suffix_passed_over(suffix: str) -> str:
    """Empty for the suffix of an image, without its dot; else the kind of the file."""
    suffix = f".{suffix.lower()}"
    if suffix in image_suffixes():
        return ""
    return suffix if len(suffix) > 1 and not any(map(str.isspace, suffix)) else f"'{suffix}'"


def _why_passed_over(entry: os.DirEntry[str]) -> str:
    """Empty for an image, by its suffix or, where it has none, by its content; else the kind of the file.

    Files that cannot be opened, or that are too large, count as images, so that they are reported as unreadable.
    """
    if _is_special(entry):
        return NO_FILE
    _, dot, suffix = entry.name.rpartition(".")
    if dot:
        return _why_suffix_passed_over(suffix)
    try:
        with warnings.catch_warnings(action="ignore"), opened(Path(entry.path)):  # metadata
            return ""
    except Image.DecompressionBombError:
        return ""
    except UNREADABLE as e:
        return "" if isinstance(e, OSError) and e.errno is not None else NO_SUFFIX


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a socket or a device: reading one may never end."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:  # a link to itself
        return False


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and modification time of a file; -1 of a broken link."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one. An image that is a link to itself is none: it is unreadable.

    Raises:
        OSError: a link without a suffix leads in a circle, as one to a folder above it does.
    """
    try:
        return entry.is_dir()
    except OSError as e:
        if e.errno == errno.ELOOP and Path(entry.name).suffix:
            return False
        raise


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted([e for e in entries if e.name[0] != "."], key=attrgetter("name"))


def is_plain(name: str) -> bool:
    """Whether a name is that of a file or folder that is not hidden, and no path."""
    return name != "" and not name.startswith(".") and PurePath(name).name == name


def _class_names(folder: Path, passed_over: PassedOver) -> list[str]:
    """The names of the folders in a folder.

    Raises:
        UserError: there is a broken link, such as one to a class on a disk that is not mounted: skipping it would
            lose the class.
    """
    names = []
    for entry in visible(folder):
        if not Path(entry.name).suffix and entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist")
        if entry.is_dir():
            names.append(entry.name)
        else:
            passed_over.files[NO_FILE if _is_special(entry) else BESIDE] += 1
    return names


def _image_files(folder: Path, path: str, label: int, passed_over: PassedOver) -> Iterator[File]:
    """Image files below a class folder, sorted. Hidden files and files that are not images are left out."""
    for entry in visible(folder):
        if _is_folder(entry):
            yield from _image_files(folder / entry.name, f"{path}/{entry.name}", label, passed_over)
        elif image := _image(entry, f"{path}/{entry.name}", label, passed_over):
            yield image


def _image(entry: os.DirEntry[str], path: str, label: int, passed_over: PassedOver) -> File | None:
    """A file, if it is an image; else it is counted."""
    if why := _why_passed_over(entry):
        passed_over.files[why] += 1
        return None
    size, mtime_ns = _stamp(entry)
    return File(path, label, size, mtime_ns)


def _files_of_class(folder: Path, path: str, label: int, passed_over: PassedOver) -> list[File]:
    """Image files of a class folder, whose path from the data set's folder is given too."""
    of_class = PassedOver()
    files = list(_image_files(folder, path, label, of_class))
    if not files:
        left_out = f"; passed over: {of_class}" if of_class.files else ""
        raise UserError(f"{folder} is a class folder without images; add some or remove the folder{left_out}")
    passed_over.files += of_class.files
    return files


def folder_of(name: str, data_dir: Path) -> Path | None:
    """Where the images of a data set are, or None if they are not there. A name that is a path is none's."""
    names = ("DATA_CIFAR10", "CIFAR10") if name == "CIFAR10" else (name,)
    return next((data_dir / n for n in names if is_plain(n) and (data_dir / n).is_dir()), None)


def list_folder(root: Path) -> Listing:
    """The classes and image files of a folder.

    The folder holds `train/<class>/*`, `test/<class>/*` and maybe `val/<class>/*`, or `<class>/*`. In the second
    layout, a fifth of each class becomes the test set: the files whose paths hash lowest, so that the split is the
    same on every machine and changes little when files are added.

    Raises:
        UserError: the folder has neither layout; the message says where it departs from them.
    """
    passed_over = PassedOver()
    names = _class_names(root, passed_over)
    if not {"train", "test"} & set(names):
        return _list_unsplit(root, names, passed_over)
    for part in ("train", "test"):
        if part not in names:
            raise UserError(f"{root} has no {part}/ folder; expected train/<class>/* and test/<class>/*, or <class>/*")
    classes = _class_names(root / "train", passed_over)
    _check_classes(root / "train", classes)
    splits = {"train": _files_of_part(root, "train", classes, classes, passed_over)}
    for part in ("val", "test"):
        if part in names:
            own = _class_names(root / part, passed_over)
            splits[part] = _files_of_part(root, part, own, classes, passed_over)
    passed_over.folders += [name for name in names if name not in splits]
    return Listing(classes, splits, passed_over)


def _files_of_part(
    root: Path, part: str, own: list[str], classes: Sequence[str], passed_over: PassedOver, lacking: str = LACKING
) -> list[File]:
    """Image files of train/, val/ or test/, which holds the classes `own`."""
    if not own:
        raise UserError(f"{root / part} has no class folders; expected {part}/<class>/<image>")
    if unknown := sorted({*own} - {*classes}):
        raise UserError(f"{root / part} has classes that {lacking}: {', '.join(unknown)}")
    files, labels = [], {name: label for label, name in enumerate(classes)}
    for name in own:
        files += _files_of_class(root / part / name, f"{part}/{name}", labels[name], passed_over)
    return files


def _check_classes(folder: Path, classes: list[str]) -> None:
    if not classes:
        raise UserError(f"{folder} has no class folders; expected one folder per class with its images in it")
    if len(classes) < 2:
        raise UserError(f"{folder} has a single class, {classes[0]!r}; two or more are needed to learn anything")


def _list_unsplit(root: Path, classes: list[str], passed_over: PassedOver) -> Listing:
    parts = {"train", "training", "test", "testing", "val", "valid", "validation"}
    if classes and {c.lower() for c in classes} <= parts:
        raise UserError(f"{root} holds {', '.join(classes)}; the two parts must be named train and test")
    _check_classes(root, classes)
    train, test = [], []
    for label, name in enumerate(classes):
        of_class = sorted(_files_of_class(root / name, name, label, passed_over))
        if len(of_class) < 2:
            raise UserError(f"{root / name} has a single image; two are needed for a split into train and test")
        chosen = lowest_fifth(of_class)
        train += [f for f in of_class if f not in chosen]
        test += [f for f in of_class if f in chosen]
    return Listing(classes, {"train": train, "test": test}, passed_over)


def lowest_fifth(files: Sequence[File]) -> set[File]:
    """The fifth of the files, at least one, whose paths hash lowest."""
    ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f.path)).digest())
    return set(ranked[: max(1, round(0.2 * len(ranked)))])


def list_to_label(root: Path, classes: Sequence[str]) -> Listing:
    """The image files of a folder that is being labeled; labels of "train" are -1 where unknown.

    Unlabeled images lie below `unlabeled/` or `_unlabeled/`, directly in the folder or, where it has neither of these
    two nor train/, val/ or test/, anywhere below it. Labeled ones lie in `train/<class>/`, `val/<class>/` and
    `test/<class>/`, or for training in `<class>/`. All of these may be absent.

    Args:
        root: the folder.
        classes: names, in the order of the labels.

    Returns:
        The files of "train", those without a label first, sorted by path; and of "val" and "test" where they are there.

    Raises:
        UserError: a labeled folder holds another class, or no images.
    """
    passed_over = PassedOver(used="unlabeled/, train/, val/, test/ and folders named like a class")
    labels = {name: label for label, name in enumerate(classes)}
    entries = visible(root)
    folders = [e.name for e in entries if _is_folder(e)]
    bare = not {*PARTS, *UNLABELED} & {*folders}
    unlabeled: list[File] = []
    labeled: list[File] = []
    splits: dict[str, list[File]] = {}
    for name in folders:
        if name in PARTS:
            own = _class_names(root / name, passed_over)
            files = _files_of_part(root, name, own, classes, passed_over, UNNAMED) if own else []
            if name == "train":
                labeled += files
            elif files:
                splits[name] = files
        elif name in labels:
            labeled += _files_of_class(root / name, name, labels[name], passed_over)
        elif name in UNLABELED or bare:
            unlabeled += _image_files(root / name, name, -1, passed_over)
        else:
            passed_over.folders.append(name)
    for entry in entries:
        if entry.name not in folders and (image := _image(entry, entry.name, -1, passed_over)):
            unlabeled.append(image)
    train = sorted(unlabeled) + sorted(labeled, key=lambda f: f.path)
    ordered = dict(sorted(splits.items(), reverse=True))  # val before test
    return Listing([*classes], {"train": train, **ordered}, passed_over)


def list_images(root: Path) -> tuple[list[File], PassedOver]:
    """The image files anywhere below a folder, sorted by path, without labels; and what else it holds."""
    passed_over = PassedOver()
    files = [f._replace(path=f.path.removeprefix("./")) for f in _image_files(root, ".", -1, passed_over)]
    return sorted(files), passed_over
