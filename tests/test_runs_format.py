"""The results format: the text of each file, what is read from it, and what an unknown or missing column means."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_run import CONFIG, NAMES, PICKS, ROUNDS, commit_all, files

from files import Table, read_csv
from runs.confusion import read_confusion
from runs.folder import RunFolder
from runs.format import (
    QUERY_COLUMNS,
    Query,
    Round,
    config_hash,
    json_text,
    predictions_text,
    read_config,
    read_environment,
    read_queries,
    read_rounds,
    round_columns,
    run_path,
)
from runs.metrics import METRICS, Metric
from utils import UserError

OLD = sorted((Path(__file__).parent / "data" / "results-0.1.0").rglob("config.json"))
PUBLISHED = ("accuracy", "precision", "recall", "f1", "nll", "ece")


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    commit_all(run)
    run.close()
    return run.folder


@pytest.fixture
def new_metric(monkeypatch):
    """A metric that was added after the files were written."""
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda probs, labels: 0.25, "Novelty"))


def rewrite(path, change):
    """Write a CSV file again after `change` of its lines of cells."""
    lines = list(csv.reader(path.read_text("utf-8", errors="surrogateescape").splitlines()))
    path.write_text("".join(",".join(line) + "\n" for line in change(lines)))


# Names


def test_folder_is_named_by_dataset_strategy_seed_and_hash(finished, tmp_path):
    name = f"seed1-{config_hash(CONFIG)}"
    assert finished == tmp_path / "done" / "Beasts" / "BADGE" / name
    assert len(config_hash(CONFIG)) == 8


def test_hash_depends_on_every_setting_and_not_on_their_order():
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)
    others = [{**CONFIG, k: 99} for k in CONFIG]
    assert len({config_hash(c) for c in [CONFIG, *others]}) == len(CONFIG) + 1


# New files


def test_rounds_csv_is_as_designed(finished):
    lines = (finished / "rounds.csv").read_text().splitlines()
    columns = ["round", "n_labeled", *METRICS, "train_seconds", "eval_seconds", "query_seconds"]
    assert lines[0] == ",".join([*columns, "check"])
    first = dict(zip(columns, lines[1].split(","), strict=False))
    assert [first[c] for c in ("round", "n_labeled", *PUBLISHED, *columns[-3:])] == [
        "0", "4", "0.37037", "0.493827", "0.617284", "0.740741", "0.864198", "0.987654", "1.500", "0.250", "0.125",
    ]  # fmt: skip
    assert len(lines) == 5


def test_queries_csv_is_as_designed(finished):
    with open(finished / "queries.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["round", "rank", "index", "path", "label"]
    assert rows[1] == ["0", "0", "0", "plain.png", "c0"]
    assert [row[3] for row in rows[1:]] == NAMES[:12]
    assert [row[0] for row in rows[1:]] == list("000011122233")


@pytest.mark.parametrize("folder", [p.parent for p in OLD], ids=lambda folder: folder.parent.name)
def test_files_are_written_byte_for_byte_as_by_version_0_1_0(folder):
    def written(name):
        return (folder / name).read_text()

    columns = ("round", "n_labeled", *PUBLISHED, "train_seconds", "eval_seconds", "query_seconds")
    rounds, queries = read_rounds(folder / "rounds.csv"), read_queries(folder / "queries.csv")
    assert Table(columns, []).extended((), (_published(r).cells() for r in rounds)).text() == written("rounds.csv")
    assert Table(QUERY_COLUMNS, []).extended((), (q.cells() for q in queries)).text() == written("queries.csv")
    assert read_confusion(folder / "confusion_matrix.csv").text() == written("confusion_matrix.csv")
    config = read_config(folder)
    assert json_text(config) == written("config.json")
    assert json_text(read_environment(folder)) == written("environment.json")
    assert run_path(folder.parents[2], config) == folder


def _published(round):
    return replace(round, metrics={m: round.metrics[m] for m in PUBLISHED})


def test_predictions_csv_is_written_byte_for_byte_as_by_version_0_1_0():
    (path,) = {p for f in OLD for p in f.parent.glob("predictions.csv")}
    classes = read_confusion(path.parent / "confusion_matrix.csv").classes
    rows = list(read_csv(path, ("index",)).records())
    labels, predicted = (np.array([classes.index(r[c]) for r in rows]) for c in ("label", "predicted"))
    confidence = np.array([r["confidence"] for r in rows], np.float32)
    text = predictions_text(classes, [r["path"] for r in rows], labels, predicted, confidence)
    assert text == path.read_text()


def test_predictions_of_images_without_a_label_leave_it_empty():
    one = np.array([1])
    text = predictions_text(["cat", "dog"], ["a,b.png"], np.array([-1]), one, np.array([0.75], np.float32))
    assert text == 'index,path,label,predicted,confidence\n0,"a,b.png",,dog,0.750000\n'


# Columns by name


def test_columns_may_stand_in_any_order(finished):
    before = read_rounds(finished / "rounds.csv"), read_queries(finished / "queries.csv")
    for name in ("rounds.csv", "queries.csv"):
        table = read_csv(finished / name, ())
        reverse = Table(table.columns[::-1], [row[::-1] for row in table.rows])
        (finished / name).write_bytes(reverse.text().encode("utf-8", "surrogateescape"))
    assert (read_rounds(finished / "rounds.csv"), read_queries(finished / "queries.csv")) == before


@pytest.mark.usefixtures("new_metric")
def test_a_metric_without_a_column_or_in_an_empty_cell_was_not_measured(finished):
    column = round_columns().index("novelty")
    rewrite(finished / "rounds.csv", lambda lines: [line[:-1] for line in lines])  # without checks
    rewrite(finished / "rounds.csv", lambda lines: [line[:column] + line[column + 1 :] for line in lines])
    rewrite(finished / "rounds.csv", lambda lines: [lines[0], [*lines[1][:3], "", *lines[1][4:]], *lines[2:]])
    rounds = read_rounds(finished / "rounds.csv")
    assert all(set(r.metrics) == set(METRICS) for r in rounds)
    assert [math.isnan(r.metrics["novelty"]) for r in rounds] == [True] * 4
    assert [math.isnan(r.metrics["precision"]) for r in rounds] == [True, False, False, False]
    assert [r.metrics["accuracy"] for r in rounds] == pytest.approx([r.metrics["accuracy"] for r in ROUNDS], abs=1e-6)
    assert [r.train_seconds for r in rounds] == [1.5] * 4


def test_missing_seconds_are_no_zeros(finished):
    rewrite(finished / "rounds.csv", lambda lines: [line[:-4] + line[-1:] for line in lines])
    assert all(
        math.isnan(r.train_seconds) and math.isnan(r.query_seconds) for r in read_rounds(finished / "rounds.csv")
    )


@pytest.mark.parametrize(("name", "column"), [("rounds.csv", c) for c in ("round", "n_labeled")]
                         + [("queries.csv", c) for c in QUERY_COLUMNS])  # fmt: skip
def test_a_required_column_that_is_missing_is_named(finished, name, column):
    (finished / name).write_text((finished / name).read_text("utf-8", "surrogateescape").split("\n")[0] + "\n")
    rewrite(finished / name, lambda lines: [[c for c in lines[0] if c != column]])
    with pytest.raises(UserError, match=rf"{name} begins with .*, which lacks {column}$"):
        {"rounds.csv": read_rounds, "queries.csv": read_queries}[name](finished / name)


def test_a_file_without_any_metric_is_refused(tmp_path):
    (tmp_path / "rounds.csv").write_text("round,n_labeled,luck\n0,100,1\n")
    with pytest.raises(
        UserError, match=r"rounds\.csv begins with 'round,n_labeled,luck', which has none of accuracy, "
    ):
        read_rounds(tmp_path / "rounds.csv")


# A run that is continued by another version


def test_unknown_columns_are_kept_as_they_are_when_a_run_is_continued(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    run.commit(ROUNDS[1], PICKS[1])
    run.close()
    before = files(run.folder)
    add = {"rounds.csv": ("luck", " 7.50 "), "queries.csv": ("annotator", '"Eve, A."')}
    for name, (column, cell) in add.items():
        table = read_csv(run.folder / name, ())
        wider = Table((column, *table.columns), [[cell.strip('"'), *row] for row in table.rows])
        (run.folder / name).write_bytes(wider.text().encode("utf-8", "surrogateescape"))
    run = RunFolder(tmp_path, CONFIG)
    assert run.rounds() == [_read(r) for r in ROUNDS[:2]]
    run.commit(ROUNDS[2], PICKS[2])
    run.close()
    for name, (column, cell) in add.items():
        old, new = before[name].decode("utf-8", "surrogateescape"), files(run.folder)[name].decode(errors="replace")
        assert new.startswith(f"{column},{old.splitlines()[0]}\n{cell},0,")
        table = read_csv(run.folder / name, ())
        cells = [row[0] for row in table.rows]
        n_old = len(read_csv_text(old))
        assert cells == [cell.strip('"')] * n_old + [""] * (len(table.rows) - n_old)
    assert read_rounds(run.folder / "rounds.csv") == [_read(r) for r in ROUNDS[:3]]
    assert read_queries(run.folder / "queries.csv") == [q for new in PICKS[:3] for q in new]


def read_csv_text(text):
    return list(csv.reader(text.splitlines(keepends=True)))[1:]


def _read(round):
    """A round as it comes back from the file."""
    return replace(round, metrics={m: float(np.round(v, 6)) for m, v in round.metrics.items()})


def test_committed_text_is_not_reformatted(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    run.close()
    path = run.folder / "rounds.csv"
    rewrite(path, lambda lines: [line[:-1] for line in lines])
    path.write_text(path.read_text().replace("0.37037", "0.3703703701").replace("1.500", "1.5"))
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[1], PICKS[1])
    run.close()
    assert path.read_text().splitlines()[1].startswith("0,4,0.3703703701,")
    assert path.read_text().splitlines()[1].endswith(",1.5,0.250,0.125,")


def test_a_new_metric_is_appended_to_the_columns_of_an_old_run(tmp_path, request):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    run.commit(replace(ROUNDS[1], query_seconds=0.0), [])  # the last round that was requested then
    run.close()
    before = (run.folder / "rounds.csv").read_text().splitlines()
    request.getfixturevalue("new_metric")
    run = RunFolder(tmp_path, CONFIG)
    run.commit(with_novelty(ROUNDS[1]), PICKS[1])
    run.commit(with_novelty(ROUNDS[2]), PICKS[2])
    run.close()
    after = (run.folder / "rounds.csv").read_text().splitlines()
    assert after[0] == before[0] + ",novelty"
    assert after[1] == before[1] + ","
    assert after[2] == before[2].replace(",0.000,", ",0.125,") + ","  # a committed round keeps its metrics
    assert after[3].endswith(",0.25")
    rounds = read_rounds(run.folder / "rounds.csv")
    assert [r.metrics["novelty"] for r in rounds] == pytest.approx([math.nan, math.nan, 0.25], nan_ok=True)


def with_novelty(round):
    return replace(round, metrics={**round.metrics, "novelty": 0.25})


@pytest.mark.usefixtures("new_metric")
def test_a_new_run_has_a_new_metric_before_the_seconds():
    assert round_columns()[-4:] == ("novelty", "train_seconds", "eval_seconds", "query_seconds")


def test_a_metric_that_is_no_number_is_not_written_as_unmeasured():
    assert Round(0, 4, {"nll": math.nan}).cells()["nll"] == "nan"
    assert "accuracy" not in Round(0, 4, {"nll": 1.0}).cells()


def test_a_pick_is_a_row():
    assert Query(1, 0, 7, "a.png", "cat").cells() == {
        "round": "1", "rank": "0", "index": "7", "path": "a.png", "label": "cat",
    }  # fmt: skip


# environment.json


DAMAGED = ["{", "[]", "7", '{"n_round": "ten"}', '{"n_round": true}', '{"earlier": 5}', b"\xff\xfe", "[" * 200_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_environment_counts_as_missing_and_is_reported(tmp_path, capsys, content):
    path = tmp_path / "environment.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    lines = []
    assert read_environment(tmp_path, lines.append) == {}
    (line,) = lines
    assert line.startswith(f"{path} is damaged")
    assert line.endswith("it counts as missing")
    assert "\n" not in line
    assert read_environment(tmp_path) == {}
    assert capsys.readouterr().err == f"note: {line}\n"


def test_a_missing_environment_is_no_problem(tmp_path):
    assert read_environment(tmp_path, pytest.fail) == {}


@pytest.mark.parametrize("content", [{}, {"python": "3.9"}, {"n_round": 3, "earlier": [{"n_round": 2}]}])
def test_an_environment_is_read_as_it_is(tmp_path, content):
    (tmp_path / "environment.json").write_text(json.dumps(content))
    assert read_environment(tmp_path, pytest.fail) == content
