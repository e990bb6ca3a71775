"""A run that is continued, interrupted or killed ends as if it had never stopped."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import small
from experiments import count_trainings, same_run, table
from small_run import files

import demo

ROOT = Path(demo.__file__).parent


def test_a_finished_run_is_left_alone(run, capsys):
    _, folder = run()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert run()[0] == 0
    assert "finished already" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_larger_n_round_continues_as_if_never_stopped(run):
    run("parts", n_round=0)
    run("parts", n_round=1)
    _, parts = run("parts", n_round=3)
    _, whole = run("whole", n_round=3)
    same_run(parts, whole)
    assert all(float(r["query_seconds"]) > 0 for r in table(parts / "rounds.csv")[:-1])


OUTPUTS = ("predictions.csv", "confusion_matrix.csv", "model.pt")


def damaged(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("name", [*OUTPUTS, "last_round.json"])
@pytest.mark.parametrize("damage", [Path.unlink, damaged])
def test_output_files_of_a_finished_run_are_made_again_where_missing_or_damaged(run, capsys, monkeypatch, name, damage):
    _, folder = run(n_round=1)
    before = files(folder)
    damage(folder / name)
    trained = count_trainings(monkeypatch)
    capsys.readouterr()
    assert run(n_round=1)[0] == 0
    out, err = capsys.readouterr()
    assert "finished already" in out
    if (damage, name) == (Path.unlink, "last_round.json"):  # as in the results of an older version
        assert (trained, err) == ([], "")
        return
    assert trained == [10]
    (note,) = err.splitlines()
    assert name in note
    assert note.endswith("; training round 1 again to write them")
    environment = json.loads(files(folder)["environment.json"])
    assert len(environment["earlier"]) == 1  # the start that wrote them is recorded
    assert {**files(folder), "environment.json": b""} == {**before, "environment.json": b""}


class Killed(BaseException):
    """Stands in for a kill."""


@contextmanager
def killed_at_results_of(round, monkeypatch):
    """Die between the commit of a round and its output files."""
    write = demo.write_results

    def deadly(e, run, r, *rest):
        if r == round:
            raise Killed
        write(e, run, r, *rest)

    with monkeypatch.context() as m, suppress(Killed):
        m.setattr(demo, "write_results", deadly)
        yield
        pytest.fail("it was not killed")


@pytest.mark.parametrize("killed_in", range(3))
def test_killed_between_a_commit_and_the_output_files_a_run_ends_with_the_same_files(
    run, capsys, monkeypatch, killed_in
):
    _, whole = run("whole", n_round=2)
    with killed_at_results_of(killed_in, monkeypatch):
        run(n_round=2)
    capsys.readouterr()
    code, folder = run(n_round=2)
    assert code == 0
    same_run(folder, whole)
    for name in (*OUTPUTS, "last_round.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert ("training round 2 again to write them" in capsys.readouterr().err) == (killed_in == 2)


def test_with_a_smaller_n_round_the_output_files_are_of_a_committed_round_that_they_name(run, capsys, monkeypatch):
    _, whole = run("whole", n_round=1)
    with killed_at_results_of(2, monkeypatch):
        run(n_round=3)
    code, folder = run(n_round=1)  # rounds 0 to 2 are committed; the files show round 1
    assert code == 0
    assert "again" not in capsys.readouterr().err
    assert json.loads((folder / "last_round.json").read_text())["round"] == 1
    assert (folder / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    (folder / "predictions.csv").unlink()  # trained again on the labels of round 1, though those of round 3 are known
    assert run(n_round=1)[0] == 0
    assert "training round 1 again to write them" in capsys.readouterr().err
    for name in (*OUTPUTS, "last_round.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    run(n_round=3)
    run(n_round=2)  # the files of round 3 are whole, and more is lost than gained by those of round 2
    assert json.loads((folder / "last_round.json").read_text())["round"] == 3


def test_committed_rounds_are_never_dropped_in_silence(run, capsys):
    _, folder = run(n_round=2)
    whole = files(folder)
    for content in (b"", bytes(len(whole["rounds.csv"])), whole["rounds.csv"][:-5]):
        (folder / "rounds.csv").write_bytes(content)
        capsys.readouterr()
        assert run(n_round=2)[0] == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {folder}/rounds.csv is damaged")
        assert files(folder) == {**whole, "rounds.csv": content}


def test_a_config_deleted_while_running_is_written_again(run, monkeypatch, capsys):
    delete_at_round(monkeypatch, 1, lambda folder: (folder / "config.json").unlink())
    code, folder = run(n_round=2)
    assert code == 0
    assert "config.json was deleted while the run was going on and is written again" in capsys.readouterr().err
    assert json.loads((folder / "config.json").read_text())["seed"] == 1


def test_a_folder_deleted_while_running_ends_the_run_with_one_line(run, monkeypatch, capsys):
    delete_at_round(monkeypatch, 1, shutil.rmtree)
    assert run(n_round=2)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("was deleted or moved while the run was going on; start it again")


def delete_at_round(monkeypatch, round, delete):
    """From now on, delete something of a run's folder while a round is trained."""
    one_round = demo.one_round

    def disturbed(e, run, pool, test, r, announce):
        if r == round:
            delete(run.folder)
        return one_round(e, run, pool, test, r, announce)

    monkeypatch.setattr(demo, "one_round", disturbed)


