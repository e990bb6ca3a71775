"""Sweeps, workers and runs that are killed: nothing keeps running, and the end is the same."""

import os
import random
import signal
import time

import pytest
from sweeping import csv_files, is_alive, wait_until

import sweep
from runs.job import is_finished


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_ends_everything_with_one_line(words, stand_in, monkeypatch, start_sweep, tmp_path, whole_group):
    stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "1000")
    process = start_sweep([*words, "--jobs", "2"])
    wait_until(lambda: len(stand_in.pids()) == 2)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert not any(map(is_alive, stand_in.pids() + stand_in.workers()))
    assert (tmp_path / "err").read_text() == "interrupted; the same command resumes the sweep\n"


def test_everything_ends_when_the_sweep_is_killed(words, stand_in, monkeypatch, start_sweep):
    stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "1000")
    process = start_sweep([*words, "--jobs", "2"])
    wait_until(lambda: len(stand_in.pids()) == 2)
    process.kill()
    wait_until(lambda: not any(map(is_alive, stand_in.pids() + stand_in.workers())), seconds=10)


@pytest.mark.parametrize("victims", [["sweep"], ["worker"], ["run"], ["worker", "run"], ["sweep", "worker", "run"]])
def test_killed_at_random_moments_a_sweep_ends_with_the_same_files(
    words, stand_in, monkeypatch, start_sweep, tmp_path, victims
):
    words = [*words, "--seed", "1-6"]
    whole = [*words, "--results_dir", str(tmp_path / "whole")]
    stand_in.expect(whole)
    sweep.main(whole)
    jobs = stand_in.expect(words)
    rng = random.Random(" ".join(victims))
    monkeypatch.setenv("STAND_IN_SECONDS", "0.06")
    n_disturbed = 0
    for _ in range(6):
        stand_in.forget()
        process = start_sweep([*words, "--jobs", "2"])
        wait_until(lambda process=process: stand_in.workers() or not process.is_alive())
        for _ in range(rng.randint(1, 6)):
            time.sleep(rng.uniform(0, 0.15))
            pids = {"sweep": [process.pid], "worker": stand_in.workers()[-2:], "run": stand_in.pids()[-2:]}
            for victim in rng.sample(victims, len(victims)):
                for pid in pids[victim]:
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode in ((0, -9) if "sweep" in victims else (0, 1))
        n_disturbed += process.exitcode != 0
        wait_until(lambda: not any(map(is_alive, stand_in.pids() + stand_in.workers())), seconds=10)
    assert n_disturbed >= 1
    monkeypatch.delenv("STAND_IN_SECONDS")
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert csv_files(tmp_path / "results") == csv_files(tmp_path / "whole")
    assert all(is_finished(job) for job in jobs)
