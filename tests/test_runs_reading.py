"""Reading runs, and which of them may stand in one table, whatever version wrote them."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_results import CONFIG, rising, write_run

from files import Table, read_csv
from runs import reading
from runs.folder import RunFolder
from runs.format import Round
from runs.metrics import METRICS, Metric
from runs.reading import find_runs, read_picks, read_run
from runs.settings import differences, group
from utils import UserError


def replace_cell(folder, row, column, cell):
    table = read_csv(folder / "rounds.csv", (column,))
    table.rows[row][table.columns.index(column)] = cell
    (folder / "rounds.csv").write_text(table.text())


def settings_of(root):
    runs, _ = find_runs(root)
    return group(runs)[0]


# Finding


def test_reading_agrees_with_the_folder_that_the_program_writes(tmp_path):
    config = {**CONFIG, "strategy_name": "RandomSampling", "seed": 7, "n_train": 200}
    folder = RunFolder(tmp_path, config)
    for r in range(2):
        folder.commit(Round(r, 100 + 50 * r, dict.fromkeys(METRICS, 0.5 + 0.1 * r), 1.0, 1.0, 1.0), [])
    folder.write_environment({"n_round": 2})
    folder.close()
    (run,), problems = find_runs(tmp_path)
    assert (run.seed, run.n_labeled.tolist(), problems) == (7, [100, 150], [])
    assert run.values("accuracy").tolist() == [0.5, 0.6]
    assert not run.complete
    assert run.budget == (100, 150, 200)


def test_hidden_folders_are_ignored_links_followed_and_loops_survived(tmp_path):
    results, other = tmp_path / "results", tmp_path / "scratch"
    for seed in (1, 2):
        write_run(results, "BADGE", seed, rising(3))
    write_run(other, "BADGE", 3, rising(3))
    shutil.copytree(results / "CIFAR10", results / ".old")
    (results / "linked").symlink_to(other)
    (results / "loop").symlink_to(results)
    found, problems = find_runs(results)
    assert sorted(r.seed for r in found) == [1, 2, 3]
    assert problems == []


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_runs(tmp_path / "none")
    with pytest.raises(UserError, match="no run below it"):
        find_runs(tmp_path)


GOOD = {"dataset_name": "CIFAR10", "strategy_name": "BADGE", "seed": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rounds.csv", "round,n_labeled\n0,100\n"),
        ("rounds.csv", "\x00\x01\n\x02\n"),
        ("rounds.csv", ""),
        ("rounds.csv", lambda text: "\0" * len(text)),
        ("rounds.csv", lambda text: text[:-9]),
        ("rounds.csv", lambda text: text.replace("1,150", "1,fifty")),
        ("rounds.csv", lambda text: text.replace("2,200", "2,150")),
        ("rounds.csv", lambda text: text.replace("2,200", "2," + "2" * 25)),
        ("rounds.csv", lambda text: text.replace("0,100", "0,0")),
        ("config.json", None),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", "[" * 200_000),
        ("config.json", b"\xff"),
        ("config.json", json.dumps({**GOOD, "seed": "one"})),
        ("config.json", json.dumps({**GOOD, "img_size": None})),
        ("config.json", json.dumps({**GOOD, "n_train": True})),
        ("config.json", json.dumps({**GOOD, "strategy_args": []})),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(tmp_path, name, content):
    write_run(tmp_path, "RandomSampling", 1, rising(3))
    path = write_run(tmp_path, "BADGE", 1, rising(3)) / name
    before = path.read_text()
    if content is None:
        path.unlink()
    elif callable(content):
        path.write_text(content(before))
        assert path.read_text() != before
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (run,), (problem,) = find_runs(tmp_path)
    assert run.strategy[0] == "RandomSampling"
    assert str(path) in problem
    assert problem.endswith("; left out")
    assert "\n" not in problem
    shutil.rmtree(run.folder)
    with pytest.raises(UserError, match=str(path)):
        find_runs(tmp_path)


# Rounds


def test_only_the_rounds_requested_last_count(tmp_path):
    run = read_run(write_run(tmp_path, "RandomSampling", 1, rising(6), n_round=3))
    assert len(run.rounds) == 4
    assert run.complete
    assert run.budget == (100, 150, 200, 250)


def test_a_budget_has_an_upper_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ROUNDS", 1000)
    folder = write_run(tmp_path, "RandomSampling", 1, rising(3), n_round=10**12)
    config = json.loads((folder / "config.json").read_text())
    del config["n_train"]
    (folder / "config.json").write_text(json.dumps(config))
    assert len(read_run(folder).budget) == 1001


@pytest.mark.parametrize(
    ("n_round", "n_train", "complete"), [(4, 2000, True), (5, 2000, False), (9, 300, True), (2, 2000, True)]
)
def test_a_run_is_complete_when_its_rounds_are_committed_or_nothing_is_left(tmp_path, n_round, n_train, complete):
    run = read_run(write_run(tmp_path, "RandomSampling", 1, rising(4), n_round=n_round, n_train=n_train))
    assert run.complete is complete


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_cell_was_not_measured(tmp_path, metric):
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    replace_cell(folder, 1, metric, "")
    run = read_run(folder)
    assert np.isnan(run.values(metric)).tolist() == [False, True, False, False]
    others = [m for m in METRICS if m != metric]
    assert all(np.isfinite(run.values(m)).all() for m in others)


def test_a_metric_without_a_column_was_not_measured(tmp_path, monkeypatch):
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda probs, labels: 0.0, "Novelty"))
    run = read_run(folder)
    assert np.isnan(run.values("novelty")).all()
    assert len(run.values("novelty")) == 4
    assert run.complete


def test_a_round_without_a_metric_did_not_measure_it():
    run = reading.Run(Path("nowhere"), {}, {}, [Round(0, 10, {"nll": 0.5}), Round(1, 20, {"nll": 0.4, "ece": 0.1})])
    assert run.values("nll").tolist() == [0.5, 0.4]
    assert run.values("ece").tolist() == pytest.approx([math.nan, 0.1], nan_ok=True)


def test_seconds_of_a_query_that_did_not_follow_are_not_measured(tmp_path):
    run = read_run(write_run(tmp_path, "BADGE", 1, rising(3)))
    assert run.values("query_seconds").tolist() == pytest.approx([2, 2, 2, math.nan], nan_ok=True)


# environment.json


@pytest.mark.parametrize("content", ['{"n_round": "ten"}', '{"n_round": false}', "[]", "{", b"\xff\xfe"])
def test_a_run_with_a_damaged_environment_is_used_with_a_note(tmp_path, capsys, content):
    folder = write_run(tmp_path, "BADGE", 1, rising(3), n_round=7)
    path = folder / "environment.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (run,), problems = find_runs(tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith(f"{path} is damaged")
    assert problems[0].endswith("it counts as missing")
    assert (run.environment, run.n_round, len(run.rounds), run.complete) == ({}, 3, 4, True)
    assert capsys.readouterr().err == ""  # the caller prints it
    read_run(folder)
    assert capsys.readouterr().err == f"note: {problems[0]}\n"


def test_a_run_without_an_environment_has_the_rounds_that_are_committed(tmp_path):
    folder = write_run(tmp_path, "BADGE", 1, rising(3), n_round=7)
    (folder / "environment.json").unlink()
    (run,), problems = find_runs(tmp_path)
    assert (problems, run.n_round, run.complete) == ([], 3, True)


# Picks


def test_picks_are_read_by_column_as_far_as_requested(tmp_path):
    folder = write_run(tmp_path, "BADGE", 1, rising(3), n_round=2, queries=True)
    table = read_csv(folder / "queries.csv", ())
    expected = [row for row in table.rows if int(row[0]) <= 2]
    wider = Table(("annotator", *table.columns[::-1]), [["Eve", *row[::-1]] for row in table.rows])
    (folder / "queries.csv").write_text(wider.text())
    picks = read_picks(read_run(folder))
    assert picks.rounds.tolist() == [int(row[0]) for row in expected]
    assert picks.idxs.tolist() == [int(row[2]) for row in expected]
    assert picks.paths == [row[3] for row in expected]
    assert picks.labels == [row[4] for row in expected]


@pytest.mark.parametrize(
    "text", ["", "round,rank,index,path,label\n", "round,rank\n0,0\n", "round,rank,index,path,label\nx,0,1,a,b\n",
             "round,rank,index,path,label\n0,0,1e9,a,b\n", "round,rank,index,path,label\n-1,0,1,a,b\n",
             f"round,rank,index,path,label\n0,0,{10**30},a,b\n"],
)  # fmt: skip
def test_damaged_picks_are_named(tmp_path, text):
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    (folder / "queries.csv").write_text(text)
    with pytest.raises(UserError, match=r"queries\.csv"):
        read_picks(read_run(folder))


# Settings


@pytest.mark.parametrize(
    "change",
    [{"n_query": 60}, {"n_init_labeled": 90}, {"lr": 0.2}, {"data_digest": "other"}, {"dataset_name": "Digits"}],
)
def test_other_budgets_recipes_and_datasets_are_never_averaged(tmp_path, change):
    for seed in (1, 2, 3):
        write_run(tmp_path, "BADGE", seed, rising(3))
    write_run(tmp_path, "BADGE", 4, rising(3), **change)
    settings = settings_of(tmp_path)
    assert sorted(len(s.runs["BADGE"]) for s in settings) == [1, 3]
    if "dataset_name" not in change:
        (key,) = change
        assert any(line.startswith(f"CIFAR10: {key} is ") for line in differences(settings))


def test_a_longer_run_is_another_budget(tmp_path):
    write_run(tmp_path, "BADGE", 1, rising(4))
    write_run(tmp_path, "BADGE", 2, rising(6))
    settings = settings_of(tmp_path)
    assert [s.config["n_round"] for s in settings] == [4, 6]
    assert differences(settings) == ["CIFAR10: n_round is 4 in 1, 6 in 2"]


def test_a_copy_of_a_run_does_not_count_twice(tmp_path):
    first = write_run(tmp_path, "BADGE", 1, rising(4))
    shutil.copytree(first, tmp_path / "copy")
    (setting,), (problem,) = group(find_runs(tmp_path)[0])
    assert len(setting.runs["BADGE"]) == 1
    assert problem == f"{tmp_path / 'copy'} is the same experiment as {first}; left out"


def test_runs_that_measured_other_metrics_stand_in_one_table(tmp_path):
    write_run(tmp_path, "RandomSampling", 1, rising(3))
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    table = read_csv(folder / "rounds.csv", ())
    (folder / "rounds.csv").write_text(Table((*table.columns, "luck"), [[*row, "7"] for row in table.rows]).text())
    (setting,) = settings_of(tmp_path)
    assert list(setting.runs) == ["RandomSampling", "BADGE"]
    assert setting.differs == {}


def test_an_option_that_only_some_runs_record_parts_them_and_is_named(tmp_path):
    write_run(tmp_path, "RandomSampling", 1, rising(3))
    write_run(tmp_path, "RandomSampling", 2, rising(3))
    write_run(tmp_path, "RandomSampling", 1, rising(3), label_smoothing=0.1)
    settings = settings_of(tmp_path)
    assert sorted(len(s.runs["RandomSampling"]) for s in settings) == [1, 2]
    by_value = {s.differs["label_smoothing"]: s for s in settings}
    assert set(by_value) == {0.1, "not set"}
    assert by_value["not set"].title.endswith(", label_smoothing not set")
    assert by_value[0.1].title.endswith(", label_smoothing 0.1")
    (line,) = differences(settings)
    assert line in ("CIFAR10: label_smoothing is 0.1 in 1, not set in 2",
                    "CIFAR10: label_smoothing is not set in 1, 0.1 in 2")  # fmt: skip


def test_a_hyperparameter_that_only_some_runs_record_names_those(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "BADGE", seed, rising(3), strategy_args={"n": 5})
    write_run(tmp_path, "BADGE", 1, rising(3), strategy_args={"n": 5, "noise": "much"})
    write_run(tmp_path, "Other", 1, rising(3), strategy_args={"n": 5})
    write_run(tmp_path, "Other", 1, rising(3), strategy_args={"n": 6})
    (setting,) = settings_of(tmp_path)
    assert {label: len(runs) for label, runs in setting.runs.items()} == {
        "BADGE": 2, "BADGE(noise=much)": 1, "Other(n=5)": 1, "Other(n=6)": 1,
    }  # fmt: skip


def test_configuration_is_kept_as_it_is_read(tmp_path):
    folder = write_run(tmp_path, "BADGE", 1, rising(3), unknown=[1, None])
    assert read_run(folder).config == json.loads((folder / "config.json").read_text())


def test_a_labeling_project_is_no_run(tmp_path):
    results = tmp_path / "results"
    write_run(results, "BADGE", 1, rising(3))
    (found,), _ = find_runs(results)
    (found.folder / "labels.csv").write_text("time\n")
    with pytest.raises(UserError, match="no run below it"):
        find_runs(results)
