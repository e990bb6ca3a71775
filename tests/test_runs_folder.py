"""The folder of a run: committed round by round, resumed after a kill at any byte, refused when damaged."""

import json
import signal

import pytest
from processes import holding
from small_run import CONFIG, PICKS, ROUNDS, commit_all, files, metrics_of, picks

from runs.folder import RunFolder
from runs.format import Round
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")


# A run's folder


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    commit_all(run)
    run.write_environment({"python": "3"})
    run.close()
    return run.folder


def test_reopened_run_gives_back_what_was_committed(finished, tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    assert run.queries() == [q for new in PICKS for q in new]
    assert [(r.round, r.n_labeled) for r in run.rounds()] == [(r.round, r.n_labeled) for r in ROUNDS]
    for ours, r in zip(run.rounds(), ROUNDS, strict=True):
        assert ours.metrics == pytest.approx(r.metrics, abs=1e-6)
        assert (ours.train_seconds, ours.eval_seconds, ours.query_seconds) == (1.5, 0.25, 0.125)
    run.close()


def test_lists_given_out_are_copies(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run)
    run.rounds().clear()
    run.queries().clear()
    assert len(run.rounds()) == 4
    assert len(run.queries()) == 12
    run.close()


def test_picks_without_a_row_are_dropped_and_counted(finished, tmp_path, capsys):
    whole = files(finished)
    lines = (finished / "rounds.csv").read_text().splitlines(keepends=True)
    (finished / "rounds.csv").write_text("".join(lines[:3]))
    run = RunFolder(tmp_path / "done", CONFIG)
    assert "dropped what was not committed whole (2 picks)" in capsys.readouterr().err
    commit_all(run)
    run.close()
    assert files(finished) == whole


def test_a_kill_at_the_first_commit_loses_nothing(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run)
    run.close()
    whole = files(run.folder)
    lines = whole["queries.csv"].splitlines(keepends=True)
    (run.folder / "queries.csv").write_bytes(b"".join(line for line in lines if line[:2] not in (b"2,", b"3,")))
    (run.folder / "rounds.csv").unlink()
    again = RunFolder(tmp_path, CONFIG)
    assert (again.rounds(), again.queries()) == ([], [])
    commit_all(again)
    again.close()
    assert files(run.folder) == whole


@pytest.mark.parametrize("round", range(4))
def test_round_whose_row_was_not_written_does_not_count(tmp_path, monkeypatch, round):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run, round)
    before = run.rounds(), run.queries()
    written = []
    write = run.write

    def fail_at_rounds(name, content):
        written.append(name)
        if name == "rounds.csv":
            raise UserError("the disk is full")
        write(name, content)

    monkeypatch.setattr(run, "write", fail_at_rounds)
    with pytest.raises(UserError, match="full"):
        run.commit(ROUNDS[round], PICKS[round])
    assert written[-2:] == ["queries.csv", "rounds.csv"]  # the picks stand before the row that makes them count
    assert (run.rounds(), run.queries()) == before
    run.close()

    again = RunFolder(tmp_path, CONFIG)
    assert len(again.rounds()) == round
    assert again.queries() == [q for new in PICKS[:round] for q in new]
    commit_all(again)
    again.close()
    expected = RunFolder(tmp_path / "undisturbed", CONFIG)
    commit_all(expected)
    expected.close()
    for name in ("rounds.csv", "queries.csv"):
        assert (again.folder / name).read_bytes() == (expected.folder / name).read_bytes()


def test_round_whose_picks_were_not_written_changes_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run, 2)
    before = files(run.folder)

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(run, "write", full)
    with pytest.raises(UserError, match="full"):
        run.commit(ROUNDS[2], PICKS[2])
    assert files(run.folder) == before
    run.close()


def test_continued_run_keeps_the_metrics_of_its_last_round_and_gains_picks(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    run.commit(Round(1, 7, metrics_of(1), 1.5, 0.25, 0.0), [])  # the last round that was asked for: no query
    run.close()
    run = RunFolder(tmp_path, CONFIG)
    assert len(run.rounds()) == 2
    assert run.queries()[-1].round == 1
    run.commit(Round(1, 7, metrics_of(9), 9.0, 9.0, 0.5), PICKS[1])
    assert len(run.rounds()) == 2
    row = run.rounds()[1]
    assert row.metrics == pytest.approx(metrics_of(1), abs=1e-6)
    assert (row.train_seconds, row.query_seconds) == (1.5, 0.5)
    assert run.queries()[-3:] == PICKS[1]
    run.close()


def test_picks_of_another_number_than_asked_for_do_not_count(tmp_path, capsys):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], picks(0, 4, 0) + picks(1, 2, 4))
    run.close()
    run = RunFolder(tmp_path, CONFIG)
    assert [q.round for q in run.queries()] == [0, 0, 0, 0]
    assert "(2 picks)" in capsys.readouterr().err
    run.close()


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("rounds.csv", b"\n1,7,", b"\n1,x,"),
        ("rounds.csv", b"\n1,7,", b"\n\xff\x00,7,"),
        ("rounds.csv", b"\n1,7,", b"\n2,7,"),
        ("rounds.csv", b"round,", b"rond,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,one,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,2,"),  # an image twice
        ("queries.csv", b"\n0,1,1,", b"\n0,3,1,"),  # a rank left out
        ("queries.csv", b"\n0,1,1,", b"\n-1,1,1,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,-1,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,1,more,"),
        ("queries.csv", b"\n0,1,1,", b"\r\r\r\x00\n"),
        ("config.json", b'"seed": 1', b'"seed": 2'),
        ("config.json", b'"seed": 1,', b""),
        ("config.json", b'"seed": 1', b'"seed": \xff'),
    ],
)
def test_damage_in_the_middle_is_refused_and_nothing_written(finished, tmp_path, name, old, new):
    edit(finished / name, old, new)
    before = files(finished)
    with pytest.raises(UserError, match=str(finished)) as e:
        RunFolder(tmp_path / "done", CONFIG)
    assert "\n" not in str(e.value)
    assert files(finished) == before


