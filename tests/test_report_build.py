"""The report as a tree: plain values that every view shows."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from fake_results import confusion as fake_confusion
from fake_results import rising, three_strategies, write_run

import report.build
from images.digits import digit_images
from report.build import make_report
from report.comparison import BETTER
from report.confusions import confusion
from report.curves import Curve
from report.picks import MOST_CLASSES, MOST_COLUMNS, MOST_PICTURES, picks_by_class
from report.statistics import aubc
from report.tree import Matrix, TextTable
from runs.confusion import Confusion
from runs.metrics import METRICS, Metric
from runs.reading import Picks, read_picks, read_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return three_strategies(tmp_path_factory.mktemp("three") / "results")


def tree_of(root, metric="accuracy", data_dir=Path("nowhere")):
    return make_report(root, METRICS[metric], data_dir)


def leaves(value):
    """All values of a tree."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, dict):
        for pair in value.items():
            yield from leaves(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_the_tree_has_the_numbers_of_the_runs(results):
    (section,) = tree_of(results).sections
    heights = [
        [aubc(np.arange(100, 301, 50), np.array(rising(4, gain=g, noise=0.004, seed=10 * s + i))) for s in range(1, 6)]
        for i, g in ((0, 0.0), (2, 0.04))
    ]
    gain = np.mean(heights[1]) - np.mean(heights[0])
    row = next(r for r in section.rows if r.label == "EntropySampling")
    assert row.gain.mean == pytest.approx(gain)
    assert [r.label for r in section.rows] == ["EntropySampling", "MarginSampling", "RandomSampling"]
    assert section.counts == "Of 2 strategies: 2 better than random"
    assert [(v.label, v.verdict) for v in section.verdicts] == [("EntropySampling", BETTER), ("MarginSampling", BETTER)]
    assert section.verdicts[0].numbers.startswith(f"AUBC {100 * gain:+.2f} [")
    assert section.table.header[:4] == ["strategy", "verdict", "seeds", "AUBC % [95 %]"]
    assert section.table.rows[0][:3] == ["EntropySampling", BETTER, "5"]
    assert section.table.rows[0][5] == f"{100 * gain:+.2f} [{100 * row.gain.low:+.2f}, {100 * row.gain.high:+.2f}]"
    assert section.table.rows[-1][5:9] == ["-", "-", "-", "-"]
    assert [c.label for c in section.charts.curves] == ["EntropySampling", "MarginSampling", "RandomSampling"]
    assert section.charts.gains[0].mean == pytest.approx(100 * gain)
    assert section.charts.gain_axis == "Gain in AUBC over RandomSampling, percentage points"
    assert section.charts.caption.startswith("mean of 5 seeds, band")


def test_the_tree_holds_nothing_but_plain_values(results):
    kinds = {type(leaf) for leaf in leaves(tree_of(results))}
    assert kinds <= {str, int, float, bool, bytes, type(None), np.ndarray}


def test_without_a_data_folder_no_file_but_the_rounds_is_read(results, monkeypatch):
    monkeypatch.setattr("runs.reading.read_picks", None)
    (section,) = make_report(results, METRICS["accuracy"]).sections
    assert (section.details, section.no_details) == (None, "")


def test_every_number_of_other_metrics_and_settings_is_there(results):
    (section,) = tree_of(results).sections
    header, first = section.other_metrics.header, section.other_metrics.rows[0]
    assert header[1] == "final gain in accuracy, points [95 %]"
    assert first[header.index("final f1 %")] == f"{100 * (section.rows[0].final.mean - 0.01):.2f}"
    assert first[header.index("query seconds")] == "8.0"
    settings = dict(section.settings.rows)
    assert (settings["data_digest"], settings["n_labeled"]) == ("0f3a9c21", "100, 150, 200, 250, 300")
    assert settings["packages"] == "{'torch': '2.11'}"


# Several sections


def test_budgets_and_recipes_are_kept_apart_and_the_difference_is_noted(tmp_path):
    three_strategies(tmp_path / "r")
    write_run(tmp_path / "r", "MarginSampling", 1, rising(4), lr=0.5)
    tree = tree_of(tmp_path / "r")
    assert tree.differences[0] == "2 tables: runs of different datasets, budgets or recipes are never mixed."
    assert "CIFAR10: lr is 0.1 in 1, 0.5 in 2" in tree.differences
    assert [len(s.rows) for s in tree.sections] == [3, 1]
    assert tree.sections[1].title.startswith("2. CIFAR10")
    assert tree.sections[1].notes[0].startswith("No finished RandomSampling run has these settings")
    assert tree.sections[1].counts == "Nothing to compare"


def test_an_unfinished_run_is_named_and_kept_out_of_the_numbers(tmp_path):
    three_strategies(tmp_path / "r")
    (before,) = tree_of(tmp_path / "r").sections
    folder = write_run(tmp_path / "r", "MarginSampling", 6, [0.4, 0.99], n_round=4)
    (after,) = tree_of(tmp_path / "r").sections
    assert after.notes == [f"Left out, not finished: MarginSampling, seed 6: 2 of 5 rounds ({folder})."]
    assert after.table == before.table
    assert [r.n_unfinished for r in after.rows] == [0, 1, 0]


def test_only_unfinished_runs_give_curves_and_no_table(tmp_path):
    write_run(tmp_path / "r", "RandomSampling", 1, [0.4], n_round=4)
    write_run(tmp_path / "r", "MarginSampling", 1, [], n_round=4)
    (section,) = tree_of(tmp_path / "r").sections
    assert section.notes[0] == "No run is finished, so nothing can be compared."
    assert "MarginSampling, seed 1: 0 of 5 rounds" in section.notes[2]
    assert (section.table, section.beats, section.settings, section.details) == (None,) * 4
    assert [c.label for c in section.charts.curves] == ["RandomSampling"]


def test_details_are_left_out_where_a_page_would_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(report.build, "MOST_DETAILS", 2)
    for d in range(3):
        for name in ("RandomSampling", "MarginSampling"):
            write_run(tmp_path / "r", name, 1, rising(2), dataset_name=f"d{d}", queries=True)
    sections = tree_of(tmp_path / "r").sections
    assert [s.details is not None for s in sections] == [True, False, False]
    assert [bool(s.no_details) for s in sections] == [False, True, True]


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    root = three_strategies(tmp_path / "r")
    broken = max(root.glob("CIFAR10/MarginSampling/seed*"))
    (broken / "rounds.csv").write_text("round\n")
    (seed1,) = root.glob("CIFAR10/EntropySampling/seed1-*")
    (seed1 / "queries.csv").write_text("round,rank,index,path,label\n0,0,zero,a,b\n0,1,1,a,b\n")
    (seed1 / "confusion_matrix.csv").write_text("x,a\n")
    tree = tree_of(root)
    (section,) = tree.sections
    assert len(tree.problems) == 1
    assert str(broken / "rounds.csv") in tree.problems[0]
    assert [line.partition("; its")[2] for line in tree.unreadable] == [
        " picks are not shown",
        " confusion matrix is not shown",
    ]
    assert str(seed1 / "queries.csv") in tree.unreadable[0]
    assert [len(r.seeds) for r in section.rows] == [5, 4, 5]
    assert list(section.details.choices.classes) == ["MarginSampling", "RandomSampling"]
    assert list(section.details.confusions.found) == ["MarginSampling", "RandomSampling"]


# Metrics


def test_another_metric_is_compared_on_request(results):
    tree = tree_of(results, "f1")
    assert (tree.metric, tree.subject) == ("f1", "f1 on the test set")
    (accuracy,), (f1,) = tree_of(results).sections, tree.sections
    assert f1.rows[0].final.mean == pytest.approx(accuracy.rows[0].final.mean - 0.01)
    assert f1.rows[0].gain == pytest.approx(accuracy.rows[0].gain)


def test_a_metric_in_a_unit_is_shown_in_it(results):
    tree = tree_of(results, "nll")
    (section,) = tree.sections
    assert tree.subject == "nll on the test set (lower is better)"
    assert section.table.header[3:6] == ["AUBC nats [95 %]", "final nats ± sd", "gain, nats [95 %]"]
    row = section.rows[0]
    assert section.table.rows[0][4] == f"{row.final.mean:.4g} ± {row.final_sd:.4g}"
    assert section.verdicts[0].numbers.startswith(f"gain in AUBC {row.gain.mean:+.3g} [")
    assert " nats, p " in section.verdicts[0].numbers
    assert section.charts.gain_axis == "Gain in AUBC over RandomSampling, nats"
    assert section.charts.gains[0].mean == row.gain.mean
    assert any("AUBC of RandomSampling minus that of the strategy" in line for line in tree.reading)


@pytest.fixture
def extra_metric(monkeypatch):
    """A metric registered after the runs were written."""
    metric = Metric("sharpness", lambda probs, labels: 0.0, "Sharpness", share=False, higher_is_better=False)
    monkeypatch.setitem(METRICS, "sharpness", metric)
    return metric


def test_a_metric_that_older_runs_lack_is_not_measured_in_tables(results, extra_metric):
    (section,) = tree_of(results).sections
    column = section.other_metrics.header.index("final sharpness")
    assert {line[column] for line in section.other_metrics.rows} == {"not measured"}
    tree = make_report(results, extra_metric, Path("nowhere"))
    assert (tree.sections[0].rows, tree.sections[0].charts) == ([], None)
    assert tree.sections[0].notes[0] == "No run is finished and measured sharpness, so nothing can be compared."


def test_a_registered_metric_is_compared_and_shown_without_any_change(tmp_path, extra_metric):
    root = three_strategies(tmp_path / "r")
    for path in root.rglob("RandomSampling/seed1-*/rounds.csv"):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        column = lines[0].index("sharpness")
        path.write_text("".join(",".join(line[:column] + line[column + 1 :]) + "\n" for line in lines))
    (section,) = make_report(root, extra_metric, Path("nowhere")).sections
    assert section.table.header[3] == "AUBC [95 %]"
    assert section.table.header[5] == "gain [95 %]"
    assert [r.label for r in section.rows] == ["RandomSampling", "MarginSampling", "EntropySampling"]  # lower is better
    assert [len(r.seeds) for r in section.rows] == [4, 5, 5]
    assert "Left out, sharpness not measured in every round: RandomSampling, seed 1" in section.notes[-1]
    (section,) = tree_of(root).sections
    column = section.other_metrics.header.index("final sharpness")
    cells = {line[0]: line[column] for line in section.other_metrics.rows}
    assert re.fullmatch(r"0\.\d+ \(4 of 5 seeds\)", cells["RandomSampling"])
    assert float(cells["EntropySampling"]) == pytest.approx(section.rows[0].final.mean, rel=1e-2)


# Picks and confusion matrices


def test_picks_end_with_the_rounds_requested(tmp_path):
    folder = write_run(tmp_path, "MarginSampling", 1, rising(5), n_round=2, queries=True)
    picks = read_picks(read_run(folder))
    assert picks.rounds.max() == 2
    assert len(picks.paths) == 200


def test_overlap_counts_what_was_chosen_after_the_first_labels(results):
    (section,) = tree_of(results).sections
    choices = section.details.choices
    assert choices.seed == 1
    assert choices.overlap.header == ["", "1", "2", "3"]
    assert [line[0] for line in choices.overlap.rows] == ["1 EntropySampling", "2 MarginSampling", "3 RandomSampling"]
    assert [choices.overlap.rows[i][1 + i] for i in range(3)] == ["100.00"] * 3
    shares = [float(choices.overlap.rows[0][2]), float(choices.overlap.rows[0][3])]
    assert max(shares) < 15  # chance, though all share their first 100 labels
    assert choices.overlap_text.endswith("Two random draws would share 5.56 %.")  # 200 / (2 * 1900 - 200)


def test_pictures_are_shown_where_the_images_are(results, tmp_path):
    from PIL import Image

    (before,) = tree_of(results, data_dir=tmp_path).sections
    assert before.details.choices.missing == f"The images are not in {tmp_path}, so none are shown (--data_dir)."
    first = before.details.choices.first["MarginSampling"]
    assert len(first) == MOST_PICTURES
    for pick in first[:5]:
        file = tmp_path / "CIFAR10" / pick.path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (90, 20, 30)).save(file)
    (tmp_path / "CIFAR10" / first[7].path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "CIFAR10" / first[7].path).write_text("no image")
    (after,) = tree_of(results, data_dir=tmp_path).sections
    assert after.details.choices.missing == ""
    jpegs = [p.jpeg for p in after.details.choices.first["MarginSampling"]]
    assert [j is not None for j in jpegs] == [True] * 5 + [False] * 15
    assert all(j.startswith(b"\xff\xd8") for j in jpegs[:5])


