"""Images as one uint8 array: the folder reader and its cache, the known datasets, and the Pool."""

from __future__ import annotations

import glob
import hashlib
import http.client
import json
import math
import multiprocessing
import os
import shutil
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from utils import UserError, alone, warn, write_atomic, writing

MIN_SIZE, MAX_SIZE = 8, 1024  # pixels a side: below, no network has anything to convolve; above, memory explodes
RESIZE_RULE = "upright RGB, squashed to a square, bilinear with antialiasing; JPEGs are drafted at twice the side"


class Images:
    """Rows of one uint8 array, gathered only when a batch of them is asked for.

    Args:
        x: the array; may be a view of a memory map. Shape (N, 3, H, W).
        idxs: which rows these images are, in order; all when absent.
    """

    def __init__(self, x: Tensor, idxs: NDArray[np.int64] | None = None) -> None:
        self.x = x
        self.idxs = np.arange(len(x)) if idxs is None else idxs

    def __len__(self) -> int:
        return len(self.idxs)

    def __getitem__(self, idxs: NDArray[np.int64]) -> Images:
        return Images(self.x, self.idxs[idxs])

    @property
    def img_size(self) -> int:
        """Side of the square images in pixels."""
        return self.x.shape[-1]

    def batch(self, start: int, stop: int, device: torch.device, pin: bool = False) -> Tensor:
        """Rows start to stop as uint8 on `device`, channels last in memory. Shape (B, 3, H, W).

        Args:
            start: the first row.
            stop: one after the last row.
            device: where the batch is wanted.
            pin: gather into memory from which a GPU copies while this process goes on.
        """
        idxs = torch.from_numpy(self.idxs[start:stop]).to(self.x.device)
        rows = self.x.permute(0, 2, 3, 1)[idxs]
        return (rows.pin_memory() if pin else rows).to(device, non_blocking=pin).permute(0, 3, 1, 2)

    def batches(self, start: int, size: int, device: torch.device) -> Iterator[Tensor]:
        """Batches of `size` images from row `start` on; the next is gathered while the last is computed with."""
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

    def to(self, device: torch.device) -> Images:
        """The same images with their array on `device` where it fits in half of the free memory, else unchanged."""
        if device.type != "cuda" or self.x.numel() > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return Images(self.x.to(device), self.idxs)


@dataclass(frozen=True)
class ImageData:
    """A dataset, whole.

    Attributes:
        train_x, test_x: uint8. Shapes (N, 3, H, W) and (M, 3, H, W).
        train_y, test_y: classes, int64. Shapes (N,) and (M,).
        train_paths, test_paths: relative to the dataset's folder, with forward slashes.
        classes: names, sorted; a class is a position in it.
        mean, std: of the training images' channels, in 0 to 1. Shape (3,).
        digest: names the content: classes, paths, labels and pixels.
        unreadable: paths left out on request.
        flip: whether a mirrored image keeps its class.
    """

    train_x: Tensor
    test_x: Tensor
    train_y: NDArray[np.int64]
    test_y: NDArray[np.int64]
    train_paths: list[str]
    test_paths: list[str]
    classes: list[str]
    mean: Tensor
    std: Tensor
    digest: str
    unreadable: list[str]
    flip: bool = True


