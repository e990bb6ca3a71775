"""Sweeps of the real demo.py: the same bytes as without them, and no time lost to imports."""

import json
import os
import re
import subprocess
import sys

from experiments import same_run
from sweeping import all_jobs, wait_until

import sweep
from runs.job import is_finished, n_committed
from runs.local import IMPORTED_LATE

# Imports what a worker does, with CUDA out of bounds; then does runs and prints what they imported.
RUNS_AFTER_IMPORTS = f"""
import importlib, json, sys
import torch

def refuse(*args, **kwargs):
    raise AssertionError("CUDA is used before the fork")

usable = torch.cuda.is_available, torch.cuda.device_count, torch.cuda._lazy_init
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = refuse
for name in ("demo", *{IMPORTED_LATE!r}):
    importlib.import_module(name)
torch.cuda.is_available, torch.cuda.device_count, torch.cuda._lazy_init = usable
before = set(sys.modules)
for flags in json.loads(sys.argv[1]):
    assert importlib.import_module("demo").main(flags) == 0
print("IMPORTED", *sorted(set(sys.modules) - before))
"""


def in_own_process(*command, threads=1):
    """Run Python in the folder of the code. Returns what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *command], cwd=sweep.DEMO.parent, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runs_of_a_worker_import_next_to_nothing_and_it_leaves_cuda_alone(words, tmp_path):
    digits = ["--dataset_name", "Digits", "--img_size", "8", "--n_init_labeled", "30"]
    jobs = all_jobs([*words, "--strategy_name", "MarginSampling", "ClusterBasedSelection", "BADGE", "--seed", "1"])
    jobs += all_jobs([*words, *digits, "--strategy_name", "RandomSampling", "--seed", "1"])
    out = in_own_process("-c", RUNS_AFTER_IMPORTS, json.dumps([job.flags for job in jobs]))
    imported = [name for name in re.search("IMPORTED(.*)", out)[1].split() if not name.startswith("PIL.")]
    assert len(imported) < 30, imported


def test_two_threads_in_a_worker_give_the_bytes_of_a_process_of_its_own(words, tmp_path):
    words = [*words, "--strategy_name", "ClusterBasedSelection", "--seed", "1"]
    (alone,) = all_jobs([*words, "--results_dir", str(tmp_path / "alone")])
    in_own_process("demo.py", *alone.flags, threads=2)
    (job,) = all_jobs(words)
    assert sweep.main([*words, "--threads", "2", "--jobs", "1"]) == 0
    same_run(job.folder, alone.folder)
    records = [json.loads((j.folder / "environment.json").read_text()) for j in (job, alone)]
    assert [record["threads"] for record in records] == [2, 2]
    assert records[0]["command"] == [str(sweep.DEMO), *job.flags]
    for record in records:
        del record["command"], record["git_commit"]  # files may change meanwhile
    assert records[0] == records[1]


def test_killed_and_resumed_a_sweep_gives_the_same_bytes(words, undisturbed, start_sweep):
    words = [*words, "--strategy_name", "MarginSampling", "--seed", "1", "--n_round", "5", "--min_steps", "60"]
    wholes = undisturbed(words)
    jobs = all_jobs(words)
    process = start_sweep(words)
    wait_until(lambda: any(n_committed(job) for job in jobs))
    process.kill()
    process.join()
    assert not all(is_finished(job) for job in jobs)
    process = start_sweep(words)  # at once: a run may still be dying with its lock
    process.join()
    assert process.exitcode == 0
    for job, whole in zip(jobs, wholes, strict=True):
        same_run(job.folder, whole.folder)
        assert json.loads((job.folder / "environment.json").read_text())["threads"] == 1
