"""A run that is continued, interrupted or killed ends as if it had never stopped."""

import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import small
from experiments import count_trainings, same_run, table

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
    for name in ("predictions.csv", "confusion_matrix.csv", "config.json"):
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
