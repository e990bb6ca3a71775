import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from fake_results import CONFIG, rising, write_run

import plot
import runs
from utils import ROUND_COLUMNS, Round, RunFolder, UserError

EIGHT = (
    "RandomSampling",
    "LeastConfidence",
    "MarginSampling",
    "EntropySampling",
    "UncertaintySamplingWithDropoutEstimation",
    "BayesianActiveLearningDisagreement",
    "ClusterBasedSelection",
    "AdversarialMargin",
)


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    for i, name in enumerate(EIGHT[:3]):
        for seed in (1, 2, 3):
            write_run(root, name, seed, rising(4, gain=0.01 * i, noise=0.004, seed=10 * seed + i))
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures cost most of the time of a test that reads only what is said."""
    monkeypatch.setattr(plot, "save", lambda fig, stem: plot.plt.close(fig) or [stem])


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
    (setting,), _ = runs.group(runs.find_runs(root)[0])
    return setting


def test_curves_are_written_as_png_and_pdf_and_told_in_a_table(results, capsys):
    code, out, err = output(capsys, results)
    assert code == 0
    assert err == ""
    assert (results / "curves-accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "curves-accuracy.pdf").read_bytes().startswith(b"%PDF")
    assert "CIFAR10, 100 + 4 x 50 labels, SmallCNN" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("MarginSampling"))
    finals = [100 * rising(4, gain=0.02, noise=0.004, seed=10 * s + 2)[-1] for s in (1, 2, 3)]
    assert row[:6] == ["MarginSampling", "3", "300", f"{np.mean(finals):.2f}", "±", f"{np.std(finals, ddof=1):.2f}"]


def test_the_same_results_give_the_same_bytes(results, tmp_path, capsys):
    for name in ("a", "b"):
        output(capsys, results, "--out", tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("column", [c for c in ROUND_COLUMNS if c != "accuracy"])
def test_every_column_of_rounds_csv_can_be_drawn(results, capsys, column):
    assert column in plot.TITLES
    curves = plot.curves_of(setting_of(results), column)
    assert len(curves) == 3
    plot.plt.close(plot.draw_curves(curves, column, "title", plot.looks(EIGHT)))


def test_a_curve_is_the_mean_over_seeds_with_the_sample_standard_deviation(tmp_path):
    for seed, accuracy in enumerate([(0.5, 0.6), (0.5, 0.7), (0.5, 0.8)]):
        write_run(tmp_path, "RandomSampling", seed, accuracy)
    curve = runs.curve("RandomSampling", setting_of(tmp_path).runs["RandomSampling"], "accuracy")
    assert curve.n_labeled.tolist() == [100, 150]
    assert curve.mean == pytest.approx([0.5, 0.7])
    assert curve.sd == pytest.approx([0.0, 0.1])
    assert curve.n_seeds == 3


def test_aubc_is_the_mean_height_by_the_trapezoid_rule():
    # (0.5 + 0.7) / 2 over 100 labels and (0.7 + 0.8) / 2 over 300: (60 + 225) / 400
    assert runs.aubc(np.array([100, 200, 500]), np.array([0.5, 0.7, 0.8])) == pytest.approx(0.7125)
    assert runs.aubc(np.array([100]), np.array([0.5])) == 0.5
    assert runs.aubc(np.array([100, 200, 500]), np.array([0.5, 0.7, np.nan])) == pytest.approx(0.6)


def test_seconds_of_a_query_that_did_not_happen_are_no_zero(results):
    run = setting_of(results).runs["RandomSampling"][0]
    assert run.values("query_seconds")[:-1].tolist() == [2.0] * 4
    assert np.isnan(run.values("query_seconds")[-1])


def test_reading_agrees_with_the_folder_that_the_program_writes(tmp_path):
    config = {**CONFIG, "strategy_name": "RandomSampling", "seed": 7, "n_train": 200}
    folder = RunFolder(tmp_path, config)
    for r in range(2):
        folder.commit(Round(r, 100 + 50 * r, dict.fromkeys(runs.METRICS, 0.5 + 0.1 * r), 1.0, 1.0, 1.0), [])
    folder.write_environment({"n_round": 2})
    folder.close()
    (run,), problems = runs.find_runs(tmp_path)
    assert (run.seed, run.n_labeled.tolist(), problems) == (7, [100, 150], [])
    assert run.values("accuracy").tolist() == [0.5, 0.6]
    assert not run.complete
    assert run.budget == (100, 150, 200)


@pytest.mark.parametrize(
    ("n_round", "n_train", "complete"), [(4, 2000, True), (5, 2000, False), (9, 300, True), (2, 2000, True)]
)
def test_a_run_is_complete_when_its_rounds_stand_or_nothing_is_left_to_label(tmp_path, n_round, n_train, complete):
    write_run(tmp_path, "RandomSampling", 1, rising(4), n_round=n_round, n_train=n_train)
    assert runs.find_runs(tmp_path)[0][0].complete is complete


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "change",
    [{"n_query": 60}, {"n_init_labeled": 90}, {"lr": 0.2}, {"data_digest": "other"}, {"dataset_name": "Digits"}],
)
def test_other_budgets_recipes_and_datasets_are_never_averaged(results, capsys, change):
    write_run(results, "MarginSampling", 4, rising(4), **change)
    settings, _ = runs.group(runs.find_runs(results)[0])
    assert sorted(len(s.runs.get("MarginSampling", [])) for s in settings) == [1, 3]
    code, out, _ = output(capsys, results)
    assert code == 0
    assert out.endswith(f"written: {results}/curves-accuracy-1, {results}/curves-accuracy-2\n")
    assert "one figure each, never averaged together" in out
    if "dataset_name" not in change:
        (key,) = change
        assert f"CIFAR10: {key} is " in out


def test_a_longer_run_is_another_budget(results):
    write_run(results, "MarginSampling", 4, rising(6))
    settings, _ = runs.group(runs.find_runs(results)[0])
    assert [s.config["n_round"] for s in settings] == [4, 6]
    assert "CIFAR10: n_round is 4 in 1, 6 in 2" in runs.differences(settings)


def test_arguments_of_a_strategy_make_two_curves_and_are_said(tmp_path):
    for k in (10, 50):
        write_run(tmp_path, "BayesianActiveLearningDisagreement", 1, rising(2), strategy_args={"n_drop": k, "x": 1})
    write_run(tmp_path, "RandomSampling", 1, rising(2))
    assert list(setting_of(tmp_path).runs) == [
        "RandomSampling",
        "BayesianActiveLearningDisagreement(n_drop=10)",
        "BayesianActiveLearningDisagreement(n_drop=50)",
    ]


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_run_is_left_out_of_the_mean_and_named(results, capsys):
    path = write_run(results, "MarginSampling", 4, [0.1, 0.1], n_round=4)
    curve = runs.curve("MarginSampling", setting_of(results).runs["MarginSampling"], "accuracy")
    assert (curve.n_seeds, len(curve.mean), curve.complete) == (3, 5, True)
    code, out, err = output(capsys, results)
    assert code == 0
    assert f"{path}: MarginSampling, seed 4 has 2 of 5 rounds" in err
    row = next(line for line in out.splitlines() if line.startswith("MarginSampling"))
    assert row.split()[1] == "3"
    assert row.endswith("1 unfinished run left out")


@pytest.mark.usefixtures("undrawn")
def test_a_strategy_with_unfinished_runs_alone_is_drawn_up_to_their_common_round(results, capsys):
    for seed, n in ((1, 4), (2, 3)):
        write_run(results, "BADGE", seed, rising(4)[:n], n_round=4)
    write_run(results, "TypiClust", 1, [], n_round=4)
    setting = setting_of(results)
    curves = {c.label: c for c in plot.curves_of(setting, "accuracy")}
    assert curves["BADGE"].n_labeled.tolist() == [100, 150, 200]
    assert not curves["BADGE"].complete
    assert "TypiClust" not in curves
    code, out, _ = output(capsys, results)
    assert code == 0
    assert next(line for line in out.splitlines() if line.startswith("BADGE")).endswith("unfinished: so far")


@pytest.mark.usefixtures("undrawn")
def test_a_copy_of_a_run_does_not_count_twice(results, capsys):
    first = next(p.parent for p in results.rglob("rounds.csv"))
    shutil.copytree(first, results / "copy")
    code, out, err = output(capsys, results)
    assert code == 0
    assert "is the same experiment as" in err
    assert next(line for line in out.splitlines() if line.startswith(first.parent.name)).split()[1] == "3"


def test_hidden_folders_are_ignored_links_followed_and_loops_survived(results, tmp_path, capsys):
    shutil.copytree(results / "CIFAR10", results / ".old")
    other = tmp_path / "scratch"
    write_run(other, "BADGE", 1, rising(4))
    (results / "linked").symlink_to(other)
    (results / "loop").symlink_to(results)
    found, problems = runs.find_runs(results)
    assert len(found) == 10
    assert problems == []


def test_a_figure_is_the_same_whatever_the_folders_are_called(results, tmp_path):
    moved = tmp_path / "moved"
    for i, path in enumerate(sorted(results.rglob("rounds.csv"), reverse=True)):
        shutil.copytree(path.parent, moved / f"x{i}")
    ours, theirs = (plot.curves_of(setting_of(root), "accuracy") for root in (results, moved))
    assert [(c.label, c.mean.tolist()) for c in ours] == [(c.label, c.mean.tolist()) for c in theirs]


def test_twelve_strategies_look_different_and_random_is_grey():
    looks = plot.looks([*EIGHT, "A", "B", "C", "D", "E"])
    seen = {(v.light, v.dash) for v in looks.values()}
    assert len(seen) == len(looks) == 13
    assert len({v.marker for v in looks.values()}) == 13
    assert looks["RandomSampling"].light == plot.NEUTRAL[0]
    assert plot.looks(["B"])["RandomSampling"] == looks["RandomSampling"]


def test_the_legend_stands_beside_the_axes(results):
    fig = plot.draw_curves(plot.curves_of(setting_of(results), "accuracy"), "accuracy", "t", plot.looks(EIGHT))
    fig.canvas.draw()
    (ax,) = fig.axes
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "MarginSampling",
        "LeastConfidence",
        "RandomSampling",
    ]
    plot.plt.close(fig)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_names_of_a_confusion_matrix_do_not_overlap(n):
    names = [f"Small-flowered Cranesbill {i}" for i in range(n)]
    fig = plot.draw_confusion(names, np.eye(n, dtype=np.int64), "title")
    fig.canvas.draw()
    for axis in (fig.axes[0].xaxis, fig.axes[0].yaxis):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels()]
        assert len(boxes) == n
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert min(t.get_fontsize() for t in axis.get_ticklabels()) >= 4.5
    plot.plt.close(fig)


def test_a_confusion_matrix_is_read_with_the_true_class_in_rows(tmp_path):
    (tmp_path / "confusion_matrix.csv").write_text('true\\predicted,"a,b",c\n"a,b",5,1\nc,0,3\n')
    classes, counts = runs.read_confusion(tmp_path / "confusion_matrix.csv")
    assert classes == ["a,b", "c"]
    assert counts.tolist() == [[5, 1], [0, 3]]


@pytest.mark.parametrize(
    "text", ["", "x,a,b\na,1,2\n", "x,a\nb,1\n", "x,a\na,one\n", "x,a\na,1,2\n", "x,a\na\n", "x,a\n\n"]
)
def test_a_damaged_confusion_matrix_is_named(results, capsys, text):
    folder = next(results.rglob("rounds.csv")).parent
    (folder / "confusion_matrix.csv").write_text(text)
    assert "confusion_matrix.csv is damaged" in refused(capsys, "--confusion", folder)


def test_one_run_gives_its_curve_and_its_confusion_matrix(results, capsys):
    folder = next(results.rglob("rounds.csv")).parent
    assert output(capsys, folder)[0] == 0
    assert {p.name for p in folder.glob("*.p*")} == {
        f"{n}.{k}" for n in ("curves-accuracy", "confusion_matrix") for k in ("png", "pdf")
    }


def test_odd_names_are_drawn_as_they_are(tmp_path, capsys):
    name = "A$b_{c}$<&> 杂草"
    folder = write_run(tmp_path, "RandomSampling", 1, rising(2), classes=[name, "_b", "$"], net_name=name)
    assert output(capsys, folder)[0] == 0


def test_out_may_be_a_name_with_ending_or_a_folder(results, tmp_path, capsys):
    for out, written in (("x.y", "x.y.png"), ("new/z.png", "new/z.png"), (".", "curves-f1.png")):
        assert output(capsys, results, "--column", "f1", "--out", tmp_path / out)[0] == 0
        assert (tmp_path / written).exists()


def test_bad_input_gets_one_line(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refused(capsys, tmp_path / "none")
    assert "no run below it" in refused(capsys, tmp_path / "empty")
    assert "--column acuracy: rounds.csv has round, n_labeled, accuracy" in refused(
        capsys, results, "--column", "acuracy"
    )
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rounds.csv", "round,n_labeled\n0,100\n"),
        ("rounds.csv", "\x00\x01\n\x02\n"),
        ("rounds.csv", None),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"dataset_name": "CIFAR10", "strategy_name": "BADGE", "seed": "one"}'),
        ("config.json", "{}"),
        ("config.json", "[" * 200_000),
        ("config.json", '{"dataset_name": "CIFAR10", "strategy_name": "BADGE", "seed": 1, "img_size": null}'),
        ("rounds.csv", "huge"),
        ("environment.json", '{"n_round": "ten"}'),
        ("environment.json", b"\xff\xfe"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_a_damaged_run_is_named_and_the_others_are_drawn(results, capsys, name, content):
    folder = write_run(results, "BADGE", 1, rising(4))
    path = folder / name
    if content is None:
        lines = path.read_text().splitlines()
        content = "\n".join([*lines[:2], lines[2].replace("150", "fifty"), *lines[3:], ""])
    if content == "huge":
        content = path.read_text().replace("250", "2" * 25)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = output(capsys, results)
    assert code == 0
    assert str(path) in err
    assert err.count("\n") == 1
    assert "MarginSampling" in out
    assert "BADGE" not in out


def test_only_the_rounds_asked_for_last_count(tmp_path):
    run = runs.read_run(write_run(tmp_path, "RandomSampling", 1, rising(6), n_round=3))
    assert len(run.rounds) == 4
    assert run.complete
    assert run.budget == (100, 150, 200, 250)


def test_more_rounds_to_come_than_anybody_means_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MOST_ROUNDS", 1000)
    folder = write_run(tmp_path, "RandomSampling", 1, rising(3), n_round=10**12)
    config = json.loads((folder / "config.json").read_text())
    del config["n_train"]
    (folder / "config.json").write_text(json.dumps(config))
    assert len(runs.read_run(folder).budget) == 1001


@pytest.mark.usefixtures("undrawn")
def test_a_stdout_without_umlauts_is_written_to(results):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    script = Path(plot.__file__)
    done = subprocess.run([sys.executable, script, results], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xb1" in done.stdout


def test_a_title_need_not_be_text(results, capsys):
    write_run(results, "RandomSampling", 1, rising(4), dataset_name="bad\udcff\udcfe")
    assert output(capsys, results)[0] == 0


def test_rounds_whose_labels_do_not_grow_are_damaged(tmp_path):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(2))
    path = folder / "rounds.csv"
    path.write_text(path.read_text().replace("2,200", "2,150"))
    with pytest.raises(UserError, match="n_labeled does not grow"):
        runs.find_runs(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_rounds_without_settings_are_named(results, capsys):
    (next(results.rglob("config.json"))).unlink()
    code, _, err = output(capsys, results)
    assert code == 0
    assert "config.json is missing" in err


def test_a_torn_last_line_is_dropped(tmp_path):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(4))
    path = folder / "rounds.csv"
    path.write_text(path.read_text()[:-9])
    (run,), problems = runs.find_runs(tmp_path)
    assert (len(run.rounds), run.complete, problems) == (4, False, [])


def test_an_unreadable_folder_of_one_strategy_only_shows_what_is_wrong(tmp_path, capsys):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(4))
    (folder / "rounds.csv").write_text("nonsense\n")
    assert "begins with 'nonsense'" in refused(capsys, tmp_path)


def test_pictures_of_pixels_keep_their_colours():
    image = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    back = matplotlib.image.imread(io.BytesIO(plot.jpeg(image)), format="jpeg")
    assert np.abs(back.astype(int) - image).max() <= 6


def test_the_script_runs_from_the_command_line(results):
    script = Path(plot.__file__)
    run = subprocess.run(
        [sys.executable, script, results],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "TkAgg"},
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert json.dumps(str(results / "curves-accuracy.png"))[1:-1] in run.stdout
