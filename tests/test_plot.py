"""plot.py: which figures it writes, what it prints, and what it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_results import rising, write_run

import plot
import report.figures
from report.curves import axis_title, curves_of
from report.figures_looks import looks
from runs.confusion import Confusion
from runs.format import SECONDS, round_columns
from runs.metrics import METRICS, Metric
from runs.outputs import LastRound, digest
from runs.reading import find_runs
from runs.settings import group

STRATEGIES = ("RandomSampling", "LeastConfidence", "MarginSampling")


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    for i, name in enumerate(STRATEGIES):
        for seed in (1, 2, 3):
            write_run(root, name, seed, rising(4, gain=0.01 * i, noise=0.004, seed=10 * seed + i))
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Writing figures takes most of the time of a test that reads only what is printed."""
    monkeypatch.setattr(report.figures, "save_figure", lambda _, stem: [stem])


@pytest.fixture
def novelty(results, monkeypatch):
    """A metric that was registered after the results were written."""
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda *_: 0.5, "Novelty", share=False, unit="nats"))


def output(capsys, *args):
    code = plot.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *args):
    code, out, err = output(capsys, *args)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def setting_of(root):
    (setting,), _ = group(find_runs(root)[0])
    return setting


def row_of(out, label):
    return next(line for line in out.splitlines() if line.startswith(label))


def measure(folder, metric, values):
    """Add a column to a run's rounds.csv."""
    path = folder / "rounds.csv"
    lines = zip(path.read_text().splitlines(), [metric, *values], strict=True)
    path.write_text("".join(f"{line},{value}\n" for line, value in lines))


# Figures and tables


