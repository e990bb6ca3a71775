"""Label Studio: tasks to import there, and the labels of its three exports.

Source: HumanSignal, label-studio-sdk, `converter` of the exports of version 1.23. JSON holds tasks and all annotations;
JSON_MIN and CSV hold a record for each annotation that was not cancelled, with the keys of the task's data beside it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

from labeling.records import Ranked
from utils import UserError

FROM_NAME, TO_NAME = "label", "image"  # of the controls in the labeling config
LABEL_KEYS = (FROM_NAME, "choice")  # what a Choices control is named; the second is that of Label Studio's template
PATH_KEY = "dalmax_path"  # of a task's data: survives the round trip
UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 cannot hold
MODEL_VERSION = "dalmax"


class Claim(NamedTuple):
    """What a file says of an image, before it is checked.

    Attributes:
        where: the line of the file, or the task.
        path: relative to the data set's folder.
        label: name of a class; empty for other actions.
        annotator: who decided; empty where unknown.
        action: label, skip or unsure.
        problem: what is wrong with it; empty if nothing is known yet.
    """

    where: str
    path: str
    label: str
    annotator: str
    action: str
    problem: str = ""


# To Label Studio


def image_url(path: str, root: Path, document_root: Path | None = None) -> str:
    """Where Label Studio's local storage serves an image.

    Args:
        path: of the image, relative to `root`.
        root: the data set's folder.
        document_root: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; by default the parent of `root`, because a storage
            must be a folder below it.

    Raises:
        UserError: the document root does not hold the data set's folder.
    """
    root = root.absolute()
    top = root.parent if document_root is None else document_root.absolute()
    if top not in root.parents:
        raise UserError(f"--document_root {top}: must be a folder above {root}, as a storage is a folder below it")
    return "/data/local-files/?d=" + quote(os.fsencode(f"{root.relative_to(top).as_posix()}/{path}"))


def _data(path: str, root: Path, document_root: Path | None, **extra: Any) -> dict[str, Any]:
    """The data of a task. A path that is no UTF-8, which databases refuse, is found again by the image's address."""
    named = {} if any("\ud800" <= c <= "\udfff" for c in path) else {PATH_KEY: path}
    return {TO_NAME: image_url(path, root, document_root), **named, **extra}


def _result(label: str) -> list[dict[str, Any]]:
    value = {"choices": [label]}
    return [{"from_name": FROM_NAME, "to_name": TO_NAME, "type": "choices", "value": value}] if label else []


def tasks_to_label(picks: Sequence[Ranked], root: Path, document_root: Path | None = None) -> list[dict[str, Any]]:
    """Tasks with a prediction each, which "Uncertainty sampling" serves in the order of the ranks: lowest score first.

    The score of a prediction is minus that of the strategy where this gives the same order, else a share of the ranks.
    """
    picks = sorted(picks, key=lambda pick: pick.rank)
    scores = [-p.score for p in picks if p.score is not None and math.isfinite(p.score)]
    if len(scores) < len(picks) or any(b <= a for a, b in pairwise(scores)):
        scores = [i / len(picks) for i in range(len(picks))]
    return [
        {
            "data": _data(p.path, root, document_root, dalmax_rank=p.rank),
            "predictions": [{"model_version": MODEL_VERSION, "score": score, "result": _result(p.suggestion)}],
        }
        for p, score in zip(picks, scores, strict=True)
    ]


def labeled_task(path: str, label: str, root: Path, document_root: Path | None = None) -> dict[str, Any]:
    """A task with the annotation of an image."""
    return {"data": _data(path, root, document_root), "annotations": [{"result": _result(label)}]}


def tasks_text(tasks: Sequence[dict[str, Any]]) -> str:
    """The content of a file of tasks, one a line."""
    lines = ",\n".join(json.dumps(task, allow_nan=False) for task in tasks)
    return f"[\n{lines}\n]\n"


def labeling_config(classes: Sequence[str]) -> str:
    """The labeling config of a project for these classes.

    Raises:
        UserError: the name of a class holds what XML cannot.
    """
    if wrong := [name for name in classes if NO_XML.search(name)]:
        raise UserError(f"Label Studio cannot show the class {wrong[0]!r}: XML has no such characters; rename it")
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        f'<View>\n  <Image name="{TO_NAME}" value="${TO_NAME}"/>\n'
        f'  <Choices name="{FROM_NAME}" toName="{TO_NAME}" choice="single" showInline="true">\n{choices}'
        "  </Choices>\n</View>\n"
    )


# From Label Studio


