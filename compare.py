"""Say which strategies beat RandomSampling, and how surely: text, Markdown, CSV and one page for the browser.

Usage:
    python compare.py results
    python compare.py results/CIFAR10 --metric f1 --out report

Runs that differ in anything but strategy and seed are never put into one table; a run that is not finished is named
and left out.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import data
import plot
import runs as reader
from plot import Look
from runs import (
    BASELINE,
    LEVEL,
    TIE,
    UNKNOWN,
    Estimate,
    Floats,
    Ranking,
    Run,
    Setting,
    holm,
    interval,
    labels_to_reach,
    paired_p,
    rank_over_datasets,
    significant,
)
from utils import (
    METRICS,
    QUERY_COLUMNS,
    SECONDS,
    Parser,
    UserError,
    exit_code,
    read_csv,
    to_csv,
    warn,
    write_atomic,
    writing,
)

T = TypeVar("T")
ENOUGH_SEEDS = 5
METRIC_NAMES = ("accuracy", "precision", "recall", "f1")  # more is better, between 0 and 1
BETTER, WORSE, SAME = "better than random", "worse than random", "not distinguishable from random"
UNDECIDED, NOTHING, IS_BASELINE = "undecided: too few seeds", "no RandomSampling to compare with", "the baseline"

# One table


@dataclass(frozen=True)
class Row:
    """One strategy of a table; what cannot be known is NaN.

    Attributes:
        n_pairs: seeds that RandomSampling has too; gain, p and saved rest on these alone.
        aubc: mean height of the curve over all seeds.
        final: the metric in the last round, over all seeds.
        gain: AUBC minus that of RandomSampling, paired by seed.
        final_gain: the same of the last round.
        p, p_holm: of the gain, two-sided; adjusted over the strategies of the table.
        wins, ties, losses: rounds after the first in which the strategy is significantly above RandomSampling,
            neither, significantly below.
        saved: labels that RandomSampling needs to its last mean height, minus those of this strategy to the same;
            minus infinity when it never comes there.
        query_seconds: mean over queries.
    """

    label: str
    runs: list[Run]
    n_pairs: int
    aubc: Estimate
    final: Estimate
    final_sd: float
    query_seconds: float
    gain: Estimate = UNKNOWN
    final_gain: Estimate = UNKNOWN
    p: float = float("nan")
    p_holm: float = float("nan")
    wins: int = 0
    ties: int = 0
    losses: int = 0
    saved: float = float("nan")
    verdict: str = NOTHING


@dataclass(frozen=True)
class Comparison:
    """One table: the strategies of a setting by their AUBC, the highest first.

    Attributes:
        beats: share of rounds after the first in which row beats column; NaN without two common seeds. Shape (K, K).
        notes: what a reader must know before believing the table.
    """

    setting: Setting
    metric: str
    rows: list[Row]
    beats: Floats
    notes: list[str]


def values_of(runs: Sequence[Run], metric: str) -> dict[int, Floats]:
    """The metric by seed, a value a round."""
    return {r.seed: r.values(metric) for r in runs}


def _common(a: dict[int, Floats], b: dict[int, Floats]) -> tuple[Floats, Floats]:
    """The values of the seeds that both have, in the same order. Shapes (S, R)."""
    seeds = sorted(a.keys() & b.keys())
    n_rounds = len(next(iter(a.values())))
    return tuple(np.array([of[s] for s in seeds]).reshape(len(seeds), n_rounds) for of in (a, b))  # type: ignore[return-value]


def _query_seconds(runs: Sequence[Run]) -> float:
    seconds = np.concatenate([r.values("query_seconds") for r in runs])
    return float(np.nanmean(seconds)) if np.isfinite(seconds).any() else float("nan")


def _alone(label: str, runs: list[Run], metric: str) -> Row:
    """What a strategy is by itself."""
    heights = np.array([reader.aubc(r.n_labeled, r.values(metric)) for r in runs])
    final = np.array([r.values(metric)[-1] for r in runs])
    sd = float(final.std(ddof=1)) if len(final) > 1 else float("nan")
    return Row(label, runs, 0, interval(heights), interval(final), sd, _query_seconds(runs))


def _against(row: Row, own: dict[int, Floats], random: dict[int, Floats], n_labeled: NDArray[np.int64]) -> Row:
    """The same row with what pairs it with RandomSampling; p is not adjusted yet."""
    a, b = _common(own, random)
    if not len(a):
        return row
    heights = [np.array([[reader.aubc(n_labeled, v)] for v in of]) for of in (a, b)]
    target = float(b.mean(axis=0)[-1])
    needed = [labels_to_reach(n_labeled, of.mean(axis=0), target) for of in (b, a)]
    wins, losses = significant(a, b)
    return replace(
        row,
        n_pairs=len(a),
        gain=interval((heights[0] - heights[1])[:, 0]),
        final_gain=interval(a[:, -1] - b[:, -1]),
        p=float(paired_p(*heights)[0]),
        wins=wins,
        losses=losses,
        ties=a.shape[1] - 1 - wins - losses if len(a) > 1 else 0,
        saved=needed[0] - needed[1],
    )


def penalty_matrix(values: Sequence[dict[int, Floats]]) -> Floats:
    """Share of the rounds after the first in which row beats column, by two-sided paired t-tests. Shape (K, K).

    Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR 2020, section 4.
    The mean of a column says how often its strategy lost: lower is better. Deviation: round 0, which all strategies
    share, is not counted.
    """
    k = len(values)
    beats = np.full((k, k), np.nan)
    for i, j in itertools.combinations(range(k), 2):
        a, b = _common(values[i], values[j])
        if len(a) > 1 and a.shape[1] > 1:
            wins, losses = significant(a, b)
            beats[i, j], beats[j, i] = wins / (a.shape[1] - 1), losses / (a.shape[1] - 1)
    return beats


def verdict(row: Row) -> str:
    """The plain words for a gain."""
    if not np.isfinite(row.p_holm):
        return UNDECIDED
    if row.p_holm >= LEVEL:
        return SAME
    return BETTER if row.gain.mean > 0 else WORSE


def compare(setting: Setting, metric: str) -> Comparison:
    """Everything that the finished runs of one setting say."""
    done = setting.complete()
    values = {label: values_of(runs, metric) for label, runs in done.items()}
    rows = [_alone(label, runs, metric) for label, runs in done.items()]
    if BASELINE in done:
        n_labeled = done[BASELINE][0].n_labeled
        rows = [r if r.label == BASELINE else _against(r, values[r.label], values[BASELINE], n_labeled) for r in rows]
        adjusted = holm(np.array([r.p for r in rows]))
        rows = [replace(r, p_holm=float(p)) for r, p in zip(rows, adjusted, strict=True)]
        rows = [replace(r, verdict=IS_BASELINE if r.label == BASELINE else verdict(r)) for r in rows]
    rows.sort(key=lambda r: -r.aubc.mean)
    beats = penalty_matrix([values[r.label] for r in rows])
    return Comparison(setting, metric, rows, beats, notes_of(setting, rows))


def rank_datasets(comparisons: Sequence[Comparison]) -> Ranking | None:
    """Average ranks of AUBC over datasets, or None without two datasets that share three strategies.

    Only tables with RandomSampling count. The tables of one dataset are no independent evidence: their ranks are
    averaged into one.
    """
    tables = [c for c in comparisons if any(r.label == BASELINE for r in c.rows)]
    common = set.intersection(*({r.label for r in c.rows} for c in tables)) if tables else set()
    labels = sorted(common)
    by_dataset: dict[str, list[Floats]] = {}
    for c in tables:
        heights = {r.label: r.aubc.mean for r in c.rows}
        ranks = stats.rankdata([-heights[label] for label in labels])
        by_dataset.setdefault(c.setting.config["dataset_name"], []).append(-ranks)
    if len(by_dataset) < 2 or len(labels) < 3:
        return None
    return rank_over_datasets(labels, np.array([np.mean(ranks, axis=0) for ranks in by_dataset.values()]))


# What must be said beside the numbers


def notes_of(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """What a reader must know before believing a table."""
    return [*_seed_notes(rows), *_pairing_notes(rows), *_environment_notes(rows), *_incomplete_notes(setting)]


def _seed_notes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["No run is finished, so nothing can be compared."]
    if all(r.label != BASELINE for r in rows):
        return [
            f"No finished {BASELINE} run has these settings: without it no gain can be told. Run it beside the others."
        ]
    others = [r for r in rows if r.label != BASELINE]
    if not others:
        return [f"{BASELINE} alone: run other strategies with the same settings and seeds to compare them with it."]
    notes = []
    for few in sorted({r.n_pairs for r in others if r.n_pairs < ENOUGH_SEEDS}):
        names = [r.label for r in others if r.n_pairs == few]
        notes.append(("" if len(names) == len(others) else f"{', '.join(names)}: ") + _about_seeds(few))
    return notes


def _about_seeds(few: int) -> str:
    if few == 0:
        return f"no seed in common with {BASELINE}, so nothing can be decided."
    if few == 1:
        return (
            f"one seed decides nothing: there is no interval and no test. Take {ENOUGH_SEEDS} seeds (3 for a glance)."
        )
    t = stats.t.ppf(1 - LEVEL / 2, few - 1)
    return (
        f"{few} seeds are {'no more than a glance' if few == 3 else 'few'}: a difference must reach {t:.1f} of its "
        f"standard errors to count. Take {ENOUGH_SEEDS} seeds to believe a verdict."
    )


def _pairing_notes(rows: Sequence[Row]) -> list[str]:
    random = next((r for r in rows if r.label == BASELINE), None)
    if random is None:
        return []
    notes, first = [], {run.seed: run.values("accuracy")[0] for run in random.runs}
    for row in rows:
        extra = sorted({run.seed for run in row.runs} - first.keys())
        if extra and row.n_pairs:
            seeds = ", ".join(map(str, extra))
            notes.append(f"{row.label}: {BASELINE} has no seed {seeds}, which is left out of gain, p and labels saved.")
    gaps = [abs(run.values("accuracy")[0] - first[run.seed]) for r in rows for run in r.runs if run.seed in first]
    if max(gaps, default=0.0) > TIE:
        notes.append(
            f"Round 0 of one seed differs between strategies by up to {100 * max(gaps):.2f} points of accuracy though "
            "nothing was chosen yet: the device does not repeat itself exactly, or the code changed between the runs."
        )
    return notes


def _environment_notes(rows: Sequence[Row]) -> list[str]:
    seen: dict[str, Counter[str]] = {}
    for e in (run.environment for r in rows for run in r.runs):
        packages = e.get("packages")
        versions = packages if isinstance(packages, dict) else {}
        for key, value in {**{k: e.get(k) for k in ("device_name", "git_commit")}, **versions}.items():
            said = re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}", r"\1", str(value))  # a commit
            seen.setdefault(key, Counter())[said] += 1
    return [
        f"The runs differ in {key}, which may move the numbers: {'; '.join(f'{n} x {v}' for v, n in of.most_common())}."
        for key, of in seen.items()
        if len(of) > 1
    ]


def _incomplete_notes(setting: Setting) -> list[str]:
    n_rounds = len(setting.config["n_labeled"])
    return [
        f"Left out, not finished: {label}, seed {run.seed}: {len(run.rounds)} of {n_rounds} rounds ({run.folder})."
        for label, run in setting.incomplete()
    ]


# Words and tables, the same for the terminal, Markdown and the page

HEADER = (
    "strategy",
    "verdict",
    "seeds",
    "AUBC % [95 %]",
    "final % ± sd",
    "gain, points [95 %]",
    "p (Holm)",
    "win/tie/loss",
    "labels saved",
    "s/query",
)
READING = (
    "AUBC: mean height of the curve over the labels (trapezoid rule), over all seeds.",
    "Gain: AUBC minus that of RandomSampling with the same seed, in points of %, mean over the common seeds, with the "
    "95 % interval of that mean (Student's t).",
    "p (Holm): of a two-sided paired t-test of the gain, adjusted over the strategies of the table. The verdict is "
    "'better' or 'worse' when it is below 0.05. The interval is not adjusted, so it may leave out 0 where the verdict "
    "is 'not distinguishable'.",
    "Win/tie/loss: rounds after the first in which a two-sided paired t-test (5 %, not adjusted) finds the strategy "
    "above RandomSampling, finds nothing, finds it below.",
    "Labels saved: labels that RandomSampling needs for the height it ends with, minus those that the strategy needs "
    "for the same, both on the mean curve and interpolated between rounds.",
    "Not distinguishable does not mean equal: it means that these runs cannot tell.",
)
PENALTY = (
    "Row beats column: the share of the rounds after the first in which the row's strategy is above the column's by a "
    "two-sided paired t-test (5 %, not adjusted). The last line is the mean of each column: how often that strategy "
    "lost; lower is better."
)


def points(value: float) -> str:
    """A difference of shares, in points of %."""
    return f"{100 * value:+.2f}" if np.isfinite(value) else "-"


def with_interval(e: Estimate, say: Callable[[float], str]) -> str:
    """A mean and its interval in brackets, where there is one."""
    return f"{say(e.mean)} [{say(e.low)}, {say(e.high)}]" if np.isfinite(e.low) else say(e.mean)


def percent(value: float) -> str:
    """A share in %."""
    return f"{100 * value:.2f}" if np.isfinite(value) else "-"


def p_value(p: float) -> str:
    """A p-value for people."""
    if not np.isfinite(p):
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def saved_labels(row: Row) -> str:
    """The labels saved, or that random's last height was never reached."""
    if np.isneginf(row.saved):
        return "never reached"
    return f"{row.saved:,.0f}" if np.isfinite(row.saved) else "-"