def test_resuming_trains_nothing_twice(run, monkeypatch):
    _, folder = run(n_round=3)
    rows = (folder / "rounds.csv").read_text().splitlines(keepends=True)
    (folder / "rounds.csv").write_text("".join(rows[:3]))  # rounds 0 and 1
    trained = count_trainings(monkeypatch)
    assert run(n_round=3)[0] == 0
    assert trained == [14, 18]


@pytest.mark.parametrize("how", ["replace", "time"])
def test_killed_at_any_moment_a_run_ends_with_the_same_files(run, tmp_path, how):
    _, whole = run("whole", min_steps=50)
    words = [w.replace(str(tmp_path / "whole"), str(tmp_path / how)) for w in run.words]
    command = [sys.executable, ROOT / "tests" / "killer.py", how, "4", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3
    (config,) = (tmp_path / how).rglob("config.json")
    same_run(config.parent, whole)
    for name in ("predictions.csv", "confusion_matrix.csv", "config.json", "model.pt", "last_round.json"):
        assert (config.parent / name).read_bytes() == (whole / name).read_bytes()


def test_two_runs_in_one_folder_are_refused_until_the_first_is_dead(run, tmp_path, capsys):
    run("probe", n_round=0)
    words = [w.replace(str(tmp_path / "probe"), str(tmp_path / "results")) for w in run.words]
    slow = [sys.executable, ROOT / "demo.py", *words, "--min_steps", "1000000"]
    with subprocess.Popen(slow, stdout=subprocess.PIPE, text=True) as first:
        for line in first.stdout:
            if line.startswith("round"):
                break
        assert run(n_round=0, min_steps=1000000)[0] == 2
        assert "is in use: another process" in capsys.readouterr().err
        first.send_signal(signal.SIGKILL)
    assert run(n_round=0, min_steps=1000000, n_epoch=1, dataset_name="None")[0] == 2  # a mistake, but no lock
    assert "in use" not in capsys.readouterr().err


def test_ctrl_c_without_a_seed_says_which_was_drawn(run, monkeypatch, capsys):
    def interrupted(e):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_experiment", interrupted)
    monkeypatch.setattr(demo.secrets, "randbelow", lambda n: 77)
    assert run(seed=None)[0] == 130
    assert capsys.readouterr().err == "interrupted; the same command with --seed 77 resumes the run\n"


def test_ctrl_c_is_one_line_and_the_run_resumes(run, tmp_path):
    run("probe", n_round=0)
    words = [w.replace(str(tmp_path / "probe"), str(tmp_path / "results")) for w in run.words]
    slow = [sys.executable, ROOT / "demo.py", *words, "--min_steps", "1000000"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells start background jobs deaf to Ctrl-C
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(slow, **pipes, preexec_fn=heard) as first:
        for line in first.stdout:
            if line.startswith("round"):
                break
        time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command resumes the run"
    assert "Traceback" not in err


def test_a_crash_at_any_step_that_changes_the_disk_changes_nothing_in_the_end(tmp_path):
    small.image_folder(tmp_path / "DATA" / "Beasts")
    flags = {
        "dataset_name": "Beasts", "data_dir": tmp_path / "DATA", "img_size": 8, "net_name": "SmallCNN", "seed": 1,
        "n_init_labeled": 4, "n_query": 2, "n_round": 2, "n_epoch": 1, "min_steps": 2, "batch_size": 2,
        "strategy_name": "MarginSampling", "device": "cpu",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, ROOT / "tests" / "crash_everywhere.py", tmp_path / "results", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    n_crashes, n_steps = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    assert n_crashes == n_steps >= 100
