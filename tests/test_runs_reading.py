"""Reading runs, and which of them may stand in one table, whatever version wrote them."""

import json
import math

import numpy as np
import pytest
from fake_results import rising, write_run

from files import Table, read_csv
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


# Rounds


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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("cell", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("row", [1, 3])
def test_a_share_that_is_no_number_is_damage(tmp_path, metric, cell, row):
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    replace_cell(folder, row, metric, cell)
    if METRICS[metric].share:
        with pytest.raises(UserError, match=r"rounds\.csv is damaged: accuracy, .* must be numbers"):
            read_run(folder)
    else:
        assert not math.isfinite(read_run(folder).values(metric)[row])


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
