"""The files that show the last round: written after it is committed, described by last_round.json, and checked."""

import json
import math
import shutil
from contextlib import closing
from dataclasses import replace

import pytest
from fake_results import rising, write_run
from small_run import CONFIG, PICKS, ROUNDS, commit_all, files

from report.details import _read_confusion
from runs.folder import RunFolder
from runs.outputs import OUTPUTS, LastRound, digest, picks_digest, read_last_round, row_digest
from runs.reading import read_picks, read_run, shown_confusion
from utils import UserError

CONTENTS = {"predictions.csv": "index\n", "confusion_matrix.csv": "x,é\né,1\n", "model.pt": b"\x00\xff"}


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run)
    run.write_outputs(3, CONTENTS)
    yield run
    run.close()


def test_last_round_json_names_the_round_and_the_digests_of_the_files(finished):
    files = {name: digest((finished.folder / name).read_bytes()) for name in OUTPUTS}
    row, picks = row_digest(finished.rounds()[3]), picks_digest(finished.queries(), 3)
    assert read_last_round(finished.folder) == LastRound(3, files, row, picks)
    assert list(json.loads((finished.folder / "last_round.json").read_text())) == ["round", "files", "row", "picks"]
    assert finished.outputs_defect({3}) == ""
    assert finished.outputs_defect({2, 3}) == ""


def test_files_of_another_round_are_found(finished):
    assert finished.outputs_defect({2}) == f"{', '.join(OUTPUTS)} of round 3"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_missing_or_changed_file_is_found(finished, name):
    path = finished.folder / name
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content + b"\n", bytes(len(content))):
        path.write_bytes(damaged)
        assert finished.outputs_defect({3}) == f"{name} damaged or of another round"
    path.unlink()
    assert finished.outputs_defect({3}) == f"{name} missing"
    path.mkdir()
    assert finished.outputs_defect({3}) == f"{name} damaged or of another round"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"round": "3", "files": {}}', '{"round": true, "files": {}}',
                                     '{"round": 3, "files": []}', "\0" * 20])  # fmt: skip
def test_a_damaged_last_round_json_is_found(finished, content):
    (finished.folder / "last_round.json").write_text(content)
    assert "last_round.json is damaged" in finished.outputs_defect({3})
    with pytest.raises(UserError, match=r"last_round\.json is damaged"):
        read_last_round(finished.folder)


def test_without_last_round_json_the_files_only_have_to_be_there(finished):
    (finished.folder / "last_round.json").unlink()
    (finished.folder / "model.pt").write_text("anything")
    assert finished.outputs_defect({3}) == ""
    (finished.folder / "model.pt").unlink()
    assert finished.outputs_defect({3}) == "model.pt missing"


def test_before_a_round_is_committed_it_is_recorded_that_the_files_show_an_earlier_one(tmp_path):
    """So that a kill between the commit and the files is found, in a new run and in one of an older version."""
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    assert read_last_round(run.folder) == LastRound(-1, {})
    for name, content in CONTENTS.items():
        run.write(name, content)
    assert "of round -1" in run.outputs_defect({0})
    run.write_outputs(0, CONTENTS)
    run.commit(ROUNDS[1], PICKS[1])
    assert read_last_round(run.folder).round == 0
    (run.folder / "last_round.json").unlink()  # an older version does not know it
    assert run.outputs_defect({1}) == ""
    run.commit(ROUNDS[2], PICKS[2])
    assert "of round 1" in run.outputs_defect({2})
    run.close()


@pytest.mark.parametrize("n_written", range(len(CONTENTS)))
def test_a_kill_between_two_files_is_found(finished, monkeypatch, n_written):
    new = {name: content * 2 for name, content in CONTENTS.items()}
    write, written = finished.write, []

    def die_after_some(name, content):
        if len(written) == n_written:
            raise KeyboardInterrupt
        written.append(name)
        write(name, content)

    monkeypatch.setattr(finished, "write", die_after_some)
    with pytest.raises(KeyboardInterrupt):
        finished.write_outputs(3, new)
    monkeypatch.undo()
    assert bool(finished.outputs_defect({3})) == (n_written > 0)
    finished.write_outputs(3, new)
    assert finished.outputs_defect({3}) == ""


# A folder that changes while a run is going on


def test_a_config_deleted_while_running_is_written_again_with_a_note(tmp_path, capsys):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    before = files(run.folder)
    (run.folder / "config.json").unlink()
    run.commit(ROUNDS[1], PICKS[1])
    run.close()
    assert files(run.folder)["config.json"] == before["config.json"]
    (note,) = capsys.readouterr().err.splitlines()
    assert note == f"note: {run.folder}/config.json was deleted while the run was going on and is written again"
    again = RunFolder(tmp_path, CONFIG)
    assert len(again.rounds()) == 2
    again.close()