def cells(row: Row) -> list[str]:
    """One line of the main table."""
    tested = row.n_pairs > 1
    spread = f" ± {percent(row.final_sd)}" if np.isfinite(row.final_sd) else ""
    return [
        row.label,
        row.verdict,
        str(len(row.runs)),
        with_interval(row.aubc, percent),
        percent(row.final.mean) + spread,
        with_interval(row.gain, points),
        p_value(row.p_holm),
        f"{row.wins}/{row.ties}/{row.losses}" if tested else "-",
        saved_labels(row),
        f"{row.query_seconds:.3g}" if np.isfinite(row.query_seconds) else "-",
    ]


def penalty_cells(c: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the penalty matrix; the columns are numbered as the rows."""
    names = [f"{i} {r.label}" for i, r in enumerate(c.rows, 1)]
    lines = [
        [name, *("-" if np.isnan(v) else f"{v:.2f}" for v in row)] for name, row in zip(names, c.beats, strict=True)
    ]
    known = np.isfinite(c.beats)
    n_known = known.sum(axis=0)
    means = np.where(known, c.beats, 0).sum(axis=0) / np.maximum(n_known, 1)
    last = ["mean of column", *(f"{m:.2f}" if n else "-" for m, n in zip(means, n_known, strict=True))]
    return ["row beats column", *(str(i) for i in range(1, len(names) + 1))], [*lines, last]


def sentence(row: Row) -> str:
    """A verdict with the numbers that it rests on."""
    if not np.isfinite(row.gain.mean):
        return f"AUBC {with_interval(row.aubc, percent)} %, {len(row.runs)} seed{'s' * (len(row.runs) > 1)}"
    parts = [f"AUBC {with_interval(row.gain, points)} points"]
    if np.isfinite(row.p_holm):
        parts.append(f"p {p_value(row.p_holm)}")
    parts.append(f"{row.n_pairs} seed{'s' * (row.n_pairs > 1)}")
    saved = saved_labels(row)
    parts.append("random's final height never reached" if saved == "never reached" else f"{saved} labels saved")
    return ", ".join(parts)


def summary(c: Comparison) -> str:
    """One line for a table: how many strategies are better, worse, alike, undecided."""
    others = [r.verdict for r in c.rows if r.label != BASELINE]
    said = [
        f"{sum(v == which for v in others)} {which}" for which in (BETTER, WORSE, SAME, UNDECIDED) if which in others
    ]
    if not said:
        return "Nothing to compare"
    return f"Of {len(others)} strateg{'ies' if len(others) > 1 else 'y'}: " + "; ".join(said)


def ranking_words(ranking: Ranking) -> list[str]:
    """What the ranking over datasets says, and how far it can be believed."""
    said = [
        f"Mean rank of AUBC over {ranking.n_datasets} datasets, 1 the best. Friedman's test that all are alike: "
        f"p {p_value(ranking.p)}. Two strategies differ when their mean ranks are more than "
        f"{ranking.critical_difference:.2f} apart (Nemenyi, 5 %)."
    ]
    if ranking.p >= LEVEL:
        said.append("Friedman's test finds no difference, so none of the ranks below is to be believed.")
    if ranking.n_datasets < 5:
        said.append(f"{ranking.n_datasets} datasets are few for this test, which counts datasets, not seeds.")
    return said


def ranking_cells(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """Strategies by mean rank, each with those that it is significantly better than."""
    order = np.argsort(ranking.ranks, kind="stable")
    lines = []
    for i in order:
        far = [ranking.labels[j] for j in order if ranking.ranks[j] - ranking.ranks[i] > ranking.critical_difference]
        beaten = ", ".join(far) if far and ranking.p < LEVEL else "none"
        lines.append([ranking.labels[i], f"{ranking.ranks[i]:.2f}", beaten])
    return ["strategy", "mean rank", "significantly better than"], lines


@dataclass(frozen=True)
class Report:
    """All tables, and what stands before them."""

    root: Path
    metric: str
    comparisons: list[Comparison]
    ranking: Ranking | None
    differences: list[str]
    problems: list[str]

    def title(self, i: int) -> str:
        """Title of table i, numbered when there are several."""
        title = self.comparisons[i].setting.title
        return f"{i + 1}. {title}" if len(self.comparisons) > 1 else title

    def mixing(self) -> list[str]:
        """Why there are several tables; nothing when there is one."""
        n = len(self.comparisons)
        if n == 1:
            return []
        return [f"{n} tables: runs of different datasets, budgets or recipes are never mixed.", *self.differences]


def as_text(report: Report) -> str:
    """The report for a terminal."""
    out = report.mixing()
    for i, c in enumerate(report.comparisons):
        out += ["", report.title(i), f"{summary(c)}.", *(f"note: {n}" for n in c.notes)]
        if c.rows:
            out += ["", reader.text_table(HEADER, [cells(r) for r in c.rows])]
        if np.isfinite(c.beats).any():
            out += ["", PENALTY, reader.text_table(*penalty_cells(c))]
    if report.ranking:
        out += [
            "",
            "Over the datasets",
            *ranking_words(report.ranking),
            "",
            reader.text_table(*ranking_cells(report.ranking)),
        ]
    out += ["", f"Metric: {report.metric} on the test set.", *READING]
    return "\n".join(out)


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for mark in "\\|<`*_":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *[[_plain(v) for v in r] for r in rows]]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def as_markdown(report: Report) -> str:
    """The report for a repository or an issue."""
    out = ["# Comparison of strategies", "", *(f"- {_plain(line)}" for line in [*report.mixing(), *report.problems])]
    for i, c in enumerate(report.comparisons):
        out += ["", f"## {_plain(report.title(i))}", "", f"{summary(c)}.", ""]
        out += [f"- **{_plain(r.label)}: {r.verdict}.** {sentence(r)}" for r in c.rows if r.label != BASELINE]
        out += [f"- Note: {_plain(n)}" for n in c.notes]
        if c.rows:
            out += _markdown_table(HEADER, [cells(r) for r in c.rows])
        if np.isfinite(c.beats).any():
            out += [PENALTY, *_markdown_table(*penalty_cells(c))]
    if report.ranking:
        out += [
            "",
            "## Over the datasets",
            "",
            *ranking_words(report.ranking),
            *_markdown_table(*ranking_cells(report.ranking)),
        ]
    return "\n".join(
        [
            *out,
            "",
            "## How to read this",
            "",
            f"- Metric: {report.metric} on the test set.",
            *(f"- {r}" for r in READING),
            "",
        ]
    )


CSV_HEADER = (
    *("table", "dataset_name", "n_init_labeled", "n_query", "n_round", "net_name", "metric"),
    *("strategy_name", "strategy_args", "seeds", "pairs", "incomplete"),
    *("aubc", "aubc_low", "aubc_high", "final", "final_low", "final_high", "final_sd"),
    *("gain", "gain_low", "gain_high", "final_gain", "final_gain_low", "final_gain_high", "p", "p_holm"),
    *("wins", "ties", "losses", "labels_saved", "query_seconds", "verdict"),
)


def as_csv(report: Report) -> str:
    """The report for programs: shares as they are, not in %; what is not known is empty."""

    def number(v: float) -> str:
        return f"{v:.8g}" if np.isfinite(v) else "never" if np.isneginf(v) else ""

    lines = []
    for i, c in enumerate(report.comparisons, 1):
        config, started = c.setting.config, Counter(label for label, _ in c.setting.incomplete())
        said = [i, *(config.get(k, "") for k in CSV_HEADER[1:6]), report.metric]
        for r in c.rows:
            counts = [*r.runs[0].strategy, len(r.runs), r.n_pairs, started[r.label]]
            values = [*r.aubc, *r.final, r.final_sd, *r.gain, *r.final_gain, r.p, r.p_holm]
            rounds = [r.wins, r.ties, r.losses] if r.n_pairs > 1 else ["", "", ""]
            lines.append(
                [*said, *counts, *map(number, values), *rounds, number(r.saved), number(r.query_seconds), r.verdict]
            )
    return to_csv(CSV_HEADER, lines)


# The page

MOST_DETAILS = 50  # strategies over all tables whose picks and confusion matrices are shown; a page must stay loadable
MOST_PICTURES = 20
MOST_CLASSES, MOST_COLUMNS = 30, 20


class Picks(NamedTuple):
    """What a run labeled, in order: round, index, path and class name of each image."""

    rounds: NDArray[np.int64]
    idxs: NDArray[np.int64]
    paths: list[str]
    labels: list[str]


def read_picks(run: Run) -> Picks:
    """Read a run's queries.csv, as far as the rounds that were asked for last.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = run.folder / "queries.csv"
    try:
        asked = run.environment.get("n_round", math.inf)
        rows = [r for r in read_csv(path, QUERY_COLUMNS) if int(r[0]) <= asked]
        rounds, idxs = (np.fromiter((int(r[k]) for r in rows), np.int64, len(rows)) for k in (0, 2))
    except (ValueError, OverflowError, OSError) as e:
        raise UserError(f"{path} is damaged or cannot be read: {e}") from e
    if not rows or rounds.min() < 0 or rounds.max() > len(rows):
        raise UserError(f"{path} is missing, empty or damaged")
    return Picks(rounds, idxs, [r[3] for r in rows], [r[4] for r in rows])


def shown_seed(rows: Sequence[Row]) -> int:
    """The seed that most strategies have, the smallest of them."""
    seeds = Counter(run.seed for r in rows for run in r.runs)
    return min(seeds, key=lambda s: (-seeds[s], s))


def of_seed(rows: Sequence[Row], seed: int) -> list[tuple[str, Run]]:
    """The runs of one seed with their strategies, in the order of the table."""
    return [(r.label, run) for r in rows for run in r.runs if run.seed == seed]


def overlap(a: set[int], b: set[int]) -> float:
    """Jaccard index of two sets of images: those in both, as a share of those in either."""
    common = len(a & b)
    return common / max(len(a) + len(b) - common, 1)


def chance_overlap(n_picked: int, n_left: int) -> float:
    """The Jaccard index to expect of two random draws of `n_picked` among `n_left`."""
    return n_picked / max(2 * n_left - n_picked, 1)


def pictures(setting: Setting, data_dir: Path) -> Callable[[str, int], NDArray[np.uint8]] | None:
    """How to get the image of a path and index in the training set, or None when the images are not here."""
    name, side = setting.config["dataset_name"], int(np.clip(setting.config.get("img_size", 32), 32, 64))
    if name == "Digits":
        x = data.load(name, data_dir, side).train_x
        return lambda _, idx: np.ascontiguousarray(x[idx].permute(1, 2, 0).numpy())
    folder = data.folder_of(name, data_dir)
    return None if folder is None else lambda path, _: data.decode(folder / path, side)


def contact_sheet(picks: Picks, picture: Callable[[str, int], NDArray[np.uint8]]) -> str:
    """The first picks as small pictures, in the order of picking; unreadable ones are left out."""
    out = []
    for i in np.flatnonzero(picks.rounds == 1)[:MOST_PICTURES]:
        try:
            image = picture(picks.paths[i], int(picks.idxs[i]))
        except data.UNREADABLE:
            continue
        said = escape(f"{picks.labels[i]}: {picks.paths[i]}")
        source = f"data:image/jpeg;base64,{base64.b64encode(plot.jpeg(image)).decode()}"
        out.append(f'<img src="{source}" alt="{said}" title="{said}" loading="lazy">')
    return f'<div class="sheet">{"".join(out)}</div>' if out else ""


def picks_by_class(picks: Picks) -> str:
    """Picks of each class in each round, shaded by their share of the round."""
    n_rounds = int(picks.rounds.max())
    parts = [np.array([0]), *np.array_split(np.arange(1, n_rounds + 1), max(min(n_rounds, MOST_COLUMNS), 1))]
    parts = [p for p in parts if len(p)]
    names = ["first", *(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts[1:])]
    classes = [name for name, _ in Counter(picks.labels).most_common(MOST_CLASSES)]
    row_of = {name: i for i, name in enumerate(sorted(classes))}
    column_of = {int(r): j for j, p in enumerate(parts) for r in p}
    counts = np.zeros((len(classes), len(parts)))
    for (label, r), n in Counter(zip(picks.labels, picks.rounds.tolist(), strict=True)).items():
        if label in row_of:
            counts[row_of[label], column_of[r]] += n
    totals = np.maximum(counts.sum(axis=0, keepdims=True), 1)
    shade = counts / totals / max((counts / totals).max(), TIE)
    return plot.svg_matrix(list(row_of), names, counts, shade, "picks of each class in each round")


def confusion(run: Run) -> str:
    """A run's confusion matrix, or its most frequent confusions when there are too many classes."""
    classes, counts = reader.read_confusion(run.folder / "confusion_matrix.csv")
    if len(classes) <= MOST_CLASSES:
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return plot.svg_matrix(classes, classes, counts.astype(np.float64), share, "row: true class, column: predicted")
    wrong = counts - np.diag(np.diag(counts))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:15]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in worst]
    lines = [[classes[i], classes[j], f"{counts[i, j]:,} of {counts[i].sum():,}"] for i, j in pairs if wrong[i, j]]
    return html_table(("true class", "predicted as", "images"), lines, "words")