def test_digits_are_shown_without_files(tmp_path):
    _, labels, paths = digit_images(8)
    for name in ("RandomSampling", "MarginSampling"):
        config = {"dataset_name": "Digits", "n_init_labeled": 50, "n_train": 1400, "img_size": 8}
        folder = write_run(tmp_path / "r", name, 1, rising(1), **config)
        lines = [f"{r},{k},{50 * r + k},{paths[50 * r + k]},{labels[50 * r + k]}" for r in (0, 1) for k in range(50)]
        (folder / "queries.csv").write_text("\n".join(["round,rank,index,path,label", *lines, ""]))
    (section,) = tree_of(tmp_path / "r", data_dir=tmp_path).sections
    first = section.details.choices.first["MarginSampling"]
    assert len(first) == MOST_PICTURES
    assert all(p.jpeg for p in first)
    assert first[0].path == paths[50]


def test_picks_of_each_class_are_counted_and_shaded_by_their_share_of_the_round():
    rounds = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    labels = ["cat", "dog", "dog", "cat", "cat", "owl", "dog", "dog"]
    matrix = picks_by_class(Picks(rounds, np.arange(8), ["x"] * 8, labels))
    assert (matrix.rows, matrix.columns) == (["cat", "dog", "owl"], ["first", "1", "2"])
    assert matrix.values.tolist() == [[1, 2, 0], [2, 0, 2], [0, 0, 1]]
    assert matrix.shade == pytest.approx(np.array([[1 / 3, 1, 0], [2 / 3, 0, 2 / 3], [0, 0, 1 / 3]]))


