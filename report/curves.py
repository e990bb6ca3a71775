"""Mean curves over seeds, and what their axes are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runs.format import metric_of
from runs.reading import Floats, Run
from runs.settings import Setting

BAND = "band: ± 1 standard deviation over seeds"


@dataclass(frozen=True)
class Curve:
    """The mean over seeds of one column of rounds.csv.

    Attributes:
        sd: sample standard deviation over the seeds, NaN for one seed. Shape (R,), like n_labeled and mean.
        complete: False when only unfinished runs were there; it then ends where the first of them ends.
    """

    label: str
    n_labeled: NDArray[np.int64]
    mean: Floats
    sd: Floats
    n_seeds: int
    complete: bool


def runs_shown(runs: Sequence[Run], column: str) -> list[Run]:
    """The runs that stand for a strategy: the finished ones, else those that were started.

    Runs that did not measure the column are left out where others did.
    """
    started = [r for r in runs if r.rounds]
    measured = [r for r in started if np.isfinite(r.values(column)).any()] or started
    return [r for r in measured if r.complete] or measured


def curve(label: str, runs: Sequence[Run], column: str) -> Curve | None:
    """The mean of a column over the runs shown, as far as all of them have rounds; None without any round."""
    used = runs_shown(runs, column)
    if not used:
        return None
    length = min(len(r.rounds) for r in used)
    values = np.stack([r.values(column)[:length] for r in used])
    sd = values.std(axis=0, ddof=1) if len(used) > 1 else np.full(length, np.nan)
    return Curve(label, used[0].n_labeled[:length], values.mean(axis=0), sd, len(used), used[0].complete)


def curves_of(setting: Setting, column: str) -> list[Curve]:
    """The curves of a setting, the highest end first so that a legend reads in the order of the lines."""
    found = [curve(label, of, column) for label, of in setting.runs.items()]
    drawn = [c for c in found if c is not None and np.isfinite(c.mean).any()]
    return sorted(drawn, key=lambda c: -c.mean[np.isfinite(c.mean)][-1])


def axis_title(column: str) -> str:
    """The title of an axis that shows a column of rounds.csv, with its unit."""
    if metric := metric_of(column):
        title = metric.title if column == metric.name else f"{metric.title} on validation images"
        unit = "%" if metric.share else metric.unit
        return f"{title} ({unit})" if unit else title
    return {
        "train_seconds": "Training (s)",
        "eval_seconds": "Evaluation (s)",
        "query_seconds": "Query (s)",
        "n_labeled": "Labeled images",
    }.get(column, column.capitalize())


def column_scale(column: str) -> float:
    """What values of a column are multiplied by before people see them: 100 for shares, which are shown in %."""
    metric = metric_of(column)
    return 100.0 if metric and metric.share else 1.0


def caption(curves: Sequence[Curve]) -> str:
    """What a line and its band are, in one line."""
    n_seeds = {c.n_seeds for c in curves}
    if n_seeds == {1}:
        return "one seed each, so no band"
    line = f"mean of {n_seeds.pop()} seeds" if len(n_seeds) == 1 else "mean over seeds"
    return f"{line}, {BAND}"