class Images:
    """Finds the image that a task is about.

    Args:
        known: paths of all images.
        root: the data set's folder, where known: it tells apart paths that end alike.
    """

    def __init__(self, known: Collection[str], root: Path | None) -> None:
        self.known = known
        self.root = "" if root is None else root.absolute().as_posix()
        self._by_name: dict[str, list[str]] = {}
        for path in known:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def named(self, name: str) -> list[str]:
        """Paths of the images in files of this name."""
        return self._by_name.get(name, [])

    def find(self, data: Mapping[str, Any]) -> tuple[str, str]:
        """The path of a task's image, or what is wrong with the task's data: (path, problem)."""
        own = data.get(PATH_KEY)
        if isinstance(own, str) and own:
            return own, ""  # checked like every other path
        url = data.get(TO_NAME)
        if not isinstance(url, str) or not url:
            return "", f"it has neither {PATH_KEY} nor {TO_NAME}"
        address, mark, local = url.partition("?d=")
        image = unquote(local.partition("&")[0] if mark else address.partition("?")[0], errors="surrogateescape")
        if image in self.known:
            return image, ""
        name = image.rpartition("/")[2]
        found = [p for p in self.named(name) if f"/{image}".endswith(f"/{p}") or p.endswith(f"/{image}")]
        if len(found) > 1 and self.root:
            found = [p for p in found if f"{self.root}/{p}".endswith(f"/{image.lstrip('/')}")] or found
        if not found and UPLOADED.match(name):
            found = self.named(name[9:])
        if len(found) == 1:
            return found[0], ""
        return "", f"{len(found)} images fit to {image}, such as {found[0]}" if found else f"no image {image}"


def claims_of_tasks(content: Any, images: Images) -> Iterator[Claim]:
    """What the content of a JSON or JSON_MIN export says.

    Raises:
        UserError: it holds no list of tasks, or records without any label.
    """
    tasks = [content] if isinstance(content, dict) else content
    if not isinstance(tasks, list):
        raise UserError("it holds no list of tasks, as a JSON export of Label Studio does")
    plain = [t for t in tasks if isinstance(t, dict) and not _is_whole(t)]
    if plain and not any(key in record for record in plain for key in LABEL_KEYS):
        raise UserError(f"no record has a {' or '.join(LABEL_KEYS)}, which is what the Choices control must be named")
    for i, task in enumerate(tasks):
        if not isinstance(task, dict):
            yield Claim(f"entry {i + 1}", "", "", "", "label", "it is no task")
            continue
        where = f"task {task['id']}" if type(task.get("id")) in (int, str) else f"entry {i + 1}"
        yield from _of_task(task, where, images) if _is_whole(task) else of_record(task, where, images)


def _is_whole(task: Mapping[str, Any]) -> bool:
    """Whether it is a task of JSON, and not a record of JSON_MIN."""
    return isinstance(task.get("data"), dict) or "annotations" in task


def _of_task(task: Mapping[str, Any], where: str, images: Images) -> Iterator[Claim]:
    data, annotations = task.get("data"), task.get("annotations", [])
    whole = isinstance(data, dict) and isinstance(annotations, list)
    if not whole or not all(isinstance(a, dict) for a in annotations):
        yield Claim(where, "", "", "", "label", "its data or its annotations are damaged")
        return
    assert isinstance(data, dict)
    for annotation in annotations:
        path, problem = images.find(data)
        who = _annotator(annotation.get("completed_by"))
        if annotation.get("was_cancelled"):
            yield Claim(where, path, "", who, "skip", problem)
            continue
        try:
            labels = _choices(annotation.get("result"))
        except (TypeError, LookupError, AttributeError):
            labels, problem = [""], problem or "its annotation is damaged"
        if labels or problem:
            label, doubt = _single(labels)
            yield Claim(where, path, label, who, "label", problem or doubt)


def _choices(result: Any) -> list[str]:
    """The classes of one annotation: of the control named as ours, or of all Choices controls where there is none."""
    chosen = [(str(r.get("from_name")), r["value"]["choices"]) for r in result if r.get("type") == "choices"]
    ours = [classes for name, classes in chosen if name == FROM_NAME] or [classes for _, classes in chosen]
    if not all(isinstance(classes, list) for classes in ours):
        raise TypeError("choices are a list")
    return [str(name) for classes in ours for name in classes]


def _single(labels: Sequence[str]) -> tuple[str, str]:
    """The one class of some, or what is wrong with them: (class, problem)."""
    different = [*dict.fromkeys(labels)]
    if len(different) > 1:
        return "", f"it has {len(different)} classes, {' and '.join(different[:2])}; one is possible"
    return (different[0] if different else ""), ""


def of_record(record: Mapping[str, Any], where: str, images: Images) -> Iterator[Claim]:
    """What a record of JSON_MIN or a row of CSV says: nothing, where its annotation is empty."""
    value: Any = next((record[key] for key in LABEL_KEYS if key in record), None)
    if isinstance(value, str) and value.startswith('{"choices":'):  # several classes in a cell of CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = str(value)
    value = value.get("choices") if isinstance(value, dict) else value
    labels = [str(name) for name in value] if isinstance(value, list) else [] if value in (None, "") else [str(value)]
    if labels:
        path, problem = images.find(record)
        label, doubt = _single(labels)
        yield Claim(where, path, label, _annotator(record.get("annotator")), "label", problem or doubt)


def _annotator(value: Any) -> str:
    """An e-mail address or a number, as text; empty where neither is there."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None or value == {} else str(value)
