"""What a sweep starts, skips, resumes, shares and reports. The runs are a stand-in for demo.py."""

import fcntl
import os
import re
import signal
import sys
import threading
import time
from collections import Counter

import pytest
from sweeping import csv_files, wait_until

import sweep
from runs.job import is_finished
from runs.local import Local, thread_settings


def test_finished_runs_are_skipped(words, stand_in, capsys):
    jobs = stand_in.expect(words)
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert sorted(stand_in.started()) == sorted(str(job.folder) for job in jobs)
    out = capsys.readouterr().out
    assert out.count("\nfinished: Beasts/") == 4
    assert out.endswith("# 4 runs: 4 finished, 0 failed\n")
    stand_in.forget()
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert stand_in.started() == []
    assert "# 4 runs, 4 of them finished already\n" in capsys.readouterr().out


def test_interrupted_runs_are_resumed(words, stand_in):
    jobs = stand_in.expect(words)
    sweep.main(words)
    before = csv_files(jobs[0].folder.parents[1])
    rows = (jobs[2].folder / "rounds.csv").read_text().splitlines(keepends=True)
    (jobs[2].folder / "rounds.csv").write_text("".join(rows[:2]))
    stand_in.forget()
    assert sweep.main(words) == 0
    assert stand_in.log("round") == [[str(jobs[2].folder), "1"], [str(jobs[2].folder), "2"]]
    assert csv_files(jobs[0].folder.parents[1]) == before


def test_a_sweep_imports_demo_once_a_slot(words, stand_in):
    stand_in.expect([*words, "--seed", "1-5"])
    assert sweep.main([*words, "--seed", "1-5", "--jobs", "2"]) == 0
    assert len(stand_in.workers()) == 2
    assert Counter(int(words[2]) for words in stand_in.log("start")).keys() == set(stand_in.workers())
    assert len(set(stand_in.pids())) == 10


def test_without_fork_every_run_is_a_process_as_well(words, stand_in, monkeypatch):
    jobs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_NO_FORK", "1")
    monkeypatch.delattr(os, "fork")
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert sorted(stand_in.started()) == sorted(str(job.folder) for job in jobs)
    assert sorted(stand_in.workers()) == sorted(stand_in.pids())
    assert len(stand_in.pids()) == 4


def test_a_failure_is_listed_with_its_last_lines_and_stops_nothing(words, stand_in, monkeypatch, capsys):
    jobs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_FAIL", "RandomSampling/seed1")
    assert sweep.main([*words, "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert [is_finished(job) for job in jobs] == [False, True, True, True]
    assert f"failed: {jobs[0].name}\n" in out
    assert out.endswith("# 4 runs: 3 finished, 1 failed\n")
    head, *lines = err.splitlines()
    assert head == f"failed (exit code 3): {sweep.command(jobs[0], 1)}"
    assert lines == ["    a second line", "    a third line", "    ValueError: the fourth line"]
    monkeypatch.delenv("STAND_IN_FAIL")
    assert sweep.main(words) == 0


@pytest.mark.parametrize("victim", ["run", "worker"])
def test_a_killed_process_is_a_failure_that_the_next_sweep_mends(words, stand_in, monkeypatch, capsys, victim):
    jobs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")

    def kill():
        wait_until(stand_in.pids)
        ((_, run, worker, *_), *_) = stand_in.log("start")
        os.kill(int(run if victim == "run" else worker), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert sweep.main([*words, "--jobs", "2"]) == 1
    thread.join()
    assert "killed by SIGKILL: is the memory full?" in capsys.readouterr().err
    assert [is_finished(job) for job in jobs].count(False) == 1
    monkeypatch.delenv("STAND_IN_SECONDS")
    assert sweep.main(words) == 0


def test_a_run_that_succeeds_without_its_files_is_a_failure(words, stand_in, capsys):
    stand_in.demo.write_text("def main(): return 0")
    assert sweep.main([*words, "--seed", "1"]) == 1
    assert capsys.readouterr().err.count("is incomplete here; do all machines share this folder?") == 2


def test_two_sweeps_share_the_work_and_do_nothing_twice(words, stand_in, monkeypatch, capsys):
    words = [*words, "--seed", "1-5"]
    jobs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "0.02")
    engines = [Local(stand_in.demo, [thread_settings(1)] * 2) for _ in range(2)]
    sweeps = [sweep.Sweep(list(jobs), engine, sweep.Progress(jobs)) for engine in engines]
    threads = [threading.Thread(target=s.work) for s in sweeps]
    for thread in threads:
        thread.start()
    for thread, engine in zip(threads, engines, strict=True):
        thread.join()
        engine.stop()
    assert [s.failed for s in sweeps] == [{}, {}]
    assert all(is_finished(job) for job in jobs)
    assert Counter(stand_in.started()) == Counter(str(job.folder) for job in jobs)
    assert stand_in.log("refused") == []
    out = capsys.readouterr().out
    assert out.count("finished: ") == 10
    assert out.count("finished: ") + out.count("finished elsewhere: ") == 20


def test_a_run_that_another_process_holds_is_waited_for(words, stand_in, capsys):
    jobs = stand_in.expect([*words, "--seed", "1"])
    jobs[0].folder.mkdir(parents=True)
    lock = open(jobs[0].folder / ".lock", "a")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)

    def release():
        wait_until(lambda: is_finished(jobs[1]))
        time.sleep(2 * sweep.POLL_SECONDS)
        lock.close()

    thread = threading.Thread(target=release)
    thread.start()
    assert sweep.main([*words, "--seed", "1", "--jobs", "2"]) == 0
    thread.join()
    assert stand_in.started() == [str(jobs[1].folder), str(jobs[0].folder)]
    assert stand_in.log("refused") == []  # demo.py was never started in vain
    assert "waiting for runs of other processes: 1\n" in capsys.readouterr().out


def test_a_run_taken_between_the_look_and_the_start_is_tried_again(words, stand_in, monkeypatch):
    jobs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_REFUSE", "1")
    assert sweep.main([*words, "--jobs", "1"]) == 0
    assert len(stand_in.started()) == 5
    assert all(is_finished(job) for job in jobs)


def test_every_run_gets_the_requested_threads(words, stand_in):
    stand_in.expect(words)
    sweep.main([*words, "--threads", "2", "--jobs", "1"])
    assert [line[3:] for line in stand_in.log("start")] == [["2", os.environ.get("CUDA_VISIBLE_DEVICES", "None")]] * 4


def test_a_terminal_gets_one_bar_over_all_rounds(words, stand_in, monkeypatch, capsys):
    stand_in.expect(words)
    sweep.main([*words, "--seed", "2"])
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("STAND_IN_FAIL", "RandomSampling/seed1")
    assert sweep.main([*words, "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["# 4 runs, 2 of them finished already", "# 4 runs: 3 finished, 1 failed"]
    bars = re.findall(
        r"(\d+)/(\d+)", "".join(line for line in re.split("[\r\n]", err) if "round" in line and "|" in line)
    )
    assert bars[0] == ("6", "12")
    assert bars[-1] == ("10", "10")  # of the failed run only its one row counts
