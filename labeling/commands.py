"""The commands of label.py that need no page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from files import write_atomic
from labeling.export import (
    Form,
    Labeled,
    export_csv,
    export_fiftyone,
    export_huggingface,
    export_imagefolder,
    export_labelstudio,
    write_picks,
)
from labeling.ingest import read_labels
from labeling.label_studio import labeling_config
from labeling.log import Decision, now
from labeling.progress import progress
from labeling.project import Project, picks_of
from labeling.records import Chosen
from labeling.work import Setup, Suggestion, Task
from utils import UserError, printable, warn

if TYPE_CHECKING:
    from labeling.engine import Engine

PICK_FORMATS = get_args(Form)
FORMATS: dict[str, Callable[[list[Labeled], Path, Path], None]] = {
    "csv": lambda labeled, root, out: export_csv(labeled, out),
    "imagefolder": export_imagefolder,
    "huggingface": export_huggingface,
    "fiftyone": export_fiftyone,
    "labelstudio": export_labelstudio,
}
INGESTED = "ingested"  # the annotator of labels from a file that names none


def setup_of(project: Project, device: str) -> Setup:
    """What the training side must know of a project."""
    root = project.root
    return Setup(root, root.parent, project.folder, project.listing, project.settings, device)


def select(project: Project, device: str, n: int, out: Path, form: Form, validation: bool) -> None:
    """Choose the images to label next and write them to a file or folder, best first.

    Args:
        project: writable.
        device: where to train.
        n: how many, at most.
        out: file or folder to write.
        form: one of PICK_FORMATS.
        validation: write the images that measure the network, as far as they are not labeled, instead.

    Raises:
        UserError: there is nothing left to label, a training diverged, or a file cannot be written.
    """
    if n < 1:
        raise UserError(f"--n {n}: must be 1 or more")
    if validation:
        project.save()
        votes = project.standing.votes
        idxs = [i for i in project.validation if project.files[i].path not in votes]
        picks = [Chosen(rank, i, project.files[i].path) for rank, i in enumerate(idxs)]
        what = "to measure with, drawn at random; label them without suggestions"
    else:
        picks, what = _chosen(project, device, n)
    if not picks:
        raise UserError(f"{project.root}: no image is left to choose")
    write_picks([replace(p, rank=k) for k, p in enumerate(picks)], form, out, project.root)
    print(f"# {len(picks)} images {what}; written to {printable(out)}")
    if form == "labelstudio":
        interface = out.with_suffix(".xml")
        write_atomic(interface, labeling_config(project.settings.classes))
        print(f"# the labeling interface for these classes: {printable(interface)}")


def _chosen(project: Project, device: str, n: int) -> tuple[list[Chosen], str]:
    """The picks of a query, recorded as those of the page are where labels have come since the last training."""
    engine, unreadable = _engine(project, device)
    training, measuring = project.labels_by_use(unreadable)
    candidates = [i for i in project.undecided() if i not in unreadable]
    if not candidates:
        return [], ""
    rounds = project.records.rounds
    trains = len({*training.values()}) > 1
    grown = len(training) > project.records.n_trained
    round = len(rounds) if grown or not rounds else len(rounds) - 1
    result = engine.run(Task(round, training, measuring, candidates, min(n, len(candidates)), trains))
    picks = picks_of(project, result, round + 1 if trains else 0)
    if trains and grown:
        project.records.commit(result.measured, picks)
    settings = project.settings
    chosen_by = settings.strategy_name if trains else settings.first_strategy
    return picks, f"chosen by {chosen_by} with {len(training)} labels"


def _engine(project: Project, device: str) -> tuple[Engine, dict[int, str]]:
    """The training side with its images, and the unreadable ones, of which a note is printed."""
    from labeling.engine import Engine

    engine = Engine(setup_of(project, device))
    project.save()
    unreadable = engine.load()
    if unreadable:
        first = next(iter(unreadable))
        warn(
            f"{len(unreadable)} images cannot be read and are left out, "
            f"such as {project.files[first].path} ({unreadable[first]})"
        )
    return engine, unreadable


def ingest(project: Project, file: Path, annotator: str) -> None:
    """Add the labels of a file to the log. What stands already is not repeated.

    Args:
        project: writable.
        file: as of `read_labels`.
        annotator: whose they are, where the file does not say.

    Raises:
        UserError: something in the file does not fit; nothing is added then.
    """
    given = read_labels(file, project.settings.classes, [*project.index], project.root)
    decisions = []
    for g in given:
        who = annotator or g.annotator or INGESTED
        stands = project.standing.votes.get(g.path, {}).get(who)
        if not stands or (stands.action, stands.label) != (g.action, g.label):
            decisions.append(Decision(now(), who, g.path, g.action, g.label))
    assert project.log is not None
    project.log.append(decisions)
    project.save()
    counts = Counter(d.action for d in decisions)
    print(f"# {len(given)} decisions in {printable(file)}: {counts.total()} new, {counts['label']} of them labels")


def status(project: Project) -> None:
    """Print how far a project is."""
    p = progress(project, "")
    validation = p["validation"]
    folders = f", {p['n_in_folders']} more in class folders" if p["n_in_folders"] else ""
    print(f"{printable(project.name)}: {p['n_labeled']} of {p['n_images']} images labeled{folders}")
    print(f"set aside: {p['n_skipped']} skipped, {p['n_unsure']} unsure, {p['n_disputed']} disputed")
    print(f"validation: {validation['done']} of {validation['wanted']} images labeled")
    for c in p["classes"]:
        print(f"  {c['count']:6} {printable(c['name'])}")
    if p["labels_per_minute"]:
        print(f"speed: {p['labels_per_minute']} labels a minute")
    for point in p["curve"]:
        accuracy = f"{100 * point['accuracy']:.1f} % ({100 * point['low']:.1f} to {100 * point['high']:.1f})"
        print(f"accuracy with {point['n_labeled']:5} labels: {accuracy}, of {point['n_val']} validation images")
    for text in p["advice"]:
        print(text)


def export(project: Project, form: str, out: Path) -> None:
    """Write all labels in another tool's format.

    Raises:
        UserError: nothing is labeled, or a file cannot be written.
    """
    labels, classes = project.labels(), project.settings.classes
    labeled = []
    for i, f in enumerate(project.files):
        part = "val" if i in project.is_validation else "train"
        name = classes[labels[i]] if i in labels else ""
        labeled.append(Labeled(f.path, name, part if name else ""))
    for part in ("val", "test"):
        files = project.listing.splits.get(part, [])
        labeled += [Labeled(f.path, classes[f.label], part) for f in files]
    if not any(e.label for e in labeled):
        raise UserError(f"{project.root}: nothing is labeled yet")
    FORMATS[form](labeled, project.root, out)
    print(f"# {sum(e.label != '' for e in labeled)} labeled images written to {printable(out)}")


def review(project: Project, device: str, n: int) -> dict[int, Suggestion]:
    """The labeled images whose labels networks doubt that did not see them, the most doubtful first.

    Args:
        project: writable.
        device: where to train.
        n: how many, at most.

    Returns:
        What the network takes each for, by index.

    Raises:
        UserError: there are too few labels.
    """
    engine, unreadable = _engine(project, device)
    labels = {i: c for i, c in project.labels().items() if i not in unreadable}
    if len(labels) < 10 or len({*labels.values()}) < 2:
        raise UserError(f"{project.root}: a review needs 10 labels of two classes, there are {len(labels)}")
    return {d.index: d.suggestion for d in engine.doubts(labels)[:n]}
