"""A folder of images that is being labeled, and the folder of its state: results/labeling/<name>/."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from files import lock_file, write_atomic, writing
from images.listing import File, Listing, list_to_label
from labeling.log import LABEL, LabelLog, Standing, read_log, standing
from labeling.records import Chosen, Records, lost
from labeling.settings import Settings, check_classes, read_settings
from labeling.work import Result
from runs.format import CONFIG, LABELS, LOCK, ROUNDS, json_text, read_config
from utils import UserError, stream, warn

FOLDER = "labeling"  # below the folder of results
VALIDATION = "validation"  # in config.json: paths of the images drawn to measure


class Project:
    """The images, the settings and all decisions of one project.

    An image is known by its path; its index is its position in `files`, which changes when files are added.

    Args:
        root: the folder of images.
        results_dir: the folder of all results.
        given: settings that the command line gives, by name; they replace those of earlier starts.
        writable: hold the project's lock, and allow decisions. Otherwise nothing is written.

    Attributes:
        files: the images that can be labeled, and those of train/, in index order.
        validation: indices of the images that are labeled to measure, in the order in which they are shown.

    Raises:
        UserError: the folder or the state is unusable, or another process labels the same project.
    """

    def __init__(self, root: Path, results_dir: Path, given: dict[str, Any], writable: bool = True) -> None:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of the images, such as DATA/birds")
        self.root = root.resolve()
        self.name = self.root.name
        if not self.name:
            raise UserError(f"{root}: give a folder with a name")
        self.folder = results_dir / FOLDER / self.name
        recorded = read_config(self.folder) or {}
        if not recorded and not writable:
            raise UserError(f"{self.folder} has no {CONFIG}: nothing was labeled in {root} yet")
        self._lock = self._locked() if writable else None
        try:
            self._open(recorded, given, writable)
        except (UserError, OSError):
            self.close()
            raise

    def _open(self, recorded: dict[str, Any], given: dict[str, Any], writable: bool) -> None:
        before = read_settings(self.folder / CONFIG, recorded)
        self.settings = _merged(before, given, self._class_folders())
        self.settings.check()
        self.listing = self._list()
        self.files: list[File] = self.listing.splits["train"]
        self.index = {f.path: i for i, f in enumerate(self.files)}
        self.log: LabelLog | None = None
        if recorded and not (self.folder / LABELS).exists() and (self.folder / ROUNDS).exists():
            raise lost(self.folder, f"{LABELS} is missing, though networks were trained")
        if writable:
            self.log = LabelLog(self.folder / LABELS)
        self.standing: Standing = self.log.standing if self.log else standing(read_log(self.folder / LABELS))
        self.records = Records(self.folder)
        self._check_known()
        self.validation = self._draw_validation(recorded.get(VALIDATION, []))
        self._recorded = recorded

    def _locked(self) -> Any:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(self.folder / LOCK, wait=False)
        if lock is None:
            raise UserError(f"{self.folder} is in use: another label.py works on this project now")
        return lock

    def _class_folders(self) -> list[str]:
        """Class names that train/ gives, sorted."""
        train = self.root / "train"
        try:
            return sorted(p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError:
            return []

    def _list(self) -> Listing:
        try:
            listing = list_to_label(self.root, self.settings.classes)
        except OSError as e:
            raise UserError(f"cannot read {e.filename or self.root}: {e.strerror or e}") from e
        if passed_over := str(listing.passed_over):
            warn(f"passed over in {self.root}: {passed_over}")
        if not listing.splits["train"]:
            kinds = "unlabeled/, or directly below it"
            raise UserError(f"{self.root}: no images; put those to be labeled in {kinds}")
        return listing

    def _check_known(self) -> None:
        """Notice where the state is that of other images, or of other classes."""
        decided = self.standing.verdicts
        if missing := [path for path in decided if path not in self.index]:
            if len(missing) == len(decided):
                raise UserError(f"{self.folder} is about other images: {missing[0]} is not in {self.root}")
            warn(f"{len(missing)} images with decisions are no longer in {self.root}, such as {missing[0]}")
        used = {d.label for votes in self.standing.votes.values() for d in votes.values() if d.label}
        if unknown := sorted(used - {*self.settings.classes}):
            names = ", ".join(unknown[:5])
            raise UserError(f"--classes lacks {names}, which {self.folder / LABELS} uses; add it")
        if not decided and self.records.n_trained > sum(f.label >= 0 for f in self.files):
            raise lost(self.folder, f"{LABELS} is empty, though networks were trained on labels")

    def _draw_validation(self, recorded: Iterable[str]) -> list[int]:
        """The images that measure: those drawn before, and where --n_val has grown more of the undecided ones."""
        if not isinstance(recorded, list) or not all(isinstance(p, str) for p in recorded):
            raise UserError(f"{self.folder / CONFIG} is damaged: {VALIDATION} is {recorded!r}")
        drawn = [self.index[p] for p in recorded if p in self.index]
        taken, votes = {*drawn}, self.standing.votes
        free = [i for i, f in enumerate(self.files) if f.label < 0 and i not in taken and f.path not in votes]
        n = min(self.settings.n_val - len(drawn), len(free) // 2)
        if n > 0:
            rng = stream(self.settings.seed, "validation", len(drawn))
            drawn += [int(i) for i in rng.choice(np.array(free), n, replace=False)]
        return drawn

    @cached_property
    def labels_of_folders(self) -> dict[int, int]:
        """The class of each image that lies in a class folder, by index."""
        return {i: f.label for i, f in enumerate(self.files) if f.label >= 0}

    @cached_property
    def is_validation(self) -> frozenset[int]:
        """The indices in `validation`."""
        return frozenset(self.validation)

    def _config(self) -> dict[str, Any]:
        paths = [self.files[i].path for i in self.validation]
        gone = [p for p in self._recorded.get(VALIDATION, []) if p not in self.index]
        content = {**self._recorded, "dataset_name": self.name, **self.settings.recorded()}
        return {**content, "n_train": len(self.files), VALIDATION: paths + gone}

    @property
    def is_new(self) -> bool:
        """Whether the settings or the images differ from what config.json records."""
        return self._config() != self._recorded

    def save(self) -> None:
        """Record the settings in config.json, once they are known to be usable.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        if self.is_new:
            content = self._config()
            write_atomic(self.folder / CONFIG, json_text(content))
            self._recorded = content

    def class_of(self, name: str) -> int:
        """The position of a class in the settings."""
        return self.settings.classes.index(name)

    def label_of(self, index: int) -> int:
        """The class of an image as its annotators or its folder say; -1 where unknown."""
        action, label = self.standing.verdict(self.files[index].path)
        return self.class_of(label) if action == LABEL else self.files[index].label if not action else -1

    def labels(self) -> dict[int, int]:
        """The class of each labeled image by index, in the order of the labels; those of folders first."""
        classes = {name: i for i, name in enumerate(self.settings.classes)}
        votes = self.standing.votes
        found = {i: c for i, c in self.labels_of_folders.items() if self.files[i].path not in votes}
        for path, (action, label) in self.standing.verdicts.items():
            if action == LABEL and path in self.index:
                found[self.index[path]] = classes[label]
        return found

    def labels_by_use(self, unreadable: Collection[int]) -> tuple[dict[int, int], dict[int, int]]:
        """The labels of readable images: those that train, and those that measure."""
        labels = {i: c for i, c in self.labels().items() if i not in unreadable}
        measuring = {i: c for i, c in labels.items() if i in self.is_validation}
        return {i: c for i, c in labels.items() if i not in measuring}, measuring

    def undecided(self) -> list[int]:
        """Indices of the images without a label on which nobody decided, validation images apart, ascending."""
        votes = self.standing.votes
        return [
            i for i, f in enumerate(self.files) if f.label < 0 and f.path not in votes and i not in self.is_validation
        ]

    def close(self) -> None:
        """Let another process use the project."""
        if log := getattr(self, "log", None):
            log.close()
        if self._lock:
            self._lock.close()


