"""Runs in memory with given curves, compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fake_results import CONFIG

from report.comparison import Comparison, Row, compare_strategies
from runs.format import Round
from runs.metrics import METRICS
from runs.reading import Run
from runs.settings import group

Curves = Mapping[int, Sequence[float]]  # by seed, a value a round

# Three seeds, rounds at 100, 200 and 300 labels. AUBC of equal steps is (a/2 + b + c/2) / 2:
# random .6, .615, .585; margin .63, .65, .6075; so the gains are .03, .035, .0225.
RANDOM: Curves = {1: (0.5, 0.6, 0.7), 2: (0.5, 0.62, 0.72), 3: (0.5, 0.58, 0.68)}
MARGIN: Curves = {1: (0.5, 0.64, 0.74), 2: (0.5, 0.67, 0.76), 3: (0.5, 0.61, 0.71)}


def run_of(strategy: str, seed: int, curve: Sequence[float], step: int = 100, **config: Any) -> Run:
    """A finished run, all of whose metrics are `curve`."""
    full = {**CONFIG, "strategy_name": strategy, "seed": seed, "n_query": step, **config}
    rounds = [Round(r, 100 + r * step, dict.fromkeys(METRICS, float(v)), 5.0, 1.0, 2.0) for r, v in enumerate(curve)]
    return Run(Path("nowhere"), full, {"n_round": len(curve) - 1}, rounds)


def compared(curves: Mapping[str, Curves], metric: str = "accuracy", **config: Any) -> Comparison:
    """The comparison of curves by strategy and seed."""
    found = [run_of(name, seed, c, **config) for name, of in curves.items() for seed, c in of.items()]
    (setting,), _ = group(found)
    return compare_strategies(setting, METRICS[metric])


def row_of(c: Comparison, label: str) -> Row:
    """The row of one strategy."""
    return next(r for r in c.rows if r.label == label)


def p_of(gains: Sequence[float]) -> float:
    """Two-sided p-value of three paired gains: with 2 degrees of freedom it is 1 - |t| / sqrt(2 + t^2)."""
    t = statistics.mean(gains) / (statistics.stdev(gains) / math.sqrt(3))
    return 1 - abs(t) / math.sqrt(2 + t * t)