NBSP = "\u00a0"


def _breakable(text: str) -> str:
    """Text that breaks between the words of a name and before a bracket, not inside numbers."""
    kept = text
    if "[" in text or "±" in text:
        kept = text.replace(" [", "\n[").replace(" ", NBSP).replace("\n", " ")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "<wbr>", escape(kept))


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", raw_first: Sequence[str] = ()
) -> str:
    """A table in its own scrolling box.

    Args:
        header: names of the columns.
        rows: cells, escaped here.
        kind: class of the table: main, words (cells to the left) or none.
        raw_first: HTML that stands before the first cell of each row.
    """
    head = "".join(f"<th>{escape(h.replace(' %', NBSP + '%').replace('± ', '±' + NBSP))}</th>" for h in header)
    lines = []
    for i, (first, *others) in enumerate(rows):
        mark = raw_first[i] if raw_first else ""
        rest = "".join(f"<td>{_breakable(v)}</td>" for v in others)
        lines.append(f"<tr><th>{mark}{_breakable(first)}</th>{rest}</tr>")
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="box">{table}</div>'


SHORT = {
    BETTER: "better",
    WORSE: "worse",
    SAME: "not distinguishable",
    UNDECIDED: "undecided",
    NOTHING: "no baseline",
    IS_BASELINE: "baseline",
}


