"""Labels that were given elsewhere: a CSV file, another label log, an export of Label Studio, folders of classes.

All of a file or nothing: what does not fit is refused with its line, and nothing is returned.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from files import open_regular
from images.listing import image_suffixes, visible
from labeling.label_studio import LABEL_KEYS, Claim, Images, claims_of_tasks, of_record
from utils import UserError, printable

MOST_BYTES = 2**30  # of a file of labels: a million tasks of Label Studio
MOST_PROBLEMS = 5  # that an error lists
PARTS_OF_EXPORTS = ("train", "val", "validation", "test")  # what may stand above the folders of the classes
NOT_LABELED = ("unlabeled", "_unlabeled")
RANK = re.compile(r"\d+_")  # before the names in a folder of picks
DECISIONS = ("label", "skip", "unsure", "review")
NAMES_A_CLASS = ("label", "review")


class Given(NamedTuple):
    """A decision on an image that a file holds.

    Attributes:
        path: relative to the data set's folder.
        label: name of the class; empty for other actions.
        annotator: who decided; empty where the file does not say.
        action: label, skip, unsure or review, a label that replaces what others decided before.
    """

    path: str
    label: str
    annotator: str
    action: str


def read_labels(source: Path, classes: Sequence[str], paths: Collection[str], root: Path | None = None) -> list[Given]:
    """The decisions in a file or a folder, in the order of their first mention. What it is shows its content.

    - CSV with the columns `path` and `label`, and maybe `annotator`. Rows without a label are left out.
    - A label log, or several one after the other: CSV with a column `action` too. What stands at its end counts.
    - An export of Label Studio: JSON (a cancelled annotation is a skip), JSON_MIN or CSV.
    - A folder of `<class>/` folders, or of `train/<class>/` and the like. A file is the image of the same path below
      its class, else the image that it is a link to, else the one of the same name, which may follow a rank ("0012_").

    Where an annotator labeled and skipped an image, the label counts.

    Args:
        source: the file or folder.
        classes: names of the classes.
        paths: of all images, relative to the data set's folder.
        root: the data set's folder, to find links to its files, and images whose paths end alike.

    Raises:
        UserError: it cannot be read, or is damaged, or names a class or an image that is not there, or one annotator
            gave one image two labels.
    """
    images = Images(frozenset(paths), root)
    try:
        claims = _of_folder(source, classes, images, root) if source.is_dir() else _of_file(source, images)
        return _checked(source, claims, classes, images.known)
    except OSError as e:
        raise UserError(f"cannot read {e.filename or source}: {e.strerror or e}") from e


def _checked(source: Path, claims: Iterable[Claim], classes: Sequence[str], known: Collection[str]) -> list[Given]:
    """Claims that are all true of known images and classes, one an annotator and image."""
    stands: dict[tuple[str, str], Claim] = {}
    problems = []
    names = frozenset(classes)
    for claim in claims:
        key = claim.path, claim.annotator
        before = stands.get(key)
        if problem := claim.problem or _problem(claim, names, known, before):
            problems.append(f"{claim.where}: {problem}")
        elif before is None or (not before.label and claim.label):
            stands[key] = claim
    if problems:
        n, more = len(problems), len(problems) - MOST_PROBLEMS
        count = "a problem" if n == 1 else f"{n} problems"
        details = problems[:MOST_PROBLEMS] + [f"and {more} more"] * (more > 0)
        raise UserError(f"{source} has {count}, and nothing of it was used:", *details)
    return [Given(c.path, c.label, c.annotator, c.action) for c in stands.values()]


def _problem(claim: Claim, classes: Collection[str], known: Collection[str], before: Claim | None) -> str:
    """What is wrong with a claim; empty if nothing is."""
    if claim.path not in known:
        return f"no image {claim.path}"
    if claim.action in NAMES_A_CLASS and claim.label not in classes:
        return f"no class {claim.label!r}"
    if before is not None and claim.label and before.label and claim.label != before.label:
        return f"{claim.path} is {claim.label} here and {before.label} in {before.where}, both by {_who(claim)}"
    return ""


def _who(claim: Claim) -> str:
    return claim.annotator or "the same annotator"


# Files


def _of_file(source: Path, images: Images) -> Iterable[Claim]:
    with open_regular(source) as f:
        size = os.fstat(f.fileno()).st_size
        if size > MOST_BYTES:
            raise UserError(f"{source} has {size / 1e9:.1f} GB, which no file of labels has")
        text = f.read().decode("utf-8", "surrogateescape").removeprefix("\ufeff")  # Excel begins with this mark
    if not text.strip():
        raise UserError(f"{source} is empty")
    if text.lstrip()[0] not in "[{":
        return _of_csv(source, text, images)
    try:
        return [*claims_of_tasks(json.loads(text), images)]
    except UserError as e:
        raise UserError(f"{source}: {e}") from e
    except json.JSONDecodeError as e:
        raise UserError(f"{source} is damaged in line {e.lineno}: {e.msg}") from e
    except (ValueError, RecursionError) as e:
        why = "it is nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise UserError(f"{source} is damaged: {why}") from e


def _of_csv(source: Path, text: str, images: Images) -> Iterator[Claim]:
    rows = _numbered_rows(source, text)
    _, header = next(rows)
    records = _records(rows, header)
    twice = {name for name in header if header.count(name) > 1} & {"path", "annotator", "action", *LABEL_KEYS}
    if twice:
        raise UserError(f"{source} has the column {min(twice)} twice")
    written_by_program = "action" in header or {"annotation_id", "annotator"} <= {*header}
    if written_by_program and not text.endswith("\n"):
        raise UserError(f"{source} ends within a line: it was cut off")
    if {"path", "label", "action"} <= {*header}:
        return _fold(records)
    if {"path", "label"} <= {*header}:
        return _of_plain(records)
    if {"annotation_id", "annotator"} <= {*header}:
        if not {*LABEL_KEYS} & {*header}:
            raise UserError(f"{source} has no column {' or '.join(LABEL_KEYS)}, as the Choices control must be named")
        return (c for where, record in records for c in _of_row(record, where, images))
    line = printable(",".join(header))[:80]
    raise UserError(f"{source} begins with {line!r}; expected the columns path and label, or an export of Label Studio")


def _numbered_rows(source: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, and the line that each begins in. There is at least one.

    Raises:
        UserError: the text is no CSV.
    """
    if "\0" in text:
        raise UserError(f"{source} is damaged in line {text[: text.index(chr(0))].count(chr(10)) + 1}: zero bytes")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{source} is damaged in line {line}: {e}") from e


