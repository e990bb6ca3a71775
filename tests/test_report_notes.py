"""What a reader must know stands beside the table."""

import pytest
from fake_results import rising
from in_memory import MARGIN, RANDOM, compared, run_of
from test_report_comparison import without

from report.comparison import compare_strategies
from report.notes import notes_of
from runs.metrics import METRICS
from runs.settings import group


def notes_for(curves, **config):
    return notes_of(compared(curves, **config))


@pytest.mark.parametrize(
    ("n", "expected"), [(2, "2 seeds are few"), (3, "must be 4.3 times"), (4, "4 seeds are few"), (5, "")]
)
def test_few_seeds_are_noted(n, expected):
    notes = notes_for({k: {s: rising(2, noise=0.01, seed=s) for s in range(n)} for k in ("RandomSampling", "A")})
    assert notes == [] if not expected else any(expected in note for note in notes)


def test_one_seed_is_noted():
    notes = notes_for({"RandomSampling": {1: RANDOM[1]}, "MarginSampling": {1: MARGIN[1]}})
    assert any("One seed decides nothing" in n for n in notes)


def test_a_missing_baseline_or_a_missing_common_seed_is_noted():
    assert "so gains cannot be computed" in notes_for({"A": RANDOM, "B": MARGIN})[0]
    assert "No seed in common" in notes_for({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}})[0]
    notes = notes_for({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}, "B": MARGIN})
    assert notes[0].startswith("A: no seed in common")
    assert notes[1].startswith("B: 3 seeds are enough for a first impression only")
    assert "alone" in notes_for({"RandomSampling": RANDOM})[0]


def test_seeds_without_a_pair_are_noted():
    notes = notes_for({"RandomSampling": RANDOM, "MarginSampling": {**MARGIN, 9: (0.5, 0.1, 0.1)}})
    assert any("RandomSampling has no seed 9" in n for n in notes)


def test_a_round_0_that_differs_is_noted():
    notes = notes_for({"RandomSampling": RANDOM, "MarginSampling": {**MARGIN, 1: (0.52, 0.64, 0.74)}})
    assert any("by up to 2.00 points" in n for n in notes)
    assert not any("Round 0" in n for n in notes_for({"RandomSampling": RANDOM, "MarginSampling": MARGIN}))


def test_other_versions_of_packages_are_noted():
    found = [run_of(n, s, MARGIN[s]) for n in ("RandomSampling", "A") for s in MARGIN]
    found[0].environment.update(packages={"torch": "2.11", "numpy": "2.4"}, git_commit="a")
    for run in found[1:]:
        run.environment.update(packages={"torch": "2.12", "numpy": "2.4"}, git_commit="a")
    (setting,), _ = group(found)
    notes = notes_of(compare_strategies(setting, METRICS["accuracy"]))
    assert "The runs differ in torch, which may affect the numbers: 5 x 2.12; 1 x 2.11." in notes
    assert not any("numpy" in n or "git_commit" in n for n in notes)


def test_runs_without_the_metric_are_noted():
    found = [run_of(n, s, MARGIN[s]) for n in ("RandomSampling", "A") for s in MARGIN]
    (setting,), _ = group([without(found[0], "nll"), *found[1:]])
    notes = notes_of(compare_strategies(setting, METRICS["nll"]))
    assert "Left out, nll not measured in every round: RandomSampling, seed 1 (nowhere)." in notes
    assert not any("Left out" in n for n in notes_of(compare_strategies(setting, METRICS["accuracy"])))
    (setting,), _ = group([*(without(r, "nll") for r in found[:3]), *found[3:]])
    notes = notes_of(compare_strategies(setting, METRICS["nll"]))
    assert notes[0].startswith("No finished RandomSampling run has these settings and measured nll")
    (setting,), _ = group([without(r, "nll") for r in found])
    notes = notes_of(compare_strategies(setting, METRICS["nll"]))
    assert notes[0] == "No run is finished and measured nll, so nothing can be compared."
