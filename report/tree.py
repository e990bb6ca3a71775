"""The report as a tree of plain values: text, numbers and the bytes of pictures.

Everything that a view shows is computed before it is rendered; a view turns a Report into text and reads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from report.comparison import Row
from report.curves import Curve
from runs.reading import Floats


@dataclass(frozen=True)
class TextTable:
    """Cells under their header, all as text; the first column names the rows."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one strategy, and the numbers that it rests on in words."""

    label: str
    verdict: str
    numbers: str


@dataclass(frozen=True)
class Gain:
    """A gain over RandomSampling and its 95 % interval, in the unit of the axis that shows it."""

    label: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Charts:
    """Learning curves and gains.

    Attributes:
        metric: what the curves show, a column of rounds.csv.
        caption: what a line and its band are.
        gains: best first; empty without an interval.
        gain_axis: quantity and unit of the gains.
    """

    metric: str
    caption: str
    curves: list[Curve]
    gains: list[Gain]
    gain_axis: str


@dataclass(frozen=True)
class Matrix:
    """Numbers whose cells are shaded.

    Attributes:
        rows: names of the rows. Shape (A,).
        columns: names of the columns. Shape (B,).
        values: 0 is left blank. Shape (A, B).
        shade: between 0 and 1. Shape (A, B).
    """

    rows: list[str]
    columns: list[str]
    values: Floats
    shade: Floats


@dataclass(frozen=True)
class Pick:
    """One image that a strategy chose; the bytes of a small JPEG where the image could be read."""

    path: str
    label: str
    jpeg: bytes | None


@dataclass(frozen=True)
class Choices:
    """What each strategy chose with one seed.

    Attributes:
        seed: the one that most strategies have.
        first: the first picks of round 1 by strategy, in the order of picking.
        missing: why no picture is shown; empty where some are.
        overlap: share of images that two strategies have in common; None for a single strategy.
        overlap_text: what its numbers mean.
        classes: picks of each class in each round, by strategy.
    """

    seed: int
    first: dict[str, list[Pick]]
    missing: str
    overlap: TextTable | None
    overlap_text: str
    classes: dict[str, Matrix]


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices after the last round with one seed, by strategy; a list of confusions of many classes."""

    seed: int
    found: dict[str, Matrix | TextTable]


@dataclass(frozen=True)
class PoolMap:
    """Images of a pool in two dimensions, and when each strategy labeled them with one seed.

    Attributes:
        seed: of the runs.
        caption: what the points are.
        xy: the points; those that no strategy labeled stand last, in random order. Shape (n, 2).
        classes: names.
        of_class: class of each point, -1 where unknown. Shape (n,).
        steps: the first labels, then rounds or groups of rounds, in order.
        step: by strategy, the step in which it labeled each point, -1 for never. Shape (n,).
    """

    seed: int
    caption: str
    xy: Floats
    classes: list[str]
    of_class: NDArray[np.int64]
    steps: list[str]
    step: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Details:
    """What takes reading more files than rounds.csv; None where no run has it.

    Attributes:
        choices: what each strategy chose.
        confusions: what each strategy's network confuses.
        map: where in the pool each strategy chose; None where it was not requested, or where `no_map` says why.
    """

    choices: Choices | None
    confusions: Confusions | None
    map: PoolMap | None = None
    no_map: str = ""


@dataclass(frozen=True)
class Section:
    """One dataset, budget and recipe: the strategies that were run with it.

    Attributes:
        title: dataset, budget, network and what tells this section from others.
        config: every setting that its runs share.
        rows: the strategies in numbers, best first.
        counts: how many strategies are better, worse, not distinguishable, undecided.
        power: what gain the tests could have found; empty where there is no test.
        verdicts: a verdict for each strategy but RandomSampling.
        notes: what a reader must know before believing the table.
        charts: None before the first round is done.
        table: the strategies in text; None, like all below, when no run is finished.
        beats: who beats whom; None without two seeds.
        other_metrics: the other metrics and the seconds of each strategy.
        settings: settings and environment of the runs.
        details: None where it was not requested, or where `no_details` says why.
    """

    title: str
    config: dict[str, Any]
    rows: list[Row]
    counts: str
    power: str
    verdicts: list[Verdict]
    notes: list[str]
    charts: Charts | None
    table: TextTable | None
    beats: TextTable | None
    other_metrics: TextTable | None
    settings: TextTable | None
    details: Details | None
    no_details: str


@dataclass(frozen=True)
class OverDatasets:
    """Mean ranks of the strategies over datasets, and how far they can be trusted."""

    notes: list[str]
    table: TextTable


@dataclass(frozen=True)
class Report:
    """Everything that a view shows.

    Attributes:
        root: the folder of results.
        metric: the column of rounds.csv that is compared.
        subject: the metric in words.
        labels: all strategies, so that each is drawn alike everywhere.
        differences: why there is more than one section; empty for one.
        beats_text: how to read the tables of who beats whom.
        reading: how to read the other numbers, a line each.
        problems: runs that could not be read or stand twice, a line each.
        unreadable: other files that could not be read, a line each.
    """

    root: str
    metric: str
    subject: str
    labels: list[str]
    differences: list[str]
    sections: list[Section]
    over_datasets: OverDatasets | None
    beats_text: str
    reading: list[str]
    problems: list[str]
    unreadable: list[str]
