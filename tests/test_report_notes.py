"""What a reader must know stands beside the table."""

import pytest
from fake_results import rising
from in_memory import MARGIN, RANDOM, compared, run_of
from test_report_comparison import without

from report.comparison import compare_strategies
from report.environments import environment_notes
from report.notes import notes_of
from runs.metrics import METRICS
from runs.settings import group


def notes_for(curves, **config):
    return notes_of(compared(curves, **config))


@pytest.mark.parametrize(
    ("n", "expected"),
    [(2, "2 seeds find large gains only"), (3, "must be 4.3 times"), (4, "must be 3.2 times"), (5, "")],
)
def test_few_seeds_are_noted(n, expected):
    notes = notes_for({k: {s: rising(2, noise=0.01, seed=s) for s in range(n)} for k in ("RandomSampling", "A")})
    few = [note for note in notes if "seeds find" in note]
    assert few == [] if not expected else expected in few[0]


def test_one_seed_is_noted():
    notes = notes_for({"RandomSampling": {1: RANDOM[1]}, "MarginSampling": {1: MARGIN[1]}})
    assert any("One seed decides nothing" in n for n in notes)


def test_a_missing_baseline_or_a_missing_common_seed_is_noted():
    assert "so gains cannot be computed" in notes_for({"A": RANDOM, "B": MARGIN})[0]
    assert "No seed in common" in notes_for({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}})[0]
    notes = notes_for({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}, "B": MARGIN})
    assert notes[0].startswith("A: no seed in common")
    assert notes[1].startswith("B: 3 seeds find large gains only")
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


def test_gains_that_are_small_for_the_test_set_are_noted():
    curves = {"RandomSampling": RANDOM, "MarginSampling": MARGIN}
    assert notes_for(curves, n_test=10_000)[1:] == []
    (note,) = notes_for(curves, n_test=200)[1:]
    assert "200 test images are few for gains of +2.92 of MarginSampling" in note
    assert "one image is 0.50 points" in note
    assert "a final accuracy by 3.24 points (one standard error)" in note  # of random's .7: sqrt(.7 x .3 / 200)
    assert notes_for(curves, n_test=None)[1:] == []


def test_a_spread_below_one_test_image_is_noted():
    flat = {s: tuple(v + 0.05 for v in c) for s, c in RANDOM.items()}
    notes = notes_for({"RandomSampling": RANDOM, "Flat": flat, "MarginSampling": MARGIN}, n_test=500)
    expected = "Flat: the standard deviation of the gains over the seeds is at most 0.71 of 500 test images"
    assert any(n.startswith(expected) for n in notes)


def environment_notes_of(environments, **config):
    """The notes about environments of runs of one table, one run an environment."""
    found = [run_of("RandomSampling", s, RANDOM[1], **config) for s in range(len(environments))]
    for run, environment in zip(found, environments, strict=True):
        run.environment.update(environment)
    (setting,), _ = group(found)
    return environment_notes(compare_strategies(setting, METRICS["accuracy"]))


HERE = {"device": "cpu", "device_name": "x86_64", "cpu": "Xeon", "threads": 1, "bfloat16": True}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"cpu": "EPYC"}, "the CPU's model, which may affect the numbers: 2 x Xeon; 1 x EPYC."),
        ({"threads": 2}, "the number of threads, which may affect the numbers: 2 x 1; 1 x 2."),
        ({"bfloat16": False}, "the use of bfloat16, which may affect the numbers: 2 x used; 1 x not used."),
    ],
)
def test_runs_of_different_cpus_threads_or_precision_are_noted(change, note):
    assert environment_notes_of([HERE, HERE, {**HERE, **change}], bf16=True) == [f"The runs differ in {note}"]
    assert environment_notes_of([HERE, HERE, HERE], bf16=True) == []


def test_precision_is_noted_only_where_the_run_uses_it():
    other = {**HERE, "bfloat16": False}
    assert environment_notes_of([HERE, other], bf16=False) == []
    assert len(environment_notes_of([HERE, other], bf16=False, score_bf16=True)) == 1


def test_cpu_and_threads_are_noted_only_where_the_run_computes_on_the_cpu():
    cuda = {**HERE, "device": "cuda:0", "device_name": "H100"}
    assert environment_notes_of([cuda, {**cuda, "cpu": "EPYC", "threads": 8}], bf16=True) == []
    assert len(environment_notes_of([cuda, {**cuda, "bfloat16": False}], bf16=True)) == 1


def test_what_an_older_version_did_not_record_is_no_difference():
    old = {"device": "cpu", "device_name": "x86_64", "threads": 1}
    assert environment_notes_of([old, old, HERE], bf16=True) == []
    (note,) = environment_notes_of([old, {**HERE, "cpu": "EPYC"}, HERE], bf16=True)
    assert note.endswith(": 1 x EPYC; 1 x Xeon; 1 x not recorded.")
    assert environment_notes_of([{}, HERE, {"bfloat16": ["?"], "packages": 3, "earlier": [4, {"cpu": {}}]}]) == []


def test_starts_of_one_run_that_differ_are_noted():
    earlier = {"earlier": [{**HERE, "threads": 2}, {**HERE, "threads": 2}]}
    (between, within) = environment_notes_of([HERE, {**HERE, "threads": 4, **earlier}, HERE])
    assert between.startswith("The runs differ in the number of threads")
    expected = "number of threads, which may affect its numbers: RandomSampling, seed 1 (2, then 4)."
    assert within == f"The starts of one run differ in the {expected}"
    many = environment_notes_of([{**HERE, **earlier}] * 5)
    assert many[0].endswith("seed 2 (2, then 1); and 2 more.")
    assert environment_notes_of([{**HERE, "earlier": [HERE, {}]}] * 2) == []
