"""Labels and picks for other tools: CSV, Label Studio's tasks, folders. Images are linked or copied, never changed."""

from __future__ import annotations

import filecmp
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from files import open_regular, read_text, to_csv, write_atomic, writing
from images.listing import is_plain
from labeling.label_studio import labeled_task, tasks_text, tasks_to_label
from labeling.records import Ranked
from utils import UserError

LABEL_COLUMNS = ("path", "label", "part")
PICK_COLUMNS = ("rank", "index", "path", "score", "suggestion", "probability")
PARTS_OF_HUGGING_FACE = {"train": "train", "val": "validation", "test": "test"}
NO_CLASS = "_unlabeled"  # FiftyOne's folder
FIRST_TASK = tasks_text([{"data": {"image": "/data/local-files/?d="}}]).partition("=")[0]  # how files of tasks begin

Form = Literal["csv", "labelstudio", "folder"]


class Labeled(NamedTuple):
    """An image and its class.

    Attributes:
        path: relative to the data set's folder, with forward slashes.
        label: name of the class; empty where there is none.
        part: "train", "val", "test", or empty where it is not labeled.
    """

    path: str
    label: str
    part: str


def export_csv(labeled: Sequence[Labeled], out: Path) -> None:
    """Write the labeled images as CSV: path, label, part. Names are written exactly as they are.

    Raises:
        UserError: `out` is another file, or cannot be written.
    """
    _replace(out, to_csv(LABEL_COLUMNS, (e for e in labeled if e.label)), ",".join(LABEL_COLUMNS))


def export_labelstudio(labeled: Sequence[Labeled], root: Path, out: Path, document_root: Path | None = None) -> None:
    """Write the labeled images as tasks with an annotation each, to be imported by Label Studio.

    Args:
        labeled: the images.
        root: the data set's folder.
        out: the file.
        document_root: as of `image_url`.

    Raises:
        UserError: `out` is another file, or cannot be written, or the document root does not hold `root`.
    """
    tasks = [labeled_task(e.path, e.label, root, document_root) for e in labeled if e.label]
    _replace(out, tasks_text(tasks), FIRST_TASK)


def export_imagefolder(labeled: Sequence[Labeled], root: Path, out: Path) -> None:
    """Make the folder `<class>/<path>` of all labeled images; torchvision's ImageFolder reads it. See `_fill`."""
    _fill(out, root, {f"{_folder(e.label)}/{e.path}": e.path for e in labeled if e.label})


def export_fiftyone(labeled: Sequence[Labeled], root: Path, out: Path) -> None:
    """Make the folder `<class>/<path>`, and `_unlabeled/<path>` of all others, as FiftyOne reads it. See `_fill`."""
    if any(e.label == NO_CLASS for e in labeled):
        raise UserError(f"FiftyOne keeps images without a class in {NO_CLASS}/; rename the class {NO_CLASS}")
    _fill(out, root, {f"{_folder(e.label or NO_CLASS)}/{e.path}": e.path for e in labeled})


def export_huggingface(labeled: Sequence[Labeled], root: Path, out: Path) -> None:
    """Make the folder `train/<class>/<name>`, and `validation/` and `test/` likewise. See `_fill`.

    Hugging Face takes the folder that directly holds an image for its class, so that there are no folders below it:
    where several images have one name, their paths become names, with %2F for each slash.
    """
    count = Counter(_name(e.path).casefold() for e in labeled)
    plan = {}
    for e in labeled:
        if e.label:
            name = _name(e.path) if count[_name(e.path).casefold()] == 1 else _as_name(e.path)
            plan[f"{PARTS_OF_HUGGING_FACE[e.part or 'train']}/{_folder(e.label)}/{name}"] = e.path
    _fill(out, root, plan)


