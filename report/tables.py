"""The tables of a report: header and cells as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from report.comparison import Comparison, Row
from report.numbers import (
    difference_text,
    difference_unit,
    p_value,
    shown,
    size_text,
    unit_of,
    value_text,
    with_interval,
)
from report.statistics import LEVEL, Ranking
from report.tree import TextTable
from report.wording import labels_text
from runs.format import SECONDS
from runs.metrics import METRICS, Metric
from runs.reading import Run


def _joined(*words: str) -> str:
    return " ".join(w for w in words if w)


def _in_unit(quantity: str, unit: str) -> str:
    return f"{quantity}, {unit}" if unit else quantity


def strategies_table(c: Comparison) -> TextTable:
    """The main table: a line a strategy."""
    unit = unit_of(c.metric)
    header = [
        "strategy",
        "verdict",
        "seeds",
        _joined("AUBC", unit, "[95 %]"),
        _joined("final", unit, "± sd"),
        _in_unit("gain", difference_unit(c.metric)) + " [95 %]",
        "p (Holm)",
        "win/tie/loss",
        "labels saved [95 %]",
        _in_unit("detectable", difference_unit(c.metric)),
        "s/query",
    ]
    return TextTable(header, [_cells(r, c.metric) for r in c.rows])


def _cells(row: Row, metric: Metric) -> list[str]:
    def value(v: float) -> str:
        return value_text(v, metric)

    spread = f" ± {value(row.final_sd)}" if np.isfinite(row.final_sd) else ""
    return [
        row.label,
        row.verdict,
        str(len(row.seeds)),
        with_interval(row.aubc, value),
        value(row.final.mean) + spread,
        with_interval(row.gain, lambda v: difference_text(v, metric)),
        p_value(row.p_holm),
        f"{row.wins}/{row.ties}/{row.losses}" if row.n_pairs > 1 else "-",
        with_interval(row.saved, labels_text),
        size_text(row.detectable, metric),
        f"{row.query_seconds:.3g}" if np.isfinite(row.query_seconds) else "-",
    ]


def beats_table(c: Comparison) -> TextTable | None:
    """Who beats whom; the columns are numbered as the rows. None where no two strategies can be compared."""
    known = np.isfinite(c.beats)
    if not known.any():
        return None
    names = [f"{i} {r.label}" for i, r in enumerate(c.rows, 1)]
    lines = [
        [name, *("-" if np.isnan(v) else f"{v:.2f}" for v in row)] for name, row in zip(names, c.beats, strict=True)
    ]
    n_known = known.sum(axis=0)
    means = np.where(known, c.beats, 0).sum(axis=0) / np.maximum(n_known, 1)
    last = ["mean of column", *(f"{m:.2f}" if n else "-" for m, n in zip(means, n_known, strict=True))]
    return TextTable(["row beats column", *(str(i) for i in range(1, len(names) + 1))], [*lines, last])


def ranking_table(ranking: Ranking) -> TextTable:
    """Strategies by mean rank, each with those that it is significantly better than."""
    order = np.argsort(ranking.ranks, kind="stable")
    lines = []
    for i in order:
        far = [ranking.labels[j] for j in order if ranking.ranks[j] - ranking.ranks[i] > ranking.critical_difference]
        beaten = ", ".join(far) if far and ranking.p < LEVEL else "none"
        lines.append([ranking.labels[i], f"{ranking.ranks[i]:.2f}", beaten])
    return TextTable(["strategy", "mean rank", "significantly better than"], lines)


def other_metrics_table(c: Comparison) -> TextTable:
    """Final gain, the other metrics after the last round, and seconds of whole runs: means over seeds."""
    others = [m for m in METRICS.values() if m.name != c.metric.name]
    finals = [_joined("final", m.name, "%" if m.share else "") for m in others]
    header = [
        "strategy",
        _in_unit(f"final gain in {c.metric.name}", difference_unit(c.metric)) + " [95 %]",
        *finals,
        *(s.replace("_", " ") for s in SECONDS),
    ]
    lines = []
    for row in c.rows:
        runs = c.runs[row.label]
        gain = with_interval(row.final_gain, lambda v: difference_text(v, c.metric))
        seconds = (np.mean([np.nansum(run.values(s)) for run in runs]) for s in SECONDS)
        lines.append([row.label, gain, *(_final(runs, m.name) for m in others), *(f"{v:,.1f}" for v in seconds)])
    return TextTable(header, lines)


def _final(runs: Sequence[Run], metric: str) -> str:
    """Mean of a metric in the last round over the runs that measured it."""
    finals = np.array([run.values(metric)[-1] for run in runs])
    known = np.isfinite(finals)
    if not known.any():
        return "not measured"
    text = shown(float(finals[known].mean()), metric)
    return text if known.all() else f"{text} ({known.sum()} of {len(runs)} seeds)"


def settings_table(c: Comparison) -> TextTable:
    """Every setting that the runs share, and the environments that they ran in."""
    values = {**c.setting.config, "n_labeled": ", ".join(f"{n:,}" for n in c.setting.config["n_labeled"])}
    environments = [run.environment for of in c.runs.values() for run in of]
    for key in ("device_name", "git_commit", "packages", "python"):
        if seen := Counter(str(e[key]) for e in environments if key in e):
            values[key] = "; ".join(seen)
    return TextTable(["setting", "value"], [[key, str(value)] for key, value in values.items()])