def _merged(before: Settings, given: dict[str, Any], folders: list[str]) -> Settings:
    """The settings of an earlier start with those that are given now. Classes can be added, never taken away.

    Raises:
        UserError: no class is named anywhere, or one that was there is missing.
    """
    settings = replace(before, **given)
    classes = [*settings.classes] or folders
    if not classes:
        raise UserError("--classes: name the classes, such as --classes heron duck gull")
    if missing := [c for c in before.classes if c not in classes]:
        raise UserError(f"--classes lacks {', '.join(missing)}, which this project has; classes can only be added")
    kept = [*before.classes, *(c for c in classes if c not in before.classes)]  # a class keeps its key and number
    check_classes(kept)
    return replace(settings, classes=tuple(kept))


def picks_of(project: Project, result: Result, round: int) -> list[Chosen]:
    """The picks of a result as rows of queries.csv; those of a round that is there already continue its ranks."""
    latest = project.records.latest
    first = len(latest) if latest and latest[-1].round == round else 0
    picks = []
    for rank, i in enumerate(result.picks):
        s = result.suggestions.get(i)
        score = result.scores[rank] if result.scores else None
        name, probability = (project.settings.classes[s.label], s.probability) if s else ("", None)
        picks.append(Chosen(first + rank, i, project.files[i].path, score, name, probability, round))
    return picks
