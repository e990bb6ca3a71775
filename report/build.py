"""Build a report: read the runs below a folder, compare them, and compute everything that views show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from report.comparison import Comparison, compare_strategies, rank_datasets
from report.curves import caption, curves_of
from report.map import PoolRows
from report.notes import notes_of
from report.numbers import difference_unit
from report.tables import beats_table, other_metrics_table, ranking_table, settings_table, strategies_table
from report.tree import Charts, Details, Gain, OverDatasets, Report, Section, Verdict
from report.wording import BEATS, evidence, power_text, ranking_notes, reading, subject, verdict_counts
from runs.metrics import Metric
from runs.reading import Run, find_runs
from runs.settings import BASELINE, differences, group

MOST_DETAILS = 50  # strategies over all sections whose picks and confusion matrices are read; a page must stay loadable


def make_report(
    root: Path, metric: Metric, data_dir: Path | None = None, rows_of: Callable[[Run], PoolRows] | None = None
) -> Report:
    """Read and compare all runs below a folder.

    Args:
        root: the folder of results.
        metric: what is compared.
        data_dir: the folder that holds the data sets' folders, to show picks; None leaves out all details.
        rows_of: the pool of a run, to draw a map of each table; None for no maps.

    Raises:
        UserError: the folder is missing, or nothing below it could be read.
    """
    found, problems = find_runs(root)
    settings, repeated = group(found)
    comparisons = [compare_strategies(s, metric) for s in settings]
    ranking = rank_datasets(comparisons)
    unreadable: list[str] = []
    read = None if data_dir is None else partial(_details, data_dir, unreadable, rows_of)
    return Report(
        root=str(root),
        metric=metric.name,
        subject=subject(metric),
        labels=sorted({label for s in settings for label in s.runs}),
        differences=_differences(differences(settings), len(settings)),
        sections=_sections(comparisons, read),
        over_datasets=OverDatasets(ranking_notes(ranking), ranking_table(ranking)) if ranking else None,
        beats_text=BEATS,
        reading=reading(metric),
        problems=problems + repeated,
        unreadable=unreadable,
    )


def _differences(lines: Sequence[str], n: int) -> list[str]:
    if n == 1:
        return []
    return [f"{n} tables: runs of different datasets, budgets or recipes are never mixed.", *lines]


def _sections(comparisons: Sequence[Comparison], read: Callable[[Comparison], Details] | None) -> list[Section]:
    sections, n_shown = [], 0
    for i, c in enumerate(comparisons, 1):
        number = f"{i}. " if len(comparisons) > 1 else ""
        n_shown += len(c.rows)
        found, no_details = None, ""
        if c.rows and read:
            if n_shown <= MOST_DETAILS:
                found = read(c)
            else:
                no_details = "Too many tables to show picks and confusion matrices here: compare a smaller folder."
        sections.append(_section(c, number + c.setting.title, found, no_details))
    return sections


def _details(
    data_dir: Path, unreadable: list[str], rows_of: Callable[[Run], PoolRows] | None, c: Comparison
) -> Details:
    from report.details import details  # imports Pillow, which text for the terminal does not need

    return details(c, data_dir, unreadable, rows_of)


def _section(c: Comparison, title: str, found: Details | None, no_details: str) -> Section:
    some = bool(c.rows)
    return Section(
        title=title,
        config=c.setting.config,
        rows=c.rows,
        counts=verdict_counts(c.rows),
        power=power_text(c.rows, c.metric),
        verdicts=[Verdict(r.label, r.verdict, evidence(r, c.metric)) for r in c.rows if r.label != BASELINE],
        notes=notes_of(c),
        charts=_charts(c),
        table=strategies_table(c) if some else None,
        beats=beats_table(c),
        other_metrics=other_metrics_table(c) if some else None,
        settings=settings_table(c) if some else None,
        details=found,
        no_details=no_details,
    )


def _charts(c: Comparison) -> Charts | None:
    curves = curves_of(c.setting, c.metric.name)
    if not curves:
        return None
    scale = 100.0 if c.metric.share else 1.0
    gains = [Gain(r.label, *(scale * v for v in r.gain)) for r in c.rows if np.isfinite(r.gain.low)]
    unit = "percentage points" if c.metric.share else difference_unit(c.metric)
    axis = f"Gain in AUBC over {BASELINE}{', ' if unit else ''}{unit}"
    return Charts(c.metric.name, caption(curves), curves, gains, axis)