Record = dict[str, str]


def _records(rows: Iterator[tuple[int, list[str]]], header: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Where each row stands, and its cells by column; empty where the number of cells is wrong."""
    for line, row in rows:
        if row != header:  # logs of several annotators, one after the other
            yield f"line {line}", dict(zip(header, row, strict=True)) if len(row) == len(header) else {}


def _misshapen(where: str) -> Claim:
    return Claim(where, "", "", "", "label", "it has more or fewer cells than there are columns")


def _of_row(record: Record, where: str, images: Images) -> Iterator[Claim]:
    if record:
        yield from of_record(record, where, images)
    else:
        yield _misshapen(where)


def _of_plain(records: Iterator[tuple[str, Record]]) -> Iterator[Claim]:
    for where, record in records:
        if not record:
            yield _misshapen(where)
        elif record["label"]:
            yield Claim(where, record["path"], record["label"], record.get("annotator", ""), "label")


def _fold(records: Iterator[tuple[str, Record]]) -> Iterator[Claim]:
    """What stands at the end of a label log: an undo takes back its annotator's last decision on the image."""
    decided: dict[tuple[str, str], list[tuple[int, Claim]]] = {}
    for row, (where, record) in enumerate(records):
        if not record:
            yield _misshapen(where)
            continue
        action, label = record["action"], record["label"]
        past = decided.setdefault((record["path"], record.get("annotator", "")), [])
        if action == "undo":
            del past[-1:]
        elif action in DECISIONS and (action in NAMES_A_CLASS) == bool(label):
            past.append((row, Claim(where, record["path"], label, record.get("annotator", ""), action)))
        else:
            yield Claim(where, "", "", "", "label", f"the action is {action[:40]!r} and the label {label[:40]!r}")
    yield from (claim for _, claim in sorted(past[-1] for past in decided.values() if past))


# Folders


def _of_folder(source: Path, classes: Sequence[str], images: Images, root: Path | None) -> Iterator[Claim]:
    if not any(entry.is_dir() for entry in visible(source)):
        raise UserError(f"{source} has no folders; expected one folder per class with its images in it")
    find = _Finder(images, root)
    for entry in visible(source):
        if not entry.is_dir():
            continue
        if entry.name in classes:
            yield from _of_class(Path(entry.path), entry.name, find)
        elif entry.name in PARTS_OF_EXPORTS:
            for inner in visible(Path(entry.path)):
                if inner.is_dir():
                    yield from _of_class(Path(inner.path), inner.name, find)
        elif entry.name not in NOT_LABELED:
            yield Claim(f"{entry.name}/", "", "", "", "label", f"no class {entry.name!r}")


def _of_class(folder: Path, label: str, find: _Finder) -> Iterator[Claim]:
    for relative in _files_below(folder, ""):
        path, problem = find(folder, relative)
        suffix = Path(relative).suffix.lower()
        if path or not suffix or suffix in image_suffixes():  # what else lies there is passed over
            yield Claim(f"{label}/{relative}", path, label, "", "label", problem)


def _files_below(folder: Path, prefix: str) -> Iterator[str]:
    """Paths of the files below a folder, relative to it; folders that are links are not followed."""
    for entry in visible(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/")
        elif not entry.is_dir():
            yield prefix + entry.name


class _Finder:
    """Finds the image that a file in a folder of a class stands for."""

    def __init__(self, images: Images, root: Path | None) -> None:
        self.images = images
        self.root = root
        self._same: dict[tuple[int, int], list[str]] | None = None

    def __call__(self, folder: Path, relative: str) -> tuple[str, str]:
        """Its path, or what is wrong: (path, problem)."""
        if relative in self.images.known:
            return relative, ""
        name = relative.rpartition("/")[2]
        ways = (self._linked(folder / relative), *map(self._named, (name, RANK.sub("", name, count=1))))
        for found in ways:
            if len(found) == 1:
                return found[0], ""
        most = max(ways, key=len)
        return "", f"{len(most)} images fit to {name}, such as {most[0]}" if most else f"no image {relative}"

    def _named(self, name: str) -> list[str]:
        whole = unquote(name, errors="surrogateescape")
        return [whole] if whole in self.images.known else self.images.named(name)

    def _linked(self, file: Path) -> list[str]:
        """The images that are the same file: by a link of either kind."""
        if self.root is None:
            return []
        if self._same is None:
            self._same = {}
            for path in self.images.known:
                if (key := _identity(self.root / path)) is not None:
                    self._same.setdefault(key, []).append(path)
        key = _identity(file)
        return [] if key is None else self._same.get(key, [])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # of a broken link
        return None
    return status.st_dev, status.st_ino
