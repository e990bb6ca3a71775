"""How far a project is: counts, speed, the accuracy so far, and advice."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from labeling.advice import Point, advise, wilson
from labeling.log import DISPUTED, LABEL, SKIP, UNDO, UNSURE
from labeling.project import Project

RECENT = 20  # decisions that the speed is measured on


def progress(project: Project, annotator: str) -> dict[str, Any]:
    """All that the page and `label.py status` show of a project, made of what JSON can hold.

    Args:
        project: its present state.
        annotator: whose own decisions are counted; empty for everybody's speed.
    """
    labels = project.labels()
    counts = Counter(labels.values())
    actions = Counter(action for action, _ in project.standing.verdicts.values())
    mine = sum(annotator in votes for votes in project.standing.votes.values())
    settings, rounds = project.settings, project.records.rounds
    return {
        "n_images": len(project.files) - len(project.labels_of_folders),
        "n_labeled": sum(action == LABEL for action, _ in project.standing.verdicts.values()),
        "n_in_folders": len(project.labels_of_folders),
        "n_mine": mine,
        "validation": {"done": sum(i in labels for i in project.validation), "wanted": len(project.validation)},
        "n_skipped": actions[SKIP],
        "n_unsure": actions[UNSURE],
        "n_disputed": actions[DISPUTED],
        "classes": [{"name": name, "count": counts[i]} for i, name in enumerate(settings.classes)],
        "labels_per_minute": labels_per_minute(project, annotator),
        "curve": accuracy_curve(project),
        "strategy": settings.strategy_name if rounds else settings.first_strategy,
        "n_query": settings.n_query,
        "n_new": len(labels) - sum(i in labels for i in project.validation) - project.records.n_trained,
        "advice": _advice(tuple(trainings(project)), settings.target),
    }


@lru_cache(maxsize=4)  # it changes with a training, and is asked for with every answer
def _advice(history: tuple[Point, ...], target: float | None) -> list[str]:
    return [*advise(history, target).text]


def accuracy_curve(project: Project) -> list[dict[str, Any]]:
    """The accuracy on validation images after each training, with its interval at 95 %."""
    found = []
    for m in project.records.rounds:
        if m.n_val:
            low, high = wilson(m.n_correct, m.n_val)
            accuracy = m.n_correct / m.n_val
            row = {"round": m.row.round, "n_labeled": m.row.n_labeled, "n_val": m.n_val}
            found.append({**row, "accuracy": accuracy, "low": low, "high": high})
    return found


def trainings(project: Project) -> list[Point]:
    """The trainings so far, as advice reads them."""
    return [Point(m.row.round, m.row.n_labeled, m.n_val, m.n_correct, m.agreement) for m in project.records.rounds]


def labels_per_minute(project: Project, annotator: str) -> float | None:
    """The speed of the last decisions of an annotator, or of all; None before there are two with a time."""
    decisions = project.log.decisions if project.log else []
    recent: list[float] = []
    for d in reversed(decisions):
        if d.action != UNDO and d.seconds and annotator in ("", d.annotator):
            recent.append(float(d.seconds))
            if len(recent) == RECENT:
                break
    return round(60 * len(recent) / sum(recent), 1) if len(recent) > 1 and sum(recent) > 0 else None