class Pool:
    """The training images and the labels bought so far. An index is a position in the training set, everywhere.

    Args:
        images: all images. Length N.
        targets: their classes; nobody reads those that `label` has not revealed. Shape (N,).
        n_classes: C, from the class names.
    """

    def __init__(self, images: Images, targets: NDArray[np.int64], n_classes: int) -> None:
        if len(images) != len(targets):
            raise ValueError(f"{len(images)} images, {len(targets)} targets")
        self.images = images
        self.n_classes = n_classes
        self._targets = np.array(targets, np.int64)
        self._labels = np.full(len(targets), -1, np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of the labeled images, -1 where unlabeled; not writable. Shape (N,)."""
        view = self._labels.view()
        view.flags.writeable = False
        return view

    @property
    def labeled(self) -> NDArray[np.int64]:
        """Labeled indices, ascending. Shape (L,)."""
        return np.flatnonzero(self._labels >= 0)

    @property
    def unlabeled(self) -> NDArray[np.int64]:
        """Unlabeled indices, ascending. Shape (U,)."""
        return np.flatnonzero(self._labels < 0)

    def label(self, idxs: NDArray[np.int64]) -> None:
        """Buy the labels of these images.

        Args:
            idxs: indices of the training set. Shape (n,).

        Raises:
            ValueError: an index is repeated, out of range or labeled already. Nothing is labeled then.
        """
        idxs = np.asarray(idxs)
        if idxs.ndim != 1 or not np.issubdtype(idxs.dtype, np.integer):
            raise ValueError(f"indices must be integers of shape (n,), not {idxs.dtype} of shape {idxs.shape}")
        n = len(self._labels)
        if len(idxs) and (idxs.min() < 0 or idxs.max() >= n):
            raise ValueError(f"index {idxs.min() if idxs.min() < 0 else idxs.max()} is not in the pool of {n} images")
        if len(np.unique(idxs)) != len(idxs):
            raise ValueError("an index is repeated")
        if (self._labels[idxs] >= 0).any():
            raise ValueError(f"index {idxs[self._labels[idxs] >= 0][0]} is labeled already")
        self._labels[idxs] = self._targets[idxs]


# One image

# What Pillow's plug-ins raise on damaged files: found by damaging files of all its formats at random.
UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)

# Pillow's own limit of 0.09 would refuse the user's panoramas; none at all lets a damaged header take all memory.
Image.MAX_IMAGE_PIXELS = 2**29  # it raises at twice this, a gigapixel: 3 GB as RGB


def to_square(image: Image.Image, img_size: int) -> NDArray[np.uint8]:
    """An image as upright RGB, squashed to a square. Transparency is dropped. Shape (img_size, img_size, 3)."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut at 255
        deep = np.asarray(image).clip(0, 65535)
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        deep = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((deep * (255 if deep.max() <= 1 else 1)).clip(0, 255).round().astype(np.uint8))
    image = image.convert("RGB")
    if image.size != (img_size, img_size):
        image = image.resize((img_size, img_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode(path: Path, img_size: int) -> NDArray[np.uint8]:
    """Read one image file as upright RGB of the given size. Shape (img_size, img_size, 3).

    Raises:
        One of UNREADABLE: the file is no image, or damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata; errors are raised
        with Image.open(path) as image:
            image.draft("RGB", (2 * img_size, 2 * img_size))
            return to_square(image, img_size)


# A folder


class File(NamedTuple):
    """One image file: path relative to the dataset's folder, class, and what changes when its content does."""

    path: str
    label: int
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """A dataset's folder: class names and image files, sorted."""

    classes: list[str]
    train: list[File]
    test: list[File]


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case file suffixes of the formats that Pillow decodes."""
    Image.init()
    no_decoder = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # recognised by Pillow, never read
    return frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN and f not in no_decoder)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By suffix; a file without any is looked into. What cannot be opened counts, so that it is reported."""
    if not entry.is_file() and os.path.exists(entry.path):
        return False  # a pipe or a device: reading it may never end
    _, dot, suffix = entry.name.rpartition(".")
    if dot:
        return f".{suffix.lower()}" in image_suffixes()
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(entry.path):  # remarks on metadata
            return True
    except UNREADABLE as e:
        return isinstance(e, OSError) and e.errno is not None


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and time of change of a file; -1 of a link that leads nowhere."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _class_names(folder: Path) -> list[str]:
    """The folders in it. A link to a class on a disk that is not mounted must not pass for no class."""
    entries = _visible(folder)
    for entry in entries:
        if not Path(entry.name).suffix and entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there")
    return [e.name for e in entries if e.is_dir()]


def _image_files(folder: Path, path: str, label: int) -> Iterator[File]:
    """Image files below a class folder, sorted; hidden files and files that are no images are passed over."""
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _image_files(folder / entry.name, f"{path}/{entry.name}", label)
        elif _is_image(entry):
            yield File(f"{path}/{entry.name}", label, *_stamp(entry))


def _split_files(folder: Path, prefix: str, names: list[str], classes: list[str]) -> list[File]:
    files = []
    for name in names:
        of_class = list(_image_files(folder / name, prefix + name, classes.index(name)))
        if not of_class:
            raise UserError(f"{folder / name} is a class folder without images; add some or remove the folder")
        files += of_class
    return files


def list_folder(root: Path) -> Listing:
    """The classes and image files of `root/train/<class>/*` and `root/test/<class>/*`, or of `root/<class>/*`.

    Without train/ and test/, a fifth of each class becomes the test set: the files whose paths hash lowest, so that
    the split is the same on every machine and moves little when files are added.

    Raises:
        UserError: the folder is not laid out so; the message says where.
    """
    names = _class_names(root)
    if not {"train", "test"} & set(names):
        return _list_unsplit(root, names)
    for part in ("train", "test"):
        if part not in names:
            raise UserError(f"{root} has no {part}/ folder; expected train/<class>/* and test/<class>/*, or <class>/*")
    classes = _class_names(root / "train")
    test_classes = _class_names(root / "test")
    _check_classes(root / "train", classes)
    if not test_classes:
        raise UserError(f"{root / 'test'} has no class folders; expected test/<class>/<image>")
    if unknown := [c for c in test_classes if c not in classes]:
        raise UserError(f"{root / 'test'} has classes that train does not have: {', '.join(unknown)}")
    train = _split_files(root / "train", "train/", classes, classes)
    return Listing(classes, train, _split_files(root / "test", "test/", test_classes, classes))


def _check_classes(folder: Path, classes: list[str]) -> None:
    if not classes:
        raise UserError(f"{folder} has no class folders; expected one folder a class with its images in it")
    if len(classes) < 2:
        raise UserError(f"{folder} has a single class, {classes[0]!r}; two or more are needed to learn anything")


def _list_unsplit(root: Path, classes: list[str]) -> Listing:
    parts = {"train", "training", "test", "testing", "val", "valid", "validation"}
    if classes and {c.lower() for c in classes} <= parts:
        raise UserError(f"{root} holds {', '.join(classes)}; the two parts must be named train and test")
    _check_classes(root, classes)
    train, test = [], []
    for name in classes:
        of_class = sorted(_split_files(root, "", [name], classes))
        if len(of_class) < 2:
            raise UserError(f"{root / name} has a single image; two are needed for a split into train and test")
        chosen = _lowest_fifth(of_class)
        train += [f for f in of_class if f not in chosen]
        test += [f for f in of_class if f in chosen]
    return Listing(classes, train, test)


def _lowest_fifth(files: Sequence[File]) -> set[File]:
    """The fifth of the files, at least one, whose paths hash lowest."""
    ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f.path)).digest())
    return set(ranked[: max(1, round(0.2 * len(ranked)))])


