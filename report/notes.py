"""Notes beside a table: what a reader must know before believing its numbers."""

from __future__ import annotations

import numpy as np

from report.comparison import BETTER, LEAST_SPREAD, WORSE, Comparison, one_image
from report.environments import environment_notes
from report.numbers import points, size_text
from report.statistics import TIE, critical_t
from runs.settings import BASELINE

ENOUGH_SEEDS = 5  # with fewer, the critical value is above 3 standard errors
FEW_IMAGES = 3  # a gain below so many test images is noted


def notes_of(c: Comparison) -> list[str]:
    """What a reader must know before believing a table, a line each."""
    return [*_seed_notes(c), *_test_set_notes(c), *_pairing_notes(c), *environment_notes(c), *_left_out_notes(c)]


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
        return (
            "one seed decides nothing: it gives no interval and no test. Run 3 seeds to see how many more are needed."
        )
    return (
        f"{few} seeds find large gains only: to be significant, a difference must be {critical_t(few):.1f} times its "
        "standard error. 'Better' and 'worse' err as seldom as with more seeds, but gains found with few seeds tend to "
        "be overestimated."
    )


def _test_set_notes(c: Comparison) -> list[str]:
    """Spreads and verdicts that rest on a few test images."""
    image, n_test = one_image(c.setting.config, c.metric), c.setting.config.get("n_test")
    notes = []
    if flat := [r.label for r in c.rows if r.sd <= LEAST_SPREAD * image]:
        notes.append(
            f"{', '.join(flat)}: the standard deviation of the gains over the seeds is at most {LEAST_SPREAD:.2f} of "
            f"{n_test:,} test images, and counts as that much."
        )
    errors = {r.label: float(np.sqrt(max(r.final.mean * (1 - r.final.mean), 0) * image)) for r in c.rows}
    decided = [r for r in c.rows if r.verdict in (BETTER, WORSE)]
    if small := [r for r in decided if abs(r.gain.mean) < max(errors[r.label], FEW_IMAGES * image)]:
        gains = ", ".join(f"{points(r.gain.mean)} of {r.label}" for r in small)
        notes.append(
            f"{n_test:,} test images are few for gains of {gains}: one image is {size_text(image, c.metric)} points, "
            f"and other {n_test:,} images would move a final {c.metric.name} by "
            f"{size_text(max(errors.values()), c.metric)} points (one standard error): they may give another verdict."
        )
    return notes


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
