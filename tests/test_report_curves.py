"""Mean curves over seeds, and what their axes are called."""

import math

import pytest
from fake_results import rising, write_run

from report.curves import axis_title, caption, column_scale, curve, curves_of, runs_shown
from runs.format import round_columns
from runs.metrics import METRICS, Metric
from runs.reading import find_runs, read_run
from runs.settings import group


def runs_of(root, *curves, **settings):
    return [read_run(write_run(root, "BADGE", seed, c, **settings)) for seed, c in enumerate(curves)]


def test_a_curve_is_the_mean_over_seeds_with_the_sample_standard_deviation(tmp_path):
    found = curve("BADGE", runs_of(tmp_path, (0.5, 0.6), (0.5, 0.7), (0.5, 0.8)), "accuracy")
    assert found.n_labeled.tolist() == [100, 150]
    assert found.mean == pytest.approx([0.5, 0.7])
    assert found.sd == pytest.approx([0.0, 0.1])
    assert (found.n_seeds, found.complete) == (3, True)


def test_one_seed_has_no_standard_deviation(tmp_path):
    found = curve("BADGE", runs_of(tmp_path, (0.5, 0.6)), "accuracy")
    assert all(map(math.isnan, found.sd))


def test_finished_runs_stand_alone_and_unfinished_ones_as_far_as_all_of_them_are(tmp_path):
    unfinished = runs_of(tmp_path / "a", rising(4)[:4], rising(4)[:3], [], n_round=4)
    found = curve("BADGE", unfinished, "accuracy")
    assert (found.n_labeled.tolist(), found.n_seeds, found.complete) == ([100, 150, 200], 2, False)
    finished = runs_of(tmp_path / "b", rising(4))
    found = curve("BADGE", [*unfinished, *finished], "accuracy")
    assert (len(found.mean), found.n_seeds, found.complete) == (5, 1, True)
    assert curve("BADGE", unfinished[2:], "accuracy") is None


def test_runs_that_measured_a_column_stand_alone(tmp_path):
    runs = runs_of(tmp_path, [0.4, 0.6], [0.4, 0.7], [0.4, 0.8])
    for r in runs[1].committed:
        r.metrics["accuracy"] = math.nan
    assert [r.seed for r in runs_shown(runs, "accuracy")] == [0, 2]
    assert [r.seed for r in runs_shown(runs, "f1")] == [0, 1, 2]
    assert curve("BADGE", runs, "accuracy").mean == pytest.approx([0.4, 0.7])
    assert [r.seed for r in runs_shown(runs[1:2], "accuracy")] == [1]


def test_curves_come_in_the_order_of_their_ends(tmp_path):
    for name, end in (("A", 0.6), ("B", 0.8), ("C", 0.7)):
        write_run(tmp_path, name, 1, [0.5, end])
    (setting,), _ = group(find_runs(tmp_path)[0])
    assert [c.label for c in curves_of(setting, "accuracy")] == ["B", "C", "A"]


def test_titles_and_scales_follow_from_the_metrics(monkeypatch):
    monkeypatch.setitem(METRICS, "a", Metric("a", lambda *_: 0.0, "Novelty", share=False, unit="nats"))
    monkeypatch.setitem(METRICS, "b", Metric("b", lambda *_: 0.0, "Count", share=False))
    assert [axis_title(c) for c in "ab"] == ["Novelty (nats)", "Count"]
    assert [column_scale(c) for c in ("a", "accuracy", "train_seconds")] == [1, 100, 1]
    assert axis_title("train_seconds") == "Training (s)"
    assert all(axis_title(c)[0].isupper() for c in round_columns())


def test_a_caption_counts_the_seeds(tmp_path):
    one, two = (curve("BADGE", runs_of(tmp_path / str(n), *[rising(2)] * n), "accuracy") for n in (1, 2))
    assert caption([one]) == "one seed each, so no band"
    assert caption([two, two]).startswith("mean of 2 seeds, band: ")
    assert caption([one, two]).startswith("mean over seeds, band: ")
