"""Which image each annotator sees next, and what becomes of their answers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labeling.log import DISPUTED, LABEL, REVIEW, SKIP, UNDO, UNSURE, Decision, now
from labeling.progress import progress
from labeling.project import Project, picks_of
from labeling.work import Checked, Event, Failed, Preparing, Ready, Result, Suggestion, Task
from utils import UserError, stream

LEASE_SECONDS = 300.0  # of silence, after which an annotator's images are given to others
SHEET = 2  # queries are so many times longer than the labels between two trainings: nobody waits for the next one

GRID = "grid"
WHY = {
    GRID: "the network takes it for this class",
    "validation": "drawn at random, to measure the network; it never trains it",
    "random": "drawn at random, while the next query is computed",
    "disputed": "the annotators disagree on it",
    "unsure": "another annotator was unsure",
    "review": "the network doubts its label",
}


@dataclass(frozen=True)
class Item:
    """An image to decide on.

    Attributes:
        index: its position in the project's images.
        path: relative to the project's folder.
        kind: query, validation, grid, random, disputed, unsure or review.
        why: it is shown, in words.
        suggestion: the most probable class; None where there is none, or none may be shown.
        probability: of the suggestion.
        ranked: the most probable classes, best first, at most ten.
        label: the class that stands, where there is one.
    """

    index: int
    path: str
    kind: str
    why: str
    suggestion: int | None = None
    probability: float | None = None
    ranked: tuple[int, ...] = ()
    label: int | None = None


@dataclass(frozen=True)
class Answer:
    """What an annotator decided on an image.

    Attributes:
        index: of the image.
        action: label, skip or unsure.
        label: the class, where the action is label.
        seconds: that the image was shown.
    """

    index: int
    action: str
    label: int | None = None
    seconds: float | None = None


@dataclass
class _Lease:
    annotator: str
    until: float
    kind: str


class Session:
    """One start of label.py: serves images, records answers, and asks for trainings.

    It is used by one thread. `submit` hands a task to the training process; what comes back goes to `receive`.

    Args:
        project: writable.
        blind: show no suggestions at all.
        submit: starts a task; must return at once. None where nothing is trained.
        review: indices of labeled images to decide on again, instead of all others, and what a network that did not
            see their labels takes them for.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        project: Project,
        blind: bool = False,
        submit: Callable[[Task], None] | None = None,
        review: dict[int, Suggestion] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.project = project
        self.name = project.name
        self.classes = [*project.settings.classes]
        self.blind = blind
        self.version = 0
        self.work: dict[str, str] = {"state": "embedding", "text": "preparing the images"}
        self.unreadable: dict[int, str] = {}
        self._submit = submit
        self._clock = clock
        self._busy: Task | None = None
        self._ready = False
        self._suggestions: dict[int, Suggestion] = dict(review or {})
        self._groups: dict[int, list[int]] = {}
        self._leases: dict[int, _Lease] = {}
        self._turn: Counter[str] = Counter()  # validation images given to each annotator, less those of queries
        self._queue = [project.index[p.path] for p in project.records.latest if p.path in project.index]
        self._review = [*review] if review is not None else None
        self._reviewed: set[tuple[str, int]] = set()
        if self._review is not None:
            self.work = {"state": "idle", "text": "review"}
        rng = stream(project.settings.seed, "random order")
        self._random = [int(i) for i in rng.permutation(len(project.files))]

    # What annotators see

    def items(self, annotator: str, n: int) -> list[Item]:
        """The images that an annotator decides on next, the first one first. They are given to nobody else meanwhile.

        Those of a call before that are still undecided come again, except where a new query replaced them; the first
        one always does: it is on the screen.
        """
        time_now = self._clock()
        self._leases = {i: lease for i, lease in self._leases.items() if lease.until > time_now}
        wanted = {*self._queue}
        mine: list[int] = []
        for i, lease in [*self._leases.items()]:
            if lease.annotator != annotator or lease.kind == GRID:
                continue
            outdated = (lease.kind == "random" and self._queue) or (lease.kind == "query" and i not in wanted)
            if not self._is_open(annotator, i, lease.kind) or (mine and outdated):
                del self._leases[i]
            else:
                mine.append(i)
        mine = mine[:n]
        for i, kind in self._next(annotator):
            if len(mine) >= n:
                break
            if i not in self._leases:
                self._turn[annotator] += {"validation": 1, "query": -1}.get(kind, 0)
                self._leases[i] = _Lease(annotator, 0.0, kind)
                mine.append(i)
        for i in mine:
            self._leases[i].until = time_now + LEASE_SECONDS
        return [self._item(i, self._leases[i].kind) for i in mine]

    def grid(self, annotator: str, n: int, label: int | None) -> tuple[int | None, list[Item]]:
        """Undecided images with the same suggested class, the surest first; of the largest group where none is named.

        Returns:
            The class, None where there are no suggestions, and at most n images. They are given to nobody else.
        """
        if self.blind or self._review is not None:
            return None, []
        time_now = self._clock()

        def free(i: int) -> bool:
            lease = self._leases.get(i)
            taken = lease is not None and lease.annotator != annotator and lease.until > time_now
            return not taken and self._is_open(annotator, i, GRID)

        mine = [i for i, lease in self._leases.items() if lease.annotator == annotator and lease.kind == GRID]
        for i in mine:
            del self._leases[i]
        groups = {c: [i for i in idxs if free(i)] for c, idxs in self._groups.items() if label in (None, c)}
        if not any(groups.values()):
            return label, []
        largest = max(groups, key=lambda c: len(groups[c]))
        chosen = groups[largest][:n]
        for i in chosen:
            self._leases[i] = _Lease(annotator, time_now + LEASE_SECONDS, GRID)
        return largest, [self._item(i, GRID) for i in chosen]

    def picture(self, index: int) -> Path:
        """The file of an image.

        Raises:
            KeyError: there is no such image.
        """
        if not 0 <= index < len(self.project.files):
            raise KeyError(index)
        return self.project.root / self.project.files[index].path

    def progress(self, annotator: str) -> dict[str, Any]:
        """Counts, the accuracy so far, and what is going on; made of what JSON can hold."""
        return {**progress(self.project, annotator), "work": self.work, "version": self.version}

    # What annotators do

    def decide(self, annotator: str, answers: Sequence[Answer]) -> None:
        """Record answers; they are on the disk when this returns. An answer that stands already is not repeated.

        Raises:
            UserError: an answer makes no sense, or the disk is full. Nothing is recorded then.
        """
        decisions = [self._decision(annotator, a) for a in answers]
        if self.project.log is None:
            raise UserError("this session is read-only")
        self.project.log.append([d for d in decisions if d is not None])
        for answer in answers:
            self._leases.pop(answer.index, None)
            self._reviewed.add((annotator, answer.index))
        self._train_if_due()

    def undo(self, annotator: str) -> Item | None:
        """Take back the last decision of an annotator that stands, and return its image; None where there is none."""
        project = self.project
        past = project.standing.history.get(annotator, [])
        last = next((d for d in reversed(past) if d.path in project.index), None)
        if last is None or project.log is None:
            return None
        project.log.append([Decision(now(), annotator, last.path, UNDO)])
        index = project.index[last.path]
        self._reviewed.discard((annotator, index))
        kind = "validation" if index in project.is_validation else "review" if self._review is not None else "query"
        lease = _Lease(annotator, self._clock() + LEASE_SECONDS, kind)
        self._leases = {index: lease, **{i: other for i, other in self._leases.items() if i != index}}
        return replace(self._item(index, kind), label=project.class_of(last.label) if last.label else None)

    # What the training process says

    def receive(self, event: Event) -> None:
        """Take note of what the training process says."""
        self.version += 1
        if isinstance(event, Preparing):
            self.work = {"state": "embedding", "text": event.text}
        elif isinstance(event, Ready):
            self.unreadable = event.unreadable
            self._ready = True
            self.work = {"state": "idle", "text": ""}
            if self.project.records.rounds and not self._is_due():
                self._start(train=False)
            self._train_if_due()
        elif isinstance(event, Failed):
            self.work = {"state": "failed", "text": event.text}
            self._busy = None
            self._ready = self._ready and not event.final
        elif isinstance(event, Result):
            self._use(event)
        else:
            assert isinstance(event, Checked)

    def _use(self, result: Result) -> None:
        task, project = self._busy, self.project
        assert task is not None
        self._busy = None
        self.work = {"state": "idle", "text": ""}
        if task.n or result.measured:
            picks = picks_of(project, result, task.round + 1 if task.train else 0)
            project.records.commit(result.measured, picks)
            undecided = [p.index for p in picks]
            self._queue = undecided if task.train else self._queue + undecided
        self._suggestions, self._groups = result.suggestions, result.groups
        self._train_if_due()

    def _is_due(self) -> bool:
        """Whether there are enough new labels for another training; in the end, any."""
        labels, _ = self.project.labels_by_use(self.unreadable)
        grown = len(labels) - self.project.records.n_trained
        if grown < 1 or len({*labels.values()}) < 2:
            return False
        return grown >= self.project.settings.n_query or not (self._has_queue() or self.project.undecided())

    def _has_queue(self) -> bool:
        return any(self._is_open("", i, "query") for i in self._queue)

    def _train_if_due(self) -> None:
        if self._review is not None or not self._ready or self._busy:
            return
        if self._is_due():
            self._start(train=True)
        elif not self.project.records.rounds and not self._has_queue():
            self._start(train=False)  # the first images, or more of them where all labels are of one class

    def _start(self, train: bool) -> None:
        project, records = self.project, self.project.records
        n = SHEET * project.settings.n_query if train or not records.rounds else 0
        candidates = [i for i in project.undecided() if i not in self.unreadable]
        if not records.rounds:
            queued = {*self._queue}
            candidates = [i for i in candidates if i not in queued]
        if not self._submit or not (train or candidates):
            return
        training, measuring = project.labels_by_use(self.unreadable)
        n = min(n, len(candidates))
        self._busy = Task(len(records.rounds), training, measuring, candidates, n, train, [*self._queue])
        what = f"training on {len(self._busy.labels)} labels" if train else "choosing the first images"
        self.work = {"state": "training", "text": what if n else "preparing suggestions"}
        self.version += 1
        self._submit(self._busy)

    # Which image is next

    def _next(self, annotator: str) -> Iterator[tuple[int, str]]:
        """Undecided images with the reason to show them, best first."""
        if self._review is not None:
            yield from ((i, "review") for i in self._review if self._is_open(annotator, i, "review"))
            return
        index = self.project.index
        others = self.project.standing.verdicts
        for wanted in (DISPUTED, UNSURE):
            for path, (action, _) in others.items():
                if action == wanted and path in index and self._is_open(annotator, index[path], wanted):
                    yield index[path], wanted
        query = deque(i for i in self._queue if self._is_free(annotator, i))
        validation = deque(i for i in self.project.validation if self._is_free(annotator, i))
        turn = self._turn[annotator]
        while query or validation:  # take turns, so that the network can be measured early
            to_measure = bool(validation) and (not query or turn <= 0)
            turn += 1 if to_measure else -1
            yield (validation.popleft(), "validation") if to_measure else (query.popleft(), "query")
        yield from ((i, "random") for i in self._random if self._is_free(annotator, i))

    def _is_free(self, annotator: str, index: int) -> bool:
        """Whether nobody decided on an image, or is about to."""
        return index not in self._leases and self._is_open(annotator, index, "query")

    def _is_open(self, annotator: str, index: int, kind: str) -> bool:
        """Whether an annotator may be shown an image for a reason."""
        if index in self.unreadable:
            return False
        if kind == "review":
            return (annotator, index) not in self._reviewed
        file = self.project.files[index]
        votes = self.project.standing.votes.get(file.path, {})
        if kind == DISPUTED:
            action, _ = self.project.standing.verdict(file.path)
            everybody = {*self.project.standing.history} <= {*votes}
            return action == DISPUTED and (
                annotator not in votes or (everybody and (annotator, index) not in self._reviewed)
            )
        if kind == UNSURE:
            return annotator not in votes and self.project.standing.verdict(file.path)[0] == UNSURE
        return file.label < 0 and not votes

    def _item(self, index: int, kind: str) -> Item:
        path = self.project.files[index].path
        s = self._shown(index)
        why = WHY.get(kind) or self._why_queried()
        label = self.project.label_of(index)
        standing = label if label >= 0 else None
        if s is None:
            return Item(index, path, kind, why, label=standing)
        return Item(index, path, kind, why, s.label, s.probability, s.ranked, standing)

    def _shown(self, index: int) -> Suggestion | None:
        """The suggestion that annotators see of an image, if any."""
        hidden = self.blind or index in self.project.is_validation
        return None if hidden else self._suggestions.get(index)

    def _why_queried(self) -> str:
        settings, rounds = self.project.settings, self.project.records.rounds
        return f"chosen by {settings.strategy_name if rounds else settings.first_strategy}"

    def _decision(self, annotator: str, answer: Answer) -> Decision | None:
        """An answer as a row of the log; None where it stands already.

        Raises:
            UserError: it makes no sense.
        """
        if not 0 <= answer.index < len(self.project.files):
            raise UserError(f"there is no image {answer.index}")
        if answer.action not in (LABEL, SKIP, UNSURE):
            raise UserError(f"the action {answer.action!r} is none of {LABEL}, {SKIP}, {UNSURE}")
        if (answer.action == LABEL) != (answer.label is not None):
            raise UserError(f"{answer.action} with the label {answer.label}")
        if answer.label is not None and not 0 <= answer.label < len(self.classes):
            raise UserError(f"there is no class {answer.label}")
        path = self.project.files[answer.index].path
        label = "" if answer.label is None else self.classes[answer.label]
        votes = self.project.standing.votes.get(path, {})
        stands, action = votes.get(annotator), answer.action
        reopened = self._review is not None or self.project.standing.verdict(path)[0] == DISPUTED
        if self._review is not None and action == SKIP:  # leaves the label as it is
            return None
        if stands and (stands.action, stands.label) == (action, label) and not reopened:
            return None
        if reopened and action == LABEL and (self._review is not None or annotator in votes):
            if stands and (stands.action, stands.label) == (REVIEW, label):
                return None
            action = REVIEW  # decides, whatever was decided before
        s = self._shown(answer.index)
        name, probability = (self.classes[s.label], f"{s.probability:.4f}") if s else ("", "")
        seconds = answer.seconds
        shown = "" if seconds is None or not np.isfinite(seconds) else f"{min(max(seconds, 0.0), 86400.0):.2f}"
        return Decision(now(), annotator, path, action, label, shown, name, probability)