def test_a_folder_deleted_while_running_is_one_clear_line(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    shutil.rmtree(run.folder)
    with pytest.raises(UserError, match="was deleted or moved while the run was going on") as e:
        run.commit(ROUNDS[1], PICKS[1])
    assert "safe" not in str(e.value)
    with pytest.raises(UserError, match="was deleted or moved while the run was going on"):
        run.write_outputs(0, CONTENTS)
    run.close()
    assert not run.folder.exists()


# Reports


@pytest.fixture
def shown(tmp_path):
    """A run of four rounds whose files show the last one."""
    folder = write_run(tmp_path, "BADGE", 1, rising(3))
    content = (folder / "confusion_matrix.csv").read_bytes()
    (folder / "last_round.json").write_text(LastRound(3, {"confusion_matrix.csv": digest(content)}).text())
    return folder


def test_a_report_shows_the_confusion_matrix_of_the_last_round_in_use(shown):
    run = read_run(shown)
    assert shown_confusion(run)[1] is run.rounds[-1]
    assert _read_confusion(run).rows == ["cat", "dog", "owl"]


def test_a_report_shows_no_confusion_matrix_of_another_round(shown):
    environment = json.loads((shown / "environment.json").read_text())
    (shown / "environment.json").write_text(json.dumps({**environment, "n_round": 2}))
    run = read_run(shown)
    assert shown_confusion(run)[1].round == 3
    with pytest.raises(UserError, match=r"confusion_matrix\.csv shows round 3; the last one in use is 2"):
        _read_confusion(run)


@pytest.mark.parametrize("round", [-1, 4])
def test_a_report_shows_no_confusion_matrix_of_a_round_that_is_not_committed(shown, round):
    (shown / "last_round.json").write_text(LastRound(round, {}).text())
    with pytest.raises(UserError, match="shows no committed round; the run's command makes it again"):
        shown_confusion(read_run(shown))


def test_a_report_shows_no_confusion_matrix_that_was_changed(shown):
    with (shown / "confusion_matrix.csv").open("a") as f:
        f.write("\n")
    with pytest.raises(UserError, match=r"is not the one that last_round\.json describes"):
        shown_confusion(read_run(shown))


def test_a_report_shows_the_confusion_matrix_of_an_older_version(shown):
    (shown / "last_round.json").unlink()
    run = read_run(shown)
    assert shown_confusion(run)[1] is run.committed[-1]


# Files of another run


@pytest.fixture
def two_runs(tmp_path):
    """Two finished runs of one budget, whose picks and metrics differ from round 1 on."""
    folders = []
    for seed in (1, 2):
        config = {**CONFIG, "seed": seed}
        run = RunFolder(tmp_path, config)
        for r, picks in zip(ROUNDS, PICKS, strict=True):
            other = [replace(q, index=q.index + 100 * seed) if q.round else q for q in picks]
            run.commit(replace(r, metrics={**r.metrics, "accuracy": 0.25 * seed + 0.01 * r.round}), other)
            run.write_outputs(r.round, CONTENTS)
        run.close()
        folders.append((config, run.folder))
    return folders


@pytest.mark.parametrize("name", ["rounds.csv", "queries.csv"])
def test_a_file_of_another_run_is_refused(two_runs, tmp_path, name):
    (config, folder), (_, other) = two_runs
    shutil.copy(other / name, folder / name)
    with pytest.raises(UserError, match=rf"{name} was changed or is another run's: its .* of last_round\.json"):
        RunFolder(tmp_path, config)
    if name == "rounds.csv":
        with pytest.raises(UserError, match=r"rounds\.csv was changed or is another run's"):
            read_run(folder)
    else:
        with pytest.raises(UserError, match=r"queries\.csv was changed or is another run's"):
            read_picks(read_run(folder))
    (folder / "last_round.json").unlink()
    RunFolder(tmp_path, config).close()


def test_rounds_dropped_by_hand_are_trained_again(two_runs, tmp_path):
    """As messages about damaged lines advise."""
    config, folder = two_runs[0]
    lines = (folder / "rounds.csv").read_text().splitlines(keepends=True)
    (folder / "rounds.csv").write_text("".join(lines[:3]))
    with closing(RunFolder(tmp_path, config)) as run:
        assert len(run.rounds()) == 2
        other = [replace(q, index=q.index + 500) for q in PICKS[2]]
        run.commit(ROUNDS[2], other)
    with closing(RunFolder(tmp_path, config)) as run:  # killed before it wrote the files
        assert len(run.rounds()) == 3


def test_a_metric_that_is_added_later_changes_no_digest():
    old = replace(ROUNDS[1], metrics={"accuracy": 0.5, "nll": 1.0})
    assert row_digest(old) == row_digest(replace(old, metrics={"nll": 1.0, "accuracy": 0.5, "novelty": math.nan}))
    assert row_digest(old) == row_digest(replace(old, train_seconds=99.0))
    assert row_digest(old) != row_digest(replace(old, metrics={"accuracy": 0.5, "nll": 1.5}))
