"""Damaged results are refused with the line that is wrong and a way to go on; nothing committed is lost in silence."""

import csv
import io
import re
import shutil

import pytest
from fake_results import rising, write_run
from small_run import CONFIG, PICKS, ROUNDS, commit_all, files

from files import read_csv
from runs.folder import RunFolder
from runs.format import SECONDS, Round, read_rounds, round_columns
from runs.metrics import MAX_NLL, METRICS, Metric, nll
from runs.reading import find_runs, read_picks, read_run
from utils import UserError

NAMES = ("rounds.csv", "queries.csv")


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    commit_all(run)
    run.close()
    return run.folder


def refusal(tmp_path):
    """The line with which a run is refused; empty if it is not. Nothing is written."""
    before = {p: p.read_bytes() for p in (tmp_path / "done").rglob("*.*")}
    try:
        RunFolder(tmp_path / "done", CONFIG).close()
    except UserError as e:
        message = str(e)
    else:
        return ""
    assert {p: p.read_bytes() for p in (tmp_path / "done").rglob("*.*")} == before
    assert "\n" not in message
    return message


def obey(message, folder):
    """Do what a refusal says."""
    if "or delete" not in message:
        assert "move" in message
        shutil.rmtree(folder)
        return
    told = re.findall(r"line (\d+) of (\w+\.csv) and any below it", message)
    told += [(n, name) for name, n in re.findall(r"(\w+\.csv) is damaged in line (\d+): .*or delete line \2 ", message)]
    assert told
    for n, name in told:
        lines = (folder / name).read_bytes().split(b"\n")
        (folder / name).write_bytes(b"".join(line + b"\n" for line in lines[: int(n) - 1]))


def complete(tmp_path, folder):
    """Obey until the run goes on, and finish it. Returns the refusals."""
    refusals = []
    while message := refusal(tmp_path):
        refusals.append(message)
        assert len(refusals) < 4, refusals
        obey(message, folder)
    run = RunFolder(tmp_path / "done", CONFIG)
    commit_all(run)
    run.close()
    return refusals


def cell_changed(name, row, column, cell):
    """A change of one cell of a CSV file."""

    def change(folder):
        table = read_csv(folder / name, ())
        table.rows[row][table.columns.index(column)] = cell
        (folder / name).write_bytes(table.text().encode("utf-8", "surrogateescape"))

    return change


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_cut_anywhere_a_run_is_refused_and_goes_on_as_told_to_the_same_files(finished, tmp_path, name, zeros):
    whole, refusals = files(finished), set()
    content = whole[name]
    for n in range(len(content)):
        (finished / name).write_bytes(content[:n] + bytes(len(content) - n if zeros else 0))
        message = refusal(tmp_path)
        assert message or (content[n - 1 : n] == b"\n" and n > 0 and not zeros), n
        if message not in refusals:
            complete(tmp_path, finished)
            assert files(finished) == whole, n
        refusals.add(message)


@pytest.mark.parametrize("name", NAMES)
def test_lines_lost_at_the_end_are_refused_or_trained_again(finished, tmp_path, name):
    whole = files(finished)
    lines = whole[name].splitlines(keepends=True)
    for n in range(1, len(lines)):
        (finished / name).write_bytes(b"".join(lines[:n]))
        refusals = complete(tmp_path, finished)
        # Of four rows, those of the last two may be missing: picks reach one round beyond them.
        assert bool(refusals) == (n < 3 if name == "rounds.csv" else True), n
        assert files(finished) == whole, n


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_refused(finished, tmp_path, name):
    (finished / name).unlink()
    message = refusal(tmp_path)
    expected = {
        "rounds.csv": "rounds.csv is missing, though rounds were committed; restore it or move the folder away",
        "queries.csv": "or delete line 2 of rounds.csv and any below it to train again from round 0 on",
    }
    assert expected[name] in message
    whole = files(finished)
    complete(tmp_path, finished)
    assert {*files(finished)} == {*whole, name}


