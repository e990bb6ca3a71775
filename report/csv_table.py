"""The report as CSV, for programs."""

from __future__ import annotations

import numpy as np

from files import to_csv
from report.comparison import Row
from report.tree import Report

SETTINGS = ("dataset_name", "n_init_labeled", "n_query", "n_round", "net_name")
HEADER = (
    *("table", *SETTINGS, "metric", "strategy_name", "strategy_args", "seeds", "pairs", "incomplete"),
    *("aubc", "aubc_low", "aubc_high", "final", "final_low", "final_high", "final_sd"),
    *("gain", "gain_low", "gain_high", "final_gain", "final_gain_low", "final_gain_high", "p", "p_holm"),
    *("wins", "ties", "losses", "labels_saved", "query_seconds", "verdict"),
    *("labels_saved_low", "labels_saved_high", "gain_sd", "detectable_gain", "seeds_needed"),
)


def as_csv(report: Report) -> str:
    """A line a strategy of each section. Shares are between 0 and 1, not in %; what is not known is empty."""
    lines = []
    for i, section in enumerate(report.sections, 1):
        settings = [section.config.get(key, "") for key in SETTINGS]
        lines += [[i, *settings, report.metric, *_values(row)] for row in section.rows]
    return to_csv(HEADER, lines)


def _values(row: Row) -> list[str | int]:
    estimates = [*row.aubc, *row.final, row.final_sd, *row.gain, *row.final_gain, row.p, row.p_holm]
    return [
        *(row.strategy_name, row.strategy_args, len(row.seeds), row.n_pairs, row.n_unfinished),
        *map(_number, estimates),
        *([row.wins, row.ties, row.losses] if row.n_pairs > 1 else ["", "", ""]),
        *(_number(row.saved.mean), _number(row.query_seconds), row.verdict),
        *map(_number, (row.saved.low, row.saved.high, row.sd, row.detectable, row.seeds_needed)),
    ]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.8g}"