# The cache of a folder: <stem>-<key>.u8 with all images, train first, and <stem>.json that says which key is whole


def _cache_key(listing: Listing, img_size: int) -> str:
    key = hashlib.sha256(json.dumps([1, img_size, RESIZE_RULE, PIL.__version__, listing.classes]).encode())
    for f in (*listing.train, *listing.test):
        key.update(b"%s\0%d %d %d\n" % (os.fsencode(f.path), f.label, f.size, f.mtime_ns))
    return key.hexdigest()[:16]


def _cache_folders(data_dir: Path) -> list[Path]:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [data_dir / ".cache", Path(home, "dalmax")]
    return folders[:1] if home.startswith("~") else folders  # some containers run a user without a home


class CachedImages(NamedTuple):
    """The decoded images of a listing."""

    x: NDArray[np.uint8]  # (n_train + n_test, H, W, 3) without the unreadable
    unreadable: list[tuple[int, str]]  # position in train + test, and why
    mean: list[float]
    std: list[float]
    digest: str


def _open_cache(folder: Path, stem: str, key: str, n_files: int, img_size: int) -> CachedImages | None:
    """What is cached under this key, or None where nothing is, or not all of it."""
    try:
        manifest = json.loads((folder / f"{stem}.json").read_text("utf-8"))
        path = folder / f"{stem}-{key}.u8"
        unreadable = [(int(i), str(why)) for i, why in manifest["unreadable"]]
        shape = (n_files - len(unreadable), img_size, img_size, 3)
        stat = path.stat()
        if manifest["key"] != key or (stat.st_size, stat.st_mtime_ns) != (math.prod(shape), manifest["mtime_ns"]):
            return None
        # Copy-on-write, so that torch may hold the map; nobody writes to it.
        x = np.memmap(path, np.uint8, "c", shape=shape) if shape[0] else np.empty(shape, np.uint8)
        mean, std = ([float(v) for v in manifest[k]] for k in ("mean", "std"))
        sound = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
        return CachedImages(x, unreadable, mean, std, str(manifest["digest"])) if sound else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _cached_images(root: Path, listing: Listing, data_dir: Path, img_size: int) -> CachedImages:
    """The listing's images from the cache, built first if need be."""
    stem, key = f"{root.name}-{img_size}px", _cache_key(listing, img_size)
    files = [*listing.train, *listing.test]

    def look(folder: Path) -> CachedImages | None:
        """What is cached, unless an image has become readable: a permission given leaves no trace in the key."""
        cached = _open_cache(folder, stem, key, len(files), img_size)
        if cached and any(isinstance(_try_decode(root, files[i], img_size), np.ndarray) for i, _ in cached.unreadable):
            return None
        return cached

    folders = _cache_folders(data_dir)
    for folder in folders:
        if cached := look(folder):
            return cached
    folder = _first_writable(folders)
    with alone(folder / f"{stem}.lock", f"reading {root}"):
        cached = look(folder)
        if cached is None:
            _build_cache(root, listing, folder, stem, key, img_size)
            cached = _open_cache(folder, stem, key, len(files), img_size)
    if cached is None:
        raise UserError(f"the image cache below {folder} was changed by another process; start again")
    return cached


