"""Sweeps on a Ray cluster: errors, the workers that Ray's processes keep, and a machine that is lost."""

import json
import os
import signal
import sys
import threading

import pytest
from experiments import same_run
from sweeping import RECORD, all_jobs, is_alive, wait_until

import sweep
from runs import on_ray
from runs.job import n_committed
from runs.local import thread_settings


def test_a_missing_ray_is_an_error(words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep.main([*words, "--engine", "ray"]) == 2
    assert "--engine ray needs Ray: pip install -r requirements-ray.txt" in capsys.readouterr().err


def test_a_ray_process_keeps_a_worker_until_the_gpu_or_the_settings_change(obedient, tmp_path, monkeypatch):
    def run_by(gpu="0", threads=1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
        flags = (RECORD.format(tmp_path / "record.json"), f"assert os.environ['CUDA_VISIBLE_DEVICES'] == {gpu!r}")
        done = on_ray.run_in_kept_worker(str(obedient), flags, thread_settings(threads), str(tmp_path))
        assert done == (0, "")
        record = json.loads((tmp_path / "record.json").read_text())
        assert (record["threads"], record["cwd"], record["n_runs"]) == (str(threads), str(tmp_path), 1)
        return record["parent"]

    first = run_by()
    assert run_by() == first
    second = run_by(gpu="1")
    assert second != first
    assert not is_alive(first)
    third = run_by(gpu="1", threads=2)
    assert third != second
    assert not is_alive(second)
    os.kill(third, signal.SIGKILL)
    wait_until(lambda: not is_alive(third))
    assert run_by(gpu="1", threads=2) != third
    flags = ("print('a reason', file=sys.stderr)", "sys.exit(3)")
    assert on_ray.run_in_kept_worker(str(obedient), flags, {}, str(tmp_path)) == (3, "a reason")
    for worker in on_ray._kept.values():
        worker.close()
    on_ray._kept.clear()


@pytest.fixture
def cluster():
    """A cluster of two machines with one core each, both of them this one; and the second of them."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    yield made, made.add_node(**size)
    made.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's own,
@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")  # the last one up to 2.5x
def test_ray_gives_the_same_bytes_when_a_machine_is_lost(words, undisturbed, cluster, capsys):
    made, second = cluster
    words = [*words, "--strategy_name", "MarginSampling", "--n_round", "5", "--min_steps", "60"]
    wholes = undisturbed(words)
    jobs = all_jobs(words)

    def lose():
        wait_until(lambda: sum(0 < n_committed(job) < job.n_rows for job in jobs) == 2)
        made.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    code = sweep.main([*words, "--engine", "ray", "--ray_address", made.address])
    thread.join()
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.endswith("# 2 runs: 2 finished, 0 failed\n")
    for job, whole in zip(jobs, wholes, strict=True):
        same_run(job.folder, whole.folder)
    starts = [json.loads((job.folder / "environment.json").read_text()) for job in jobs]
    assert [len(start["earlier"]) for start in starts].count(1) == 1  # the one that ran on the lost machine


def test_a_ray_cluster_that_is_not_there_is_an_error(words, capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    assert sweep.main([*words, "--engine", "ray"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --ray_address auto: no Ray cluster (")
    assert err.count("\n") == 1