def test_curves_are_written_as_png_and_pdf_and_printed_as_a_table(results, capsys):
    code, out, err = output(capsys, results)
    assert code == 0
    assert err == ""
    assert (results / "curves-accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "curves-accuracy.pdf").read_bytes().startswith(b"%PDF")
    assert "CIFAR10, 100 + 4 x 50 labels, SmallCNN" in out
    row = row_of(out, "MarginSampling").split()
    curves = [rising(4, gain=0.02, noise=0.004, seed=10 * s + 2) for s in (1, 2, 3)]
    finals = [100 * c[-1] for c in curves]
    assert row[:6] == ["MarginSampling", "3", "300", f"{np.mean(finals):.2f}", "±", f"{np.std(finals, ddof=1):.2f}"]
    assert row[6] == f"{100 * np.mean([np.trapezoid(c) / 4 for c in curves]):.2f}"


def test_the_same_results_give_the_same_bytes(results, tmp_path, capsys):
    for name in ("a", "b"):
        output(capsys, results, "--out", tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_figure_is_the_same_whatever_the_folders_are_called(results, tmp_path):
    moved = tmp_path / "moved"
    for i, path in enumerate(sorted(results.rglob("rounds.csv"), reverse=True)):
        shutil.copytree(path.parent, moved / f"x{i}")
    ours, theirs = (curves_of(setting_of(root), "accuracy") for root in (results, moved))
    assert [(c.label, c.mean.tolist()) for c in ours] == [(c.label, c.mean.tolist()) for c in theirs]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("column", round_columns())
def test_every_column_of_rounds_csv_can_be_drawn(results, capsys, column):
    assert output(capsys, results, "--column", column)[::2] == (0, "")
    curves = curves_of(setting_of(results), column)
    assert len(curves) == 3
    fig = report.figures.draw_curves(curves, column, looks(STRATEGIES), "title")
    assert fig.axes[0].get_ylabel() == axis_title(column)
    assert axis_title(column).endswith(" (s)") == (column in SECONDS)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "change",
    [{"n_query": 60}, {"n_init_labeled": 90}, {"lr": 0.2}, {"data_digest": "other"}, {"dataset_name": "Digits"}],
)
def test_other_budgets_recipes_and_datasets_are_drawn_apart(results, capsys, change):
    write_run(results, "MarginSampling", 4, rising(4), **change)
    code, out, _ = output(capsys, results)
    assert code == 0
    assert sorted(line.split()[1] for line in out.splitlines() if line.startswith("MarginSampling")) == ["1", "3"]
    assert out.endswith(f"written: {results}/curves-accuracy-1, {results}/curves-accuracy-2\n")
    assert "one figure each, never averaged together" in out
    if "dataset_name" not in change:
        (key,) = change
        assert f"CIFAR10: {key} is " in out


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_run_is_left_out_of_the_mean_and_named(results, capsys):
    path = write_run(results, "MarginSampling", 4, [0.1, 0.1], n_round=4)
    code, out, err = output(capsys, results)
    assert code == 0
    assert err == f"note: {path}: MarginSampling, seed 4 has 2 of 5 rounds\n"
    assert row_of(out, "MarginSampling").split()[1] == "3"
    assert row_of(out, "MarginSampling").endswith("1 unfinished run left out")


@pytest.mark.usefixtures("undrawn")
def test_a_strategy_with_unfinished_runs_alone_is_drawn_up_to_their_common_round(results, capsys):
    for seed, n in ((1, 4), (2, 3)):
        write_run(results, "BADGE", seed, rising(4)[:n], n_round=4)
    write_run(results, "TypiClust", 1, [], n_round=4)
    curves = {c.label: c for c in curves_of(setting_of(results), "accuracy")}
    assert curves["BADGE"].n_labeled.tolist() == [100, 150, 200]
    assert not curves["BADGE"].complete
    assert "TypiClust" not in curves
    code, out, _ = output(capsys, results)
    assert code == 0
    assert row_of(out, "BADGE").split()[:3] == ["BADGE", "2", "200"]
    assert row_of(out, "BADGE").endswith("unfinished: so far")
    assert row_of(out, "TypiClust").split()[:4] == ["TypiClust", "0", "-", "-"]


@pytest.mark.usefixtures("undrawn")
def test_runs_without_a_round_draw_nothing(tmp_path, capsys):
    write_run(tmp_path, "BADGE", 1, [], n_round=4)
    code, out, err = output(capsys, tmp_path)
    assert code == 0
    assert out.endswith("nothing was drawn\n")
    assert "no round is done yet, so there is nothing to draw" in err


@pytest.mark.usefixtures("undrawn", "novelty")
def test_a_column_that_older_runs_lack_is_not_measured_in_one_line(results, capsys):
    code, out, err = output(capsys, results, "--column", "novelty")
    assert code == 0
    assert err.endswith("novelty is not measured in the runs of RandomSampling, LeastConfidence, MarginSampling\n")
    assert err.count("\n") == 1
    assert "not measured" in row_of(out, "MarginSampling")
    assert out.endswith("nothing was drawn\n")


@pytest.mark.usefixtures("novelty")
def test_runs_that_measured_a_column_are_drawn_without_those_that_did_not(results, capsys):
    folders = sorted(results.rglob("MarginSampling/seed*"))
    for folder, final in zip(folders[:2], (0.5, 0.7), strict=True):
        measure(folder, "novelty", [0.1, 0.2, 0.3, 0.4, final])
    code, out, err = output(capsys, results, "--column", "novelty")
    assert code == 0
    assert err.endswith("novelty is not measured in the runs of RandomSampling, LeastConfidence\n")
    row = row_of(out, "MarginSampling").split()
    assert row[:6] == ["MarginSampling", "2", "300", "0.6", "±", "0.141"]
    assert (results / "curves-novelty.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_copy_of_a_run_does_not_count_twice(results, capsys):
    first = next(p.parent for p in results.rglob("rounds.csv"))
    shutil.copytree(first, results / "copy")
    code, out, err = output(capsys, results)
    assert code == 0
    assert "is the same experiment as" in err
    assert row_of(out, first.parent.name).split()[1] == "3"


def test_one_run_gives_its_curve_and_its_confusion_matrix(results, capsys):
    folder = next(results.rglob("rounds.csv")).parent
    assert output(capsys, folder)[0] == 0
    assert {p.name for p in folder.glob("*.p*")} == {
        f"{n}.{k}" for n in ("curves-accuracy", "confusion_matrix") for k in ("png", "pdf")
    }


def test_both_figures_of_one_run_go_where_out_says(results, tmp_path, capsys):
    folder = next(results.rglob("rounds.csv")).parent
    assert output(capsys, folder, "--out", tmp_path / "x.png")[0] == 0
    assert {p.name for p in tmp_path.glob("*.p*")} == {
        f"{n}.{k}" for n in ("x", "x-confusion_matrix") for k in ("png", "pdf")
    }


def test_odd_names_are_drawn_as_they_are(tmp_path, capsys):
    name = "A$b_{c}$<&> 杂草"
    folder = write_run(tmp_path, "RandomSampling", 1, rising(2), classes=[name, "_b", "$"], net_name=name)
    assert output(capsys, folder)[::2] == (0, "")


def test_a_title_need_not_be_text(results, capsys):
    write_run(results, "RandomSampling", 1, rising(4), dataset_name="bad\udcff\udcfe")
    assert output(capsys, results)[0] == 0


def test_out_may_be_a_name_with_ending_or_a_folder(results, tmp_path, capsys):
    for out, written in (("x.y", "x.y.png"), ("new/z.png", "new/z.png"), (".", "curves-f1.png")):
        assert output(capsys, results, "--column", "f1", "--out", tmp_path / out)[0] == 0
        assert (tmp_path / written).exists()


# Mistakes and damage


def test_bad_input_gets_one_line(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refused(capsys, tmp_path / "none")
    assert "no run below it" in refused(capsys, tmp_path / "empty")
    message = refused(capsys, results, "--column", "acuracy")
    assert f"--column acuracy: rounds.csv has {', '.join(round_columns())}" in message
    assert "not the folder of one run" in refused(capsys, "--confusion", results)
    assert "give a folder" in refused(capsys)
    for flags in (["--colum", "f1"], ["--bogus"], ["--out"]):
        with pytest.raises(SystemExit) as left:
            plot.main([str(results), *flags])
        assert left.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    folder = next(results.rglob("rounds.csv")).parent
    (folder / "confusion_matrix.csv").unlink()
    assert "no such file; a run writes it when a round is done" in refused(capsys, "--confusion", folder)
    (tmp_path / "file").write_text("")
    code, _, err = output(capsys, results, "--out", tmp_path / "file" / "x")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(("n_classes", "drawn"), [(400, True), (5000, False)])
def test_a_confusion_matrix_of_very_many_classes_becomes_a_list(results, capsys, n_classes, drawn):
    folder = next(results.rglob("rounds.csv")).parent
    names, labels = [f"c{i}" for i in range(n_classes)], np.arange(n_classes)
    predicted = np.where(labels == 7, 3, labels)
    (folder / "confusion_matrix.csv").write_text(Confusion.counted(names, labels, predicted).text())
    code, out, err = output(capsys, "--confusion", folder)
    assert (code, err) == (0, "")
    assert bool(list(folder.glob("confusion_matrix.p*"))) == drawn
    if not drawn:
        assert "5,000 classes are too many for a figure" in out
        assert f"accuracy {100 * 4999 / 5000:.2f} %" in out
        assert re.search(r"c7 +c3 +1 of 1\n", out)


def test_a_confusion_matrix_of_another_round_says_so(results, capsys):
    folder = next(results.rglob("rounds.csv")).parent
    content = (folder / "confusion_matrix.csv").read_bytes()
    (folder / "last_round.json").write_text(LastRound(2, {"confusion_matrix.csv": digest(content)}).text())
    code, _, err = output(capsys, "--confusion", folder)
    assert code == 0
    assert "confusion_matrix.csv shows round 2; the last one in use is 4" in err
    (folder / "confusion_matrix.csv").write_bytes(content + b"\n")
    assert "is not the one that last_round.json describes" in refused(capsys, "--confusion", folder)


def test_a_damaged_confusion_matrix_is_named(results, capsys):
    folder = next(results.rglob("rounds.csv")).parent
    (folder / "confusion_matrix.csv").write_text("x,a,b\na,1,2\n")
    assert "confusion_matrix.csv is damaged" in refused(capsys, "--confusion", folder)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("name", "content"), [("rounds.csv", "\x00\x01\n\x02\n"), ("config.json", "{")])
def test_a_damaged_run_is_named_and_the_others_are_drawn(results, capsys, name, content):
    path = write_run(results, "BADGE", 1, rising(4)) / name
    path.write_text(content)
    code, out, err = output(capsys, results)
    assert code == 0
    assert str(path) in err
    assert err.count("\n") == 1
    assert "MarginSampling" in out
    assert "BADGE" not in out


@pytest.mark.usefixtures("undrawn")
def test_rounds_without_settings_are_named(results, capsys):
    next(results.rglob("config.json")).unlink()
    code, _, err = output(capsys, results)
    assert code == 0
    assert "config.json is missing" in err


def test_an_unreadable_folder_of_one_strategy_only_shows_what_is_wrong(tmp_path, capsys):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(4))
    (folder / "rounds.csv").write_text("nonsense\n")
    assert str(folder / "rounds.csv") in refused(capsys, tmp_path)


# As a command


def run_script(*args, **env):
    command = [sys.executable, plot.__file__, *map(str, args)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_the_script_runs_from_the_command_line(results):
    done = run_script(results, MPLBACKEND="TkAgg")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.dumps(str(results / "curves-accuracy.png"))[1:-1] in done.stdout


def test_a_stdout_without_umlauts_is_written_to(results):
    done = run_script(results, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xb1" in done.stdout


def test_help_and_mistakes_need_neither_matplotlib_nor_torch():
    program = "import sys, plot; print(plot.main(['nowhere'])); print({'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(plot.__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.stdout == "2\nset()\n"
    assert done.stderr.startswith("error: nowhere")