def write_picks(picks: Sequence[Ranked], form: Form, out: Path, root: Path, document_root: Path | None = None) -> None:
    """Write which images to label next, in order.

    Args:
        picks: the images.
        form: csv, with a row a pick; labelstudio, tasks that "Uncertainty sampling" serves in this order; folder, links
            whose names begin with the rank, so that they sort.
        out: the file, or the folder.
        root: the data set's folder.
        document_root: as of `image_url`.

    Raises:
        UserError: `out` holds something else, or cannot be written, or the document root does not hold `root`.
    """
    picks = sorted(picks, key=lambda pick: pick.rank)
    if form == "csv":
        rows = ([p.rank, p.index, p.path, _number(p.score), p.suggestion, _number(p.probability)] for p in picks)
        _replace(out, to_csv(PICK_COLUMNS, rows), ",".join(PICK_COLUMNS))
    elif form == "labelstudio":
        _replace(out, tasks_text(tasks_to_label(picks, root, document_root)), FIRST_TASK)
    else:
        width = max(4, *(len(str(p.rank)) for p in picks)) if picks else 4
        _fill(out, root, {f"{p.rank:0{width}d}_{_name(p.path)}": p.path for p in picks})


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _as_name(path: str) -> str:
    return path.replace("%", "%25").replace("/", "%2F")


def _folder(label: str) -> str:
    if not is_plain(label):
        raise UserError(f"the class {label!r} cannot be the name of a folder; export it as csv or labelstudio")
    return label


# Files and folders


def _replace(out: Path, text: str, mark: str) -> None:
    """Write a file, unless there is one that was not written here: one that does not begin with `mark`."""
    old = read_text(out)
    if old == text:
        return
    if old and not old.startswith(mark) and old != tasks_text([]):
        raise UserError(f"--out {out} exists and is another file; give another name or remove it")
    write_atomic(out, text)


def _fill(out: Path, root: Path, plan: Mapping[str, str]) -> None:
    """Make a folder of links to images, or of copies where the file system has no hard links. All of it, or nothing.

    A link and its image are one file: who edits the one in place edits the other.

    Args:
        out: the folder. If it is there it must be empty, or hold the same already.
        root: the data set's folder.
        plan: path below `root` by path below `out`.

    Raises:
        UserError: `out` holds something else, lies in the data set's folder or cannot be written, or an image is gone.
    """
    place = out.absolute().parent.resolve() / out.name
    if place == root.resolve() or root.resolve() in place.parents:
        raise UserError(f"--out {out} lies in {root}, whose images these are; give a folder elsewhere")
    with writing(out):
        if os.path.lexists(out) and (not out.is_dir() or os.listdir(out)):
            if difference := _difference(out, root, plan):
                raise UserError(f"--out {out} exists and is something else ({difference}); give another or remove it")
            return
        _sweep(out)
        temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
        try:
            temporary.mkdir()
            for target, path in plan.items():
                _link(root / _inside(path), temporary / target)
            if out.is_dir():
                out.rmdir()  # empty
            os.rename(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise UserError(f"{path} is no path within the data set's folder")
    return path


def _link(source: Path, target: Path) -> None:
    try:
        image = open_regular(source)
    except OSError as e:
        raise UserError(f"cannot read {source}: {e.strerror or e}") from e
    target.parent.mkdir(parents=True, exist_ok=True)
    with image:
        try:
            os.link(os.path.realpath(source), target)
        except FileExistsError:
            raise
        except OSError:  # another file system, or one without links
            with open(target, "xb") as copy:
                shutil.copyfileobj(image, copy, 2**20)


def _difference(out: Path, root: Path, plan: Mapping[str, str]) -> str:
    """Where a folder departs from a plan; empty if it does nowhere."""
    if not out.is_dir():
        return "it is no folder"
    found = {
        os.path.relpath(os.path.join(folder, name), out).replace(os.sep, "/")
        for folder, _, names in os.walk(out)
        for name in names
    }
    if extra := found - plan.keys():
        return f"it holds {min(extra)}"
    if missing := plan.keys() - found:
        return f"it lacks {min(missing)}"
    other = (t for t, path in plan.items() if not _is_same(out / t, root / _inside(path)))
    return next((f"{target} is another image" for target in other), "")


def _is_same(a: Path, b: Path) -> bool:
    return os.path.isfile(a) and os.path.isfile(b) and (os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False))


def _sweep(out: Path) -> None:
    """Remove what a killed export left."""
    temporary = re.compile(re.escape(f".{out.name}.") + r"[0-9a-f]{16}\.tmp")
    for name in filter(temporary.fullmatch, os.listdir(out.parent)):
        shutil.rmtree(out.with_name(name), ignore_errors=True)