def test_config_cut_at_any_byte_is_refused_and_nothing_written(finished, tmp_path):
    whole = (finished / "config.json").read_bytes()
    for n in range(len(whole) - 1):
        (finished / "config.json").write_bytes(whole[:n])
        before = files(finished)
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            RunFolder(tmp_path / "done", CONFIG)
        assert files(finished) == before


@pytest.mark.parametrize("content", ["[]", "7", "null", '"a"', "[1, 2]"])
def test_config_that_is_no_table_of_settings_is_refused(finished, tmp_path, content):
    (finished / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunFolder(tmp_path / "done", CONFIG)


def test_results_without_a_config_are_refused(finished, tmp_path):
    (finished / "config.json").unlink()
    with pytest.raises(UserError, match=r"has results but no config\.json"):
        RunFolder(tmp_path / "done", CONFIG)
    assert not (finished / "config.json").exists()


def test_other_configuration_in_the_folder_is_refused_by_setting(finished, tmp_path):
    (finished / "config.json").write_text(json.dumps({**CONFIG, "lr": 0.2, "old": 1}))
    with pytest.raises(UserError, match=r"lr: 0\.2 there, 0\.1 asked for, old: 1 there, None asked for"):
        RunFolder(tmp_path / "done", CONFIG)


def test_environment_keeps_earlier_starts(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    for i in range(3):
        run.write_environment({"start": i})
    run.close()
    found = json.loads((run.folder / "environment.json").read_text())
    assert found == {"start": 2, "earlier": [{"start": 0}, {"start": 1}]}


def test_number_of_rounds_requested_last_is_recorded(finished, tmp_path):
    path = finished / "environment.json"
    run = RunFolder(tmp_path / "done", CONFIG)
    run.write_environment({"python": "3", "n_round": 3})
    before = path.read_bytes()
    run.write_n_round(3)
    assert path.read_bytes() == before
    run.write_n_round(2)
    assert json.loads(path.read_text()) == {**json.loads(before), "n_round": 2}
    for content in (None, "{"):  # without it, all 4 rounds are taken as requested
        path.write_text(content) if content else path.unlink()
        run.write_n_round(3)
        assert not path.exists() if content is None else path.read_text() == content
        run.write_n_round(2)
        assert json.loads(path.read_text()) == {"n_round": 2}
    run.close()


def test_environment_cut_at_any_byte_or_of_another_kind_is_found_and_replaced(finished, tmp_path, capsys):
    path = finished / "environment.json"
    whole = path.read_bytes()
    run = RunFolder(tmp_path / "done", CONFIG)
    for content in [*(whole[:n] for n in range(len(whole) - 1)), b"[]", b"[1]", b"3", b'{"earlier": 5}', b"\xff"]:
        path.write_bytes(content)
        run.write_environment({"python": "3"})
        assert json.loads(path.read_text())["python"] == "3"
        assert "environment.json was damaged and is rewritten" in capsys.readouterr().err
    run.close()


def test_run_in_use_by_another_process_is_refused_until_it_is_killed(tmp_path):
    lines = "import json; from runs.folder import RunFolder; run = RunFolder(sys.argv[2], json.loads(sys.argv[3]))"
    with holding(lines, tmp_path, json.dumps(CONFIG)) as process:
        with pytest.raises(UserError, match="is in use: another process is running this experiment now"):
            RunFolder(tmp_path, CONFIG)
        RunFolder(tmp_path, {**CONFIG, "seed": 2}).close()  # another experiment is free
        process.send_signal(signal.SIGKILL)
        process.wait()
        RunFolder(tmp_path, CONFIG).close()


def test_run_refused_or_closed_gives_its_lock_back(finished, tmp_path):
    content = (finished / "config.json").read_bytes()
    (finished / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged") as refusal:
        RunFolder(tmp_path / "done", CONFIG)
    (finished / "config.json").write_bytes(content)
    first = RunFolder(tmp_path / "done", CONFIG)
    assert refusal.traceback  # which still refers to the folder that was refused
    with pytest.raises(UserError, match="in use"):
        RunFolder(tmp_path / "done", CONFIG)
    first.close()
    RunFolder(tmp_path / "done", CONFIG).close()


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    (run.folder / ".model.pt.123.tmp").write_bytes(b"half")
    run.close()
    RunFolder(tmp_path, CONFIG).close()
    assert {p.name for p in run.folder.iterdir()} == {".lock", "config.json"}


def test_results_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        RunFolder(tmp_path / "file", CONFIG)
