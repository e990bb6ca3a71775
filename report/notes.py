"""Notes beside a table: what a reader must know before believing its numbers."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from report.comparison import Comparison
from report.statistics import TIE, critical_t
from runs.settings import BASELINE

ENOUGH_SEEDS = 5


def notes_of(c: Comparison) -> list[str]:
    """What a reader must know before believing a table, a line each."""
    return [*_seed_notes(c), *_pairing_notes(c), *_environment_notes(c), *_left_out_notes(c)]


def _seed_notes(c: Comparison) -> list[str]:
    measured = f" and measured {c.metric.name}" if c.unmeasured else ""
    if not c.rows:
        return [f"No run is finished{measured}, so nothing can be compared."]
    others = [r for r in c.rows if r.label != BASELINE]
    if len(others) == len(c.rows):
        return [f"No finished {BASELINE} run has these settings{measured}, so gains cannot be computed: add such runs."]
    if not others:
        return [f"{BASELINE} alone: run other strategies with the same settings and seeds to compare them with it."]
    notes = []
    for few in sorted({r.n_pairs for r in others if r.n_pairs < ENOUGH_SEEDS}):
        names = [r.label for r in others if r.n_pairs == few]
        text = _about_seeds(few)
        notes.append(text[0].upper() + text[1:] if len(names) == len(others) else f"{', '.join(names)}: {text}")
    return notes


def _about_seeds(few: int) -> str:
    if few == 0:
        return f"no seed in common with {BASELINE}, so nothing can be decided."
    if few == 1:
        return f"one seed decides nothing: it gives no interval and no test. Run {ENOUGH_SEEDS} seeds, at least 3."
    return (
        f"{few} seeds are {'enough for a first impression only' if few == 3 else 'few'}: to be significant, a "
        f"difference must be {critical_t(few):.1f} times its standard error. Run {ENOUGH_SEEDS} seeds for a verdict to "
        "rely on."
    )


def _pairing_notes(c: Comparison) -> list[str]:
    if BASELINE not in c.runs:
        return []
    notes, first = [], {run.seed: run.values("accuracy")[0] for run in c.runs[BASELINE]}
    for row in c.rows:
        extra = sorted(set(row.seeds) - first.keys())
        if extra and row.n_pairs:
            seeds = ", ".join(map(str, extra))
            notes.append(f"{row.label}: {BASELINE} has no seed {seeds}, which is left out of gain, p and labels saved.")
    paired = (run for of in c.runs.values() for run in of if run.seed in first)
    gaps = (abs(run.values("accuracy")[0] - first[run.seed]) for run in paired)
    gap = max((float(g) for g in gaps if np.isfinite(g)), default=0.0)
    if gap > TIE:
        notes.append(
            f"Round 0 of one seed differs between strategies by up to {100 * gap:.2f} points of accuracy, although no "
            "strategy had chosen yet: the device does not repeat its results exactly, or the code changed between runs."
        )
    return notes


def _environment_notes(c: Comparison) -> list[str]:
    seen: dict[str, Counter[str]] = {}
    for e in (run.environment for of in c.runs.values() for run in of):
        packages = e.get("packages")
        versions = packages if isinstance(packages, dict) else {}
        for key, value in {**{k: e.get(k) for k in ("device_name", "git_commit")}, **versions}.items():
            short = re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}", r"\1", str(value))  # a commit
            seen.setdefault(key, Counter())[short] += 1
    return [
        f"The runs differ in {key}, which may affect the numbers: "
        f"{'; '.join(f'{n} x {v}' for v, n in values.most_common())}."
        for key, values in seen.items()
        if len(values) > 1
    ]


def _left_out_notes(c: Comparison) -> list[str]:
    n_rounds = len(c.setting.config["n_labeled"])
    unfinished = [
        f"Left out, not finished: {label}, seed {run.seed}: {len(run.rounds)} of {n_rounds} rounds ({run.folder})."
        for label, run in c.setting.incomplete()
    ]
    return unfinished + [
        f"Left out, {c.metric.name} not measured in every round: {label}, seed {run.seed} ({run.folder})."
        for label, run in c.unmeasured
    ]
