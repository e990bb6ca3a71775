"""Numbers and tables as text for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from report.statistics import Estimate
from runs.metrics import METRICS, Metric
from utils import printable


def percent(value: float) -> str:
    """A share in %."""
    return f"{100 * value:.2f}" if np.isfinite(value) else "-"


def points(value: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * value:+.2f}" if np.isfinite(value) else "-"


def value_text(value: float, metric: Metric) -> str:
    """A value of a metric: shares in %, others with four significant digits."""
    if metric.share:
        return percent(value)
    return f"{value:.4g}" if np.isfinite(value) else "-"


def difference_text(value: float, metric: Metric) -> str:
    """A difference of two values of a metric: of shares in percentage points, else with three significant digits."""
    if metric.share:
        return points(value)
    return f"{value:+.3g}" if np.isfinite(value) else "-"


def size_text(difference: float, metric: Metric) -> str:
    """A difference of 0 or more without its sign, in the unit of `difference_text`."""
    return difference_text(difference, metric).removeprefix("+")


def unit_of(metric: Metric) -> str:
    """The unit in which values of a metric are shown; empty where there is none."""
    return "%" if metric.share else metric.unit


def difference_unit(metric: Metric) -> str:
    """The unit in which differences of a metric are shown; empty where there is none."""
    return "points" if metric.share else metric.unit


def with_interval(e: Estimate, text: Callable[[float], str]) -> str:
    """A mean and its interval in brackets, where there is one."""
    return f"{text(e.mean)} [{text(e.low)}, {text(e.high)}]" if np.isfinite(e.low) else text(e.mean)


def p_value(p: float) -> str:
    """A p-value with three digits."""
    if not np.isfinite(p):
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def plural(n: int, one: str, many: str) -> str:
    """A number with the noun that it counts."""
    return f"{n} {one if n == 1 else many}"


def shown(value: float, column: str, digits: int = 2) -> str:
    """A value of a column of rounds.csv: shares in %, others with three significant digits."""
    if not np.isfinite(value):
        return "-"
    share = column in METRICS and METRICS[column].share
    return f"{100 * value:.{digits}f}" if share else f"{value:.3g}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: columns of words aligned to the left, of numbers to the right."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(r[j]) for r in cells) for j in range(len(header))]
    words = [
        all(not r[j][:1].isdigit() for r in rows) and any(r[j][:1].isalpha() for r in rows) for j in range(len(header))
    ]
    words[0] = True
    lines = []
    for row in cells:
        sides = [c.ljust(w) if word else c.rjust(w) for c, w, word in zip(row, widths, words, strict=True)]
        lines.append("  ".join(sides).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths).rstrip())
    return "\n".join(lines)