def test_rounds_missing_after_the_first_commit_are_refused_whatever_the_picks(finished, tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    run.write_outputs(3, {"confusion_matrix.csv": "x"})
    run.close()
    (finished / "rounds.csv").unlink()
    (finished / "queries.csv").unlink()
    assert "rounds.csv is missing, though rounds were committed" in refusal(tmp_path)


IMPOSSIBLE = [
    *(
        (m, cell)
        for m in METRICS
        for cell in ("9.55", "-0.001", "1e300", "nan", "inf", "-inf", "x", "1_0")
        if m != "nll"
    ),
    *(("nll", cell) for cell in ("88.1", "-0.001", "1e300", "nan", "inf", "-inf", "x", "\u0663")),
    *((s, cell) for s in SECONDS for cell in ("-1", "1e300", "nan", "inf", "x")),
    *(("round", cell) for cell in ("", "-1", "5", "1.5", "x", "1e300")),
    *(("n_labeled", cell) for cell in ("", "0", "-7", "7.5", "x", "2147483648", "4")),
]


@pytest.mark.parametrize("row", [1, 3])
@pytest.mark.parametrize(("column", "cell"), IMPOSSIBLE)
def test_a_value_that_cannot_be_true_is_refused_also_in_the_last_line_and_without_a_check(
    finished, tmp_path, row, column, cell
):
    whole = files(finished)
    cell_changed("rounds.csv", row, "check", "")(finished)
    assert refusal(tmp_path) == ""
    cell_changed("rounds.csv", row, column, cell)(finished)
    message = refusal(tmp_path)
    assert message.startswith(f"{finished}/rounds.csv is damaged in line {row + 2}: ")
    with pytest.raises(UserError) as e:
        read_run(finished)
    assert str(e.value) == message
    complete(tmp_path, finished)
    assert files(finished) == whole


@pytest.mark.parametrize("column", [*round_columns()[1:-3], "check"])
def test_a_cell_that_does_not_match_its_check_is_refused(finished, tmp_path, column):
    old = list(read_csv(finished / "rounds.csv", ()).records())[3][column]
    digit = next(i for i, c in enumerate(old) if c.isdigit() and i > old.find("."))
    cell_changed("rounds.csv", 3, column, old[:digit] + str((int(old[digit]) + 1) % 10) + old[digit + 1 :])(finished)
    message = refusal(tmp_path)
    assert f"{finished}/rounds.csv is damaged in line 5: it does not match its check; clear its cell" in message
    cell_changed("rounds.csv", 3, "check", "")(finished)
    message = refusal(tmp_path)
    assert ("n_labeled is 22, but queries.csv has 12 picks" in message) if column == "n_labeled" else not message


@pytest.mark.parametrize("column", SECONDS)
def test_equal_runs_have_equal_checks_whatever_their_seconds(finished, tmp_path, column):
    cell_changed("rounds.csv", 1, column, "77.125")(finished)
    assert refusal(tmp_path) == ""


def test_a_check_is_eight_hexadecimal_digits_of_the_cells_with_their_names():
    cells = Round(1, 7, {"accuracy": 0.5, "nll": 1.0}, 1.5, 0.25, 0.125).cells()
    assert cells["check"] == "88f578ef"
    assert Round(1, 7, {"nll": 0.5, "accuracy": 1.0}).cells()["check"] != cells["check"]
    assert Round(1, 7, {"nll": 1.0, "accuracy": 0.5}).cells()["check"] == cells["check"]


def test_a_row_keeps_its_check_when_the_table_gains_columns(finished, tmp_path, monkeypatch):
    checks = [row["check"] for row in read_csv(finished / "rounds.csv", ()).records()]
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda probs, labels: 0.25, "Novelty"))
    for column, cell in (("novelty", ""), ("by_hand", "seven")):
        table = read_csv(finished / "rounds.csv", ()).extended((column,), [])
        for row in table.rows:
            row[-1] = cell
        (finished / "rounds.csv").write_text(table.text())
    assert refusal(tmp_path) == ""
    assert [row["check"] for row in read_csv(finished / "rounds.csv", ()).records()] == checks
    cell_changed("rounds.csv", 1, "f1", "0.5")(finished)
    assert "does not match its check" in refusal(tmp_path)


def test_cells_of_a_metric_that_this_version_does_not_know_are_checked_with_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda probs, labels: 0.25, "Novelty"))
    run = RunFolder(tmp_path / "done", CONFIG)
    run.commit(Round(0, 4, {**ROUNDS[0].metrics, "novelty": 0.25}), PICKS[0])
    run.close()
    monkeypatch.delitem(METRICS, "novelty")
    assert refusal(tmp_path) == ""
    cell_changed("rounds.csv", 0, "novelty", "0.26")(run.folder)
    assert "does not match its check" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (5, "index", "4", "does not follow the line above"),
        (5, "rank", "3", "does not follow the line above"),
        (11, "round", "4", "does not follow the line above"),
        (11, "index", "-3", "are no whole numbers"),
        (11, "index", "1_0", "are no whole numbers"),
        (11, "rank", "", "are no whole numbers"),
        (11, "index", "9" * 25, "are no whole numbers"),
    ],
)
def test_a_damaged_pick_is_refused_also_in_the_last_line(finished, tmp_path, row, column, cell, message):
    whole = files(finished)
    cell_changed("queries.csv", row, column, cell)(finished)
    assert message in refusal(tmp_path)
    complete(tmp_path, finished)
    assert files(finished) == whole