def test_many_rounds_and_classes_stay_one_small_matrix():
    rounds = np.repeat(np.arange(100), 50)
    labels = [f"c{i % 50:02d}" for i in range(len(rounds))]
    matrix = picks_by_class(Picks(rounds, np.arange(len(rounds)), ["x"] * len(rounds), labels))
    assert matrix.values.shape == (MOST_CLASSES, MOST_COLUMNS + 1)
    assert (matrix.columns[1], matrix.columns[-1]) == ("1-5", "96-99")
    assert (matrix.values[:, 1] == 5).all()


def test_a_confusion_matrix_is_shaded_by_the_share_of_the_true_class():
    matrix = confusion(Confusion.of_matrix(["a", "b"], np.array([[3, 1], [0, 0]])))
    assert isinstance(matrix, Matrix)
    assert (matrix.rows, matrix.values.tolist()) == (["a", "b"], [[3, 1], [0, 0]])
    assert matrix.shade.tolist() == [[0.75, 0.25], [0, 0]]


def test_many_classes_become_a_list_of_confusions():
    classes = [f"c{i:03d}" for i in range(60)]
    counts = np.array([line[1:] for line in fake_confusion(classes)])
    counts[7, 3] = 1234
    table = confusion(Confusion.of_matrix(classes, counts))
    assert isinstance(table, TextTable)
    assert len(table.rows) == 15
    assert table.rows[0] == ["c007", "c003", f"1,234 of {counts[7].sum():,}"]
    few = confusion(Confusion.of_matrix(classes, np.diag(np.full(60, 5)) + np.eye(60, k=59, dtype=np.int64)))
    assert few.rows == [["c000", "c059", "1 of 6"]]  # no pair that never occurred


def test_curves_leave_out_runs_that_did_not_measure(tmp_path):
    from report.curves import curve

    runs = [read_run(write_run(tmp_path, "A", s, [0.4, 0.5 + s / 10])) for s in (1, 2)]
    for r in runs[1].committed:
        r.metrics["accuracy"] = math.nan
    found = curve("A", runs, "accuracy")
    assert isinstance(found, Curve)
    assert (found.n_seeds, found.mean.tolist()) == (1, [0.4, 0.6])