def _first_writable(folders: Sequence[Path]) -> Path:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise UserError(f"no folder for the image cache can be written: tried {', '.join(map(str, folders))}")


def _build_cache(root: Path, listing: Listing, folder: Path, stem: str, key: str, img_size: int) -> None:
    """Decode every image into a file of rows; the manifest comes last and makes it count."""
    files = [*listing.train, *listing.test]
    final = folder / f"{stem}-{key}.u8"
    temporary = final.with_suffix(f".{os.getpid()}.tmp")
    with writing(final):
        for old in folder.glob(f"{glob.escape(stem)}-{'[0-9a-f]' * len(key)}.*"):
            old.unlink(missing_ok=True)
        try:
            unreadable = sorted(_decode_all(root, files, temporary, img_size))
            bad = {i for i, _ in unreadable}
            good = [f for i, f in enumerate(files) if i not in bad]
            shape = (len(good), img_size, img_size, 3)
            mean, std, digest = [0.0] * 3, [1.0] * 3, ""
            if good:
                rows = np.memmap(temporary, np.uint8, "r+", shape=(len(files), *shape[1:]))
                _close_gaps(rows, bad)
                n_train = sum(i not in bad for i in range(len(listing.train)))
                mean, std = channel_stats(rows[:n_train])
                digest = content_digest(listing.classes, good, rows[: len(good)])
                del rows
            with open(temporary, "r+b") as f:
                f.truncate(math.prod(shape))
                os.fsync(f.fileno())
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
    mtime_ns = final.stat().st_mtime_ns  # another one means that somebody wrote into the file since
    manifest = dict(key=key, mtime_ns=mtime_ns, unreadable=unreadable, mean=mean, std=std, digest=digest)
    write_atomic(folder / f"{stem}.json", json.dumps(manifest))