def _chip(verdict: str) -> str:
    return f'<span class="chip {SHORT[verdict].split()[0]}" title="{escape(verdict)}">{SHORT[verdict]}</span>'


def _items(lines: Iterable[str], kind: str) -> str:
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{said}</ul>' if said else ""


def _figure(caption: str, picture: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def _details(summary: str, said: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><p>{escape(said)}</p>{content}</details>"


def _grid(pictures: dict[str, str]) -> str:
    """Pictures side by side under their names, each in its own scrolling box."""
    parts = (f'<div><h4>{_breakable(name)}</h4><div class="box">{p}</div></div>' for name, p in pictures.items())
    return f'<div class="grid">{"".join(parts)}</div>'


def html_verdicts(report: Report, i: int) -> str:
    """The verdicts of one table, a line a strategy."""
    c = report.comparisons[i]
    lines = "".join(
        f"<li>{_chip(r.verdict)}<span><b>{_breakable(r.label)}</b> <small>{escape(sentence(r))}</small></span></li>"
        for r in c.rows
        if r.label != BASELINE
    )
    title = f'<h3><a href="#table{i + 1}">{escape(report.title(i))}</a></h3>'
    verdicts = f'<p>{escape(summary(c))}.</p><ul class="verdicts">{lines}</ul>'
    return f'<section class="card">{title}{verdicts}{_items(c.notes, "notes")}</section>'


def html_charts(c: Comparison, styles: dict[str, Look]) -> str:
    """Curves with bands and the gains with their intervals."""
    curves = plot.curves_of(c.setting, c.metric)
    if not curves:
        return ""
    legend = "".join(
        f"<li>{plot.swatch(styles[k.label])}{escape(k.label)}{' (unfinished)' * (not k.complete)}</li>" for k in curves
    )
    picture = f'{plot.svg_curves(curves, c.metric, styles)}<ul class="legend">{legend}</ul>'
    out = _figure(f"{plot.TITLES[c.metric]}, {plot.caption(curves)}", picture)
    gains = [(r.label, *(100 * np.array(r.gain))) for r in c.rows if np.isfinite(r.gain.low)]
    if gains:
        unit = "Gain in AUBC over RandomSampling, points of %"
        said = "Gain over RandomSampling, paired by seed, with its 95 % interval"
        out += _figure(said, plot.svg_gains(gains, unit, styles))
    return f'<div class="charts">{out}</div>'


def _read_each(runs: list[tuple[str, Run]], read: Callable[[Run], T], loss: str, problems: list[str]) -> dict[str, T]:
    """What `read` finds in each run, by label; of a damaged one the problem is noted with what is lost."""
    found = {}
    for label, run in runs:
        try:
            found[label] = read(run)
        except UserError as e:
            problems.append(f"{e}; {loss}")
    return found


def html_choices(c: Comparison, styles: dict[str, Look], data_dir: Path, problems: list[str]) -> str:
    """What each strategy chose with one seed: first pictures, overlap, classes by round."""
    seed = shown_seed(c.rows)
    picks = _read_each(of_seed(c.rows, seed), read_picks, "its picks are not shown", problems)
    if not picks:
        return ""
    picture = pictures(c.setting, data_dir)
    out = [f"<h3>What each strategy chose (seed {seed})</h3>"]
    sheets = {label: contact_sheet(p, picture) for label, p in picks.items()} if picture else {}
    if any(sheets.values()):
        out.append("<p>The first picks of round 1, in the order of picking.</p>")
        out += [
            f"<h4>{plot.swatch(styles[label])}{_breakable(label)}</h4>{sheet}"
            for label, sheet in sheets.items()
            if sheet
        ]
    else:
        out.append(f"<p>The images are not below {escape(str(data_dir))}, so none are shown (--data_dir).</p>")
    out.append(_html_overlap(picks, c.setting))
    said = "Images of each class added in each round; the stronger the shade, the larger its share of the round."
    classes = _grid({label: picks_by_class(p) for label, p in picks.items()})
    out.append(_details("Classes of the picks, round by round", said, classes))
    return "".join(out)


def _html_overlap(picks: dict[str, Picks], setting: Setting) -> str:
    if len(picks) < 2:
        return ""
    chosen = [set(p.idxs[p.rounds > 0].tolist()) for p in picks.values()]
    lines = [
        [f"{i} {label}", *(percent(overlap(own, other)) for other in chosen)]
        for i, (label, own) in enumerate(zip(picks, chosen, strict=True), 1)
    ]
    n_picked = max(map(len, chosen))
    labels = setting.config["n_labeled"]
    said = (
        "<p>Overlap of what two strategies labeled after the first labels: images that both chose, in % of those that "
    )
    said += "either chose."
    if "n_train" in setting.config:
        chance = percent(chance_overlap(n_picked, setting.config["n_train"] - labels[0]))
        said += f" Two random draws would share {chance} %."
    return f"{said}</p>{html_table(('', *(str(i) for i in range(1, len(lines) + 1))), lines)}"


def html_confusions(c: Comparison, problems: list[str]) -> str:
    """The confusion matrix of each strategy after the last round, with one seed."""
    seed = shown_seed(c.rows)
    found = _read_each(of_seed(c.rows, seed), confusion, "its confusion matrix is not shown", problems)
    if not found:
        return ""
    said = "Row: true class, column: predicted class, cells: test images, shaded by the share of the true class."
    return _details(f"Confusion matrices after the last round (seed {seed})", said, _grid(found))


def html_settings(c: Comparison) -> str:
    """Other metrics, seconds, and every setting that the runs of a table share."""
    others = [m for m in METRICS if m != c.metric]
    lines = []
    for r in c.rows:
        final = (float(np.mean([run.values(m)[-1] for run in r.runs])) for m in others)
        seconds = (np.mean([np.nansum(run.values(s)) for run in r.runs]) for s in SECONDS)
        means = [*(reader.shown(v, m) for v, m in zip(final, others, strict=True)), *(f"{v:,.1f}" for v in seconds)]
        lines.append([r.label, with_interval(r.final_gain, points), *means])
    finals = (f"final {m}{' %' * (m in reader.SHARES)}" for m in others)
    header = ["strategy", f"final gain in {c.metric}, points [95 %]", *finals, *(s.replace("_", " ") for s in SECONDS)]
    said = {**c.setting.config, "n_labeled": ", ".join(f"{n:,}" for n in c.setting.config["n_labeled"])}
    for key in ("device_name", "git_commit", "packages", "python"):
        seen = Counter(str(run.environment[key]) for r in c.rows for run in r.runs if key in run.environment)
        said |= {key: "; ".join(seen)} if seen else {}
    settings = html_table(("setting", "value"), [[k, str(v)] for k, v in said.items()], "words")
    metrics = _details(
        "Other metrics and seconds", "Means over seeds; seconds of whole runs.", html_table(header, lines)
    )
    return metrics + _details("Settings", "What all runs of this table share.", settings)


def html_table_section(
    report: Report, i: int, styles: dict[str, Look], data_dir: Path, detailed: bool, problems: list[str]
) -> str:
    """One dataset and budget: charts, table, penalty matrix, choices, confusions, settings."""
    c = report.comparisons[i]
    out = [f'<section id="table{i + 1}"><h2>{escape(report.title(i))}</h2>', html_charts(c, styles)]
    if c.rows:
        swatches = [plot.swatch(styles[r.label]) for r in c.rows]
        lines = [[label, SHORT[v], *rest] for label, v, *rest in map(cells, c.rows)]
        out.append(html_table(HEADER, lines, "main", swatches))
    if np.isfinite(c.beats).any():
        out.append(f"<h3>Who beats whom</h3><p>{escape(PENALTY)}</p>{html_table(*penalty_cells(c))}")
    if c.rows and detailed:
        out += [html_choices(c, styles, data_dir, problems), html_confusions(c, problems)]
    elif c.rows:
        out.append("<p>Too many tables to show picks and confusion matrices here: compare a smaller folder.</p>")
    if c.rows:
        out.append(html_settings(c))
    return "".join([*out, "</section>"])


def as_html(report: Report, data_dir: Path) -> tuple[str, list[str]]:
    """The report as one page that needs no other file.

    Returns:
        The page, and one line about each file that could not be shown.
    """
    styles = plot.looks(label for c in report.comparisons for label in c.setting.runs)
    problems: list[str] = []
    sections, n_shown = [], 0
    for i, c in enumerate(report.comparisons):
        n_shown += len(c.rows)
        sections.append(html_table_section(report, i, styles, data_dir, n_shown <= MOST_DETAILS, problems))
    ranking = ""
    if report.ranking:
        words = "".join(f"<p>{escape(w)}</p>" for w in ranking_words(report.ranking))
        table = html_table(*ranking_cells(report.ranking), "words")
        ranking = f'<section class="card"><h3>Over the datasets</h3>{words}{table}</section>'
    title = "Which strategy saves labels?"
    verdicts = "".join(html_verdicts(report, i) for i in range(len(report.comparisons)))
    reading = f"<h2>How to read this</h2>{_items(READING, 'plain')}{_items([*report.problems, *problems], 'notes')}"
    body = (
        f"<h1>{title}</h1><p>Runs below <code>{escape(str(report.root))}</code>, {report.metric} on the test set.</p>"
        f"{_items(report.mixing(), 'plain')}{verdicts}{ranking}{''.join(sections)}<section>{reading}</section>"
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{title}</title><style>{STYLE}</style>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'
    return page, problems


STYLE = """
:root{color-scheme:light dark;--ground:#fff;--card:#f5f6f8;--text:#1b1f24;--soft:#5a626c;--line:#d9dde2;--cell:#2a6db5;
--good:#00694c;--bad:#a33b00;--good-ground:#d8f0e7;--bad-ground:#fbe3d6;--grey-ground:#e6e9ed}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1c2126;--text:#e4e7eb;--soft:#9aa4af;--line:#343b43;
--cell:#5aa2ee;--good:#7fdcb9;--bad:#ffb28a;--good-ground:#123a2e;--bad-ground:#47240f;--grey-ground:#2b3138}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:1160px;margin:0 auto;padding:1.2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.6rem 0}
h2{font-size:1.25rem;margin:2.6rem 0 .8rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.6rem 0 .4rem}
h4{font-size:.92rem;margin:.9rem 0 .3rem;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:75ch}
a{color:inherit}
code{overflow-wrap:anywhere}
.card{background:var(--card);border-radius:10px;padding:.9rem 1.1rem;margin:.9rem 0}
.card h3{margin-top:0}
ul{padding-left:1.2rem;margin:.5rem 0}
.verdicts,.legend{list-style:none;padding:0}
.verdicts li{display:grid;grid-template-columns:11rem 1fr;padding:.4rem 0;border-top:1px solid var(--line)}
.verdicts span{overflow-wrap:anywhere}
.verdicts li>span:first-child{justify-self:start;align-self:start}
small,.notes,.plain,figcaption{color:var(--soft);font-size:.9rem}
.notes li,.plain li{overflow-wrap:anywhere;max-width:95ch}
.chip{display:inline-block;border-radius:99px;padding:0 .65rem;font-size:.85rem;font-weight:600;
background:var(--grey-ground)}
.chip.better{background:var(--good-ground);color:var(--good)}
.chip.worse{background:var(--bad-ground);color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1.2rem;align-items:start}
figure{margin:0;min-width:0;max-width:600px}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.85rem}
.legend li{overflow-wrap:anywhere}
svg text{fill:var(--text);font:12px system-ui,sans-serif}
.chart{width:100%;height:auto;display:block}
.chart text{font-size:12.5px;paint-order:stroke;stroke:var(--ground);stroke-width:3px;stroke-linejoin:round}
.swatch{width:34px;height:12px;margin-right:.45rem;vertical-align:baseline}
.series{stroke:var(--l);fill:none;stroke-width:2}
.series .mark{fill:var(--l);stroke:var(--ground);stroke-width:.8}
.series .band{fill:var(--l);stroke:none;fill-opacity:.13}
@media(prefers-color-scheme:dark){.series{stroke:var(--d)}.series .mark,.series .band{fill:var(--d)}}
.rule,.zero{stroke:var(--line);stroke-width:1;fill:none}
.zero{stroke:var(--soft);stroke-width:1.4}
.cell{fill:var(--cell);stroke:var(--line);stroke-width:.5}
svg .value{font-size:11px}
svg .over{fill:#fff}
@media(prefers-color-scheme:dark){svg .over{fill:#0b0e11}}
.box{overflow-x:auto;margin:.6rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .55rem;border-bottom:1px solid var(--line);text-align:right}
td{white-space:nowrap}
.main td:nth-child(n+4){white-space:normal}
tbody th{min-width:9.5rem}
.words td{white-space:normal;overflow-wrap:anywhere}
th:first-child,.main :is(td,th):nth-child(2),.words :is(td,th){text-align:left}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600}
details{margin:.8rem 0;border:1px solid var(--line);border-radius:8px;padding:.5rem .9rem}
summary{cursor:pointer;font-weight:600}
div.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:.4rem 1.4rem}
div.grid>div{min-width:0}
.sheet{display:flex;flex-wrap:wrap;gap:3px}
.sheet img{width:48px;height:48px;border-radius:3px;object-fit:cover}
@media(max-width:600px){.verdicts li{grid-template-columns:1fr;gap:.15rem}.card{padding:.7rem .8rem}
.sheet img{width:42px;height:42px}}
"""


# The script


def make_report(root: Path, metric: str) -> Report:
    """Read and compare all runs below a folder.

    Raises:
        UserError: the folder is missing, or nothing below it could be read.
    """
    found, problems = reader.find_runs(root)
    settings, repeated = reader.group(found)
    comparisons = [compare(s, metric) for s in settings]
    return Report(
        root, metric, comparisons, rank_datasets(comparisons), reader.differences(settings), problems + repeated
    )


def write(report: Report, out: Path, data_dir: Path) -> list[Path]:
    """Write the report as Markdown, CSV and a page, each at once or not at all."""
    page, problems = as_html(report, data_dir)
    for line in problems:
        warn(line)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    contents = {"compare.md": as_markdown(report), "compare.csv": as_csv(report), "compare.html": page}
    for name, content in contents.items():
        write_atomic(out / name, content.encode("utf-8", "replace"))
    return [out / name for name in contents]


def run(args: argparse.Namespace) -> None:
    """Compare what the command line names."""
    if args.metric not in METRIC_NAMES:
        raise UserError(f"--metric {args.metric}: must be one of {', '.join(METRIC_NAMES)}")
    report = make_report(args.folder, args.metric)
    for line in report.problems:
        warn(line)
    paths = write(report, args.out, args.data_dir) if args.out is not None else []
    print(as_text(report))
    print("\nwritten: " + ", ".join(map(str, paths)) if paths else "\nno file is written without --out")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    parser = Parser(description="Say which strategies beat RandomSampling, and how surely.")
    parser.add_argument("folder", type=Path, help="a folder of results, such as results or results/CIFAR10")
    parser.add_argument("--metric", default="accuracy", help=f"what to compare: {', '.join(METRIC_NAMES)} (accuracy)")
    parser.add_argument("--out", type=Path, help="write compare.md, compare.csv and compare.html into this folder")
    parser.add_argument(
        "--data_dir", type=Path, default=Path("DATA"), help="where the images are, to show picks (DATA)"
    )
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args), "interrupted")


if __name__ == "__main__":
    sys.exit(main())