def test_the_line_is_that_of_the_file_where_names_hold_newlines(finished, tmp_path):
    cell_changed("queries.csv", 9, "index", "x")(finished)
    line = next(
        i for i, line in enumerate((finished / "queries.csv").read_bytes().split(b"\n"), 1) if b",x," in line[:6]
    )
    assert line > 11
    assert f"is damaged in line {line}: " in refusal(tmp_path)


def test_picks_that_do_not_fit_the_labels_of_a_committed_round_are_refused(finished, tmp_path):
    whole = files(finished)
    rows = list(csv.reader(io.StringIO(whole["queries.csv"].decode("utf-8", "surrogateescape"), newline="")))
    del rows[7]  # the last of round 1
    text = read_csv(finished / "queries.csv", ())
    text.rows[:] = rows[1:]
    (finished / "queries.csv").write_bytes(text.text().encode("utf-8", "surrogateescape"))
    message = refusal(tmp_path)
    assert "rounds.csv line 3: n_labeled is 7, but queries.csv has 6 picks up to round 1" in message
    assert "line 3 of rounds.csv and any below it and line 6 of queries.csv" in message
    complete(tmp_path, finished)
    assert files(finished) == whole


def test_a_round_that_could_not_be_read_again_is_not_committed(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    for value in (float("nan"), 9.55):
        with pytest.raises(UserError, match="round 0 is not committed: accuracy is"):
            run.commit(Round(0, 4, {**ROUNDS[0].metrics, "accuracy": value}), PICKS[0])
    assert set(files(run.folder)) == {"config.json"}
    run.close()


def test_every_value_of_a_metric_is_within_its_limits():
    import numpy as np

    certain = np.array([[1.0, 0.0]], np.float32)
    worst = nll(certain, np.array([1]))
    assert worst == pytest.approx(MAX_NLL)
    low, high = METRICS["nll"].limits
    assert low <= nll(certain, np.array([0])) < worst <= high
    assert all(m.limits == (0, 1) for m in METRICS.values() if m.share)
    assert Metric("x", nll, "X", share=False).limits == pytest.approx((-3.4e38, 3.4e38), rel=0.01)


def test_damaged_runs_are_left_out_of_reports_with_one_line_each(tmp_path):
    for seed in range(1, 5):
        write_run(tmp_path, "BADGE", seed, rising(3))
    folders = sorted(p.parent for p in tmp_path.rglob("rounds.csv"))
    text = (folders[0] / "rounds.csv").read_text()
    (folders[0] / "rounds.csv").write_text("")
    (folders[1] / "rounds.csv").write_text("\0" * len(text))
    (folders[2] / "rounds.csv").write_text(text[:-4])
    found, problems = find_runs(tmp_path)
    assert [run.folder for run in found] == folders[3:]
    assert len(problems) == 3
    for folder, problem, why in zip(folders, problems, ("it is empty", "zero bytes", "a torn line"), strict=False):
        assert problem.startswith(f"{folder}/rounds.csv is damaged")
        assert why in problem
        assert problem.endswith("; left out")


def test_picks_fewer_than_the_labels_are_not_read(tmp_path):
    folder = write_run(tmp_path, "BADGE", 1, rising(3), queries=True)
    lines = (folder / "queries.csv").read_text().splitlines(keepends=True)
    assert len(read_picks(read_run(folder)).idxs) == len(lines) - 1
    (folder / "queries.csv").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"its picks are not as many as the labels in rounds\.csv"):
        read_picks(read_run(folder))


def test_old_rows_without_a_check_are_read(finished):
    before = read_rounds(finished / "rounds.csv")
    table = read_csv(finished / "rounds.csv", ())
    text = "".join(",".join(row[:-1]) + "\n" for row in (table.columns, *table.rows))
    (finished / "rounds.csv").write_text(text)
    assert read_rounds(finished / "rounds.csv") == before