def _decode_all(root: Path, files: Sequence[File], out: Path, img_size: int) -> list[tuple[int, str]]:
    """Write every image's row to `out`. Returns the positions of the unreadable, and why."""
    with open(out, "wb") as f:
        f.truncate(len(files) * img_size * img_size * 3)
    step = 64
    tasks = [(start, root, files[start : start + step], out, img_size) for start in range(0, len(files), step)]
    unreadable: list[tuple[int, str]] = []
    with tqdm(total=len(files), desc=f"reading {root.name}", unit="image", disable=None) as bar:
        if len(files) < 1000 and sum(f.size for f in files) < 20e6:  # done before a pool of processes has started
            for task in tasks:
                unreadable += _decode_rows(*task)
                bar.update(len(task[2]))
            return unreadable
        try:
            with _executor() as executor:
                futures = {executor.submit(_decode_rows, *task): len(task[2]) for task in tasks}
                for future in as_completed(futures):
                    unreadable += future.result()
                    bar.update(futures[future])
        except BrokenProcessPool as e:
            raise UserError(f"a process that read images of {root} was killed; is the memory full? Start again") from e
    return unreadable


@contextmanager
def _executor() -> Iterator[Executor]:
    """Processes, one a usable core. They fork, which starts at once, and only run Pillow and numpy's copies."""
    if sys.platform != "linux":
        with ThreadPoolExecutor() as threads:
            yield threads
        return
    n = len(os.sched_getaffinity(0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process.*is multi-threaded, use of fork", DeprecationWarning)
        executor = ProcessPoolExecutor(n, multiprocessing.get_context("fork"), initializer=_start_worker)
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _try_decode(root: Path, file: File, img_size: int) -> NDArray[np.uint8] | str:
    """The image, or why it cannot be read."""
    path = root / file.path
    try:
        return decode(path, img_size)
    except UNREADABLE as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        return " ".join(why.replace(repr(str(path)), "").split()) or type(e).__name__


def _decode_rows(start: int, root: Path, files: Sequence[File], out: Path, img_size: int) -> list[tuple[int, str]]:
    """Decode some images into rows start, start + 1, ... of a file. Returns the unreadable ones, and why."""
    rows = np.zeros((len(files), img_size, img_size, 3), np.uint8)
    unreadable = []
    for i, file in enumerate(files):
        image = _try_decode(root, file, img_size)
        if isinstance(image, str):
            unreadable.append((start + i, image))
        else:
            rows[i] = image
    with open(out, "r+b") as f:
        f.seek(start * rows[0].nbytes)
        f.write(rows.tobytes())
    return unreadable


def _close_gaps(rows: NDArray[np.uint8], bad: set[int]) -> None:
    """Move the good rows together, in order."""
    if not bad:
        return
    good = [i for i in range(len(rows)) if i not in bad]
    for to, row in enumerate(good):
        if to != row:
            rows[to] = rows[row]


def channel_stats(x: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in 0 to 1, exact. Shape of x (N, H, W, 3)."""
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


def content_digest(classes: Sequence[str], files: Sequence[File], x: NDArray[np.uint8]) -> str:
    """A name for the content of a dataset: classes, paths, labels and pixels."""
    digest = hashlib.sha256(json.dumps([*classes]).encode())
    for f in files:
        digest.update(b"%s\0%d\n" % (os.fsencode(f.path), f.label))
    for start in range(0, len(x), 4096):
        digest.update(np.ascontiguousarray(x[start : start + 4096]).data)
    return digest.hexdigest()[:16]


def load_folder(root: Path, data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
    """A dataset from a folder of images, through the cache.

    Raises:
        UserError: the folder is not laid out as it must be, or images are unreadable and may not be skipped.
    """
    try:
        listing = list_folder(root)
    except OSError as e:
        raise UserError(f"cannot read {e.filename or root}: {e.strerror or e}") from e
    cached = _cached_images(root, listing, data_dir, img_size)
    files = [*listing.train, *listing.test]
    if cached.unreadable and not skip_unreadable:
        lines = "".join(f"\n  {root / files[i].path}: {why}" for i, why in cached.unreadable)
        raise UserError(f"{len(cached.unreadable)} unreadable images (--skip_unreadable goes on without them):{lines}")
    bad = {i for i, _ in cached.unreadable}
    n = len(listing.train)
    train = [f for i, f in enumerate(listing.train) if i not in bad]
    test = [f for i, f in enumerate(listing.test, start=n) if i not in bad]
    for part, before, after in (("train", listing.train, train), ("test", listing.test, test)):
        if lost := {f.label for f in before} - {f.label for f in after}:
            names = ", ".join(listing.classes[i] for i in sorted(lost))
            raise UserError(f"{root}: no {part} image of {names} is readable")
    x = torch.from_numpy(cached.x).permute(0, 3, 1, 2)
    return ImageData(
        train_x=x[: len(train)],
        test_x=x[len(train) :],
        train_y=np.array([f.label for f in train], np.int64),
        test_y=np.array([f.label for f in test], np.int64),
        train_paths=[f.path for f in train],
        test_paths=[f.path for f in test],
        classes=listing.classes,
        mean=torch.tensor(cached.mean),
        std=torch.tensor(cached.std),
        digest=cached.digest,
        unreadable=[files[i].path for i in sorted(bad)],
    )


# The datasets with a name of their own


def folder_of(name: str, data_dir: Path) -> Path | None:
    """Where the images of a dataset lie, or None if they are not there."""
    names = ("DATA_CIFAR10", "CIFAR10") if name == "CIFAR10" else (name,)
    return next((data_dir / n for n in names if (data_dir / n).is_dir()), None)


def _folder(name: str) -> Callable[[Path, int, bool], ImageData]:
    def load_named(data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
        root = data_dir / name
        if not root.is_dir():
            raise UserError(f"{root} is missing; put the images there as train/<class>/* and test/<class>/*")
        return load_folder(root, data_dir, img_size, skip_unreadable)

    return load_named


def cifar10(data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
    """CIFAR-10 from DATA_CIFAR10/ or CIFAR10/ or, failing both, downloaded and written as CIFAR10/ in PNG files."""
    if folder := folder_of("CIFAR10", data_dir):
        return load_folder(folder, data_dir, img_size, skip_unreadable)
    with alone(_first_writable(_cache_folders(data_dir)) / "CIFAR10.lock", "downloading CIFAR-10"):
        if not (data_dir / "CIFAR10").is_dir():
            _download_cifar10(data_dir)
    return load_folder(data_dir / "CIFAR10", data_dir, img_size, skip_unreadable)


def _download_cifar10(data_dir: Path) -> None:
    """Write CIFAR10/; what torchvision leaves beside it goes, unless it was there before."""
    from torchvision.datasets import CIFAR10

    warn(f"no CIFAR-10 in {data_dir}/DATA_CIFAR10 or {data_dir}/CIFAR10; downloading it into {data_dir} (170 MB)")
    for left in data_dir.glob(".CIFAR10.*.tmp"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    there = set(data_dir.glob("cifar-10-*"))
    temporary = data_dir / f".CIFAR10.{os.getpid()}.tmp"
    try:
        for part in ("train", "test"):
            dataset = CIFAR10(str(data_dir), train=part == "train", download=True)
            for name in dataset.classes:
                (temporary / part / name).mkdir(parents=True)
            bar = tqdm(dataset.data, desc=f"writing {part}", unit="image", disable=None)
            for i, (pixels, label) in enumerate(zip(bar, dataset.targets, strict=True)):
                Image.fromarray(pixels).save(temporary / part / dataset.classes[label] / f"{i:05d}.png")
        os.replace(temporary, data_dir / "CIFAR10")
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        how = f"place its images as {data_dir / 'DATA_CIFAR10'}/train/<class>/* and .../test/<class>/*"
        raise UserError(f"CIFAR-10 could not be downloaded ({' '.join(str(e).split())}); {how}") from e
    finally:
        for path in {temporary, *data_dir.glob("cifar-10-*")} - there:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def digits(data_dir: Path, img_size: int, skip_unreadable: bool) -> ImageData:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, split 80/20 like a folder; nothing is downloaded.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)
    x = np.stack([to_square(Image.fromarray(image), img_size) for image in grey])
    names = [f"{label}/{i:04d}" for i, label in enumerate(bunch.target)]
    files = [File(path, int(label), 0, 0) for path, label in zip(names, bunch.target, strict=True)]
    test: set[File] = set()
    for label in range(10):
        of_class = [f for f in files if f.label == label]
        test.update(_lowest_fifth(of_class))
    train_idxs = [i for i, f in enumerate(files) if f not in test]
    test_idxs = [i for i, f in enumerate(files) if f in test]
    mean, std = channel_stats(x[train_idxs])
    return ImageData(
        train_x=torch.from_numpy(x[train_idxs]).permute(0, 3, 1, 2),
        test_x=torch.from_numpy(x[test_idxs]).permute(0, 3, 1, 2),
        train_y=bunch.target[train_idxs].astype(np.int64),
        test_y=bunch.target[test_idxs].astype(np.int64),
        train_paths=[files[i].path for i in train_idxs],
        test_paths=[files[i].path for i in test_idxs],
        classes=[str(c) for c in range(10)],
        mean=torch.tensor(mean),
        std=torch.tensor(std),
        digest=content_digest([str(c) for c in range(10)], files, x),
        unreadable=[],
        flip=False,
    )


DATASETS: dict[str, Callable[[Path, int, bool], ImageData]] = {
    "CIFAR10": cifar10,
    "DaninhasDataset": _folder("DaninhasDataset"),
    "Digits": digits,
}


def load(name: str, data_dir: Path | str, img_size: int, skip_unreadable: bool = False) -> ImageData:
    """A dataset by name: one of DATASETS, or any folder in `data_dir`.

    Args:
        name: name of the dataset or of its folder.
        data_dir: the folder that holds the datasets' folders; the cache of decoded images is kept in its .cache/.
        img_size: side of the square images in pixels, 8 to 1024.
        skip_unreadable: go on without images that cannot be read.

    Raises:
        UserError: no such dataset, a wrong layout, unreadable images or a failed download.
    """
    data_dir = Path(data_dir)
    if not MIN_SIZE <= img_size <= MAX_SIZE:
        raise UserError(f"--img_size {img_size}: must be from {MIN_SIZE} to {MAX_SIZE} pixels")
    if name in DATASETS:
        return DATASETS[name](data_dir, img_size, skip_unreadable)
    try:
        folders = [e.name for e in _visible(data_dir) if e.is_dir()] if data_dir.is_dir() else []
    except OSError as e:
        raise UserError(f"cannot read {e.filename or data_dir}: {e.strerror or e}") from e
    if name not in folders:
        holds = f"it holds {', '.join(folders) or 'no folders'}"
        there = holds if data_dir.is_dir() else "no such folder"
        raise UserError(f"--dataset_name {name}: must be {', '.join(DATASETS)} or a folder in {data_dir}: {there}")
    return load_folder(data_dir / name, data_dir, img_size, skip_unreadable)


def summary(data: ImageData) -> dict[str, Any]:
    """What a run's configuration records of its data, so that results of different data are never taken for one."""
    return {
        "n_train": len(data.train_y),
        "n_test": len(data.test_y),
        "n_classes": len(data.classes),
        "data_digest": data.digest,
    }
