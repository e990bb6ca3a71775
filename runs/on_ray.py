"""Doing jobs on the machines of a Ray cluster, which must share the code, the data and the results."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.job import Ended, Job
from runs.local import Worker, thread_settings, wait_for_one
from utils import UserError, warn

if TYPE_CHECKING:
    from argparse import Namespace

CODE = Path(__file__).resolve().parent.parent
MAX_RETRIES = 2  # of a job whose machine was lost


_kept: dict[tuple[Any, ...], Worker] = {}  # at most one worker, which ends with this process


def run_in_kept_worker(demo: str, flags: Sequence[str], settings: dict[str, str], folder: str) -> tuple[int, str]:
    """Run demo.py on this machine, by the worker of the last such call if that fits. Returns exit code and last lines.

    Args:
        demo: path of demo.py.
        flags: flags of demo.py.
        settings: environment variables beside those of this process.
        folder: working directory.
    """
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")  # Ray sets it before each call
    key = (demo, tuple(settings.items()), folder, gpu)
    worker = _kept.get(key)
    if worker is None or not worker.is_usable():
        for other in _kept.values():
            other.close()
        _kept.clear()
        worker = _kept[key] = Worker(Path(demo), settings, folder)
    worker.start(flags)
    while (code := worker.exit_code()) is None:
        wait_for_one([worker], 60)
    return code, worker.last_lines(code)


def run_on_node(code: str, *arguments: Any) -> tuple[int, str]:
    """`run_in_kept_worker` on the machine that Ray has picked, where the folder of the code is the same as here."""
    if code not in sys.path:
        sys.path.insert(0, code)
    from runs import on_ray

    return on_ray.run_in_kept_worker(*arguments)


class OnRay:
    """Does jobs on a Ray cluster.

    Args:
        demo: path of demo.py, the same on all machines.
        args: the flags of sweep.py.
        device: the --device of the runs.

    Raises:
        UserError: Ray is not installed, the cluster does not answer or does not have such a device.
    """

    def __init__(self, demo: Path, args: Namespace, device: str) -> None:
        try:
            import ray
        except ImportError as e:
            raise UserError(f"--engine ray needs Ray: pip install -r requirements-ray.txt ({e})") from e
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {device}: with --engine ray it must be auto, cpu or cuda; Ray picks which GPU")
        try:
            ray.init(address=args.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"--ray_address {args.ray_address}: no Ray cluster ({reason}); see docs/clusters.md") from e
        self._ray, self._demo, self._args = ray, demo, args
        self._on_gpu = device != "cpu" and self._total("GPU") > 0
        if device == "cuda" and not self._on_gpu:
            raise UserError("--device cuda: the Ray cluster has no GPU; use --device cpu")
        if not any(node["Resources"].get("CPU", 0) >= args.threads for node in ray.nodes() if node["Alive"]):
            warn(f"no machine of the Ray cluster has {args.threads} cores; the runs wait until one joins")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes may not find this file
        share = 1 / args.jobs_per_gpu if self._on_gpu else 0
        # max_calls=0: Ray's processes are used again, on GPUs too, as they hold no GPU memory themselves
        options = {"num_gpus": share, "num_cpus": args.threads, "max_retries": MAX_RETRIES, "max_calls": 0}
        self._run = ray.remote(**options)(run_on_node)
        self._active: dict[Any, Job] = {}

    def _total(self, resource: str) -> float:
        return self._ray.cluster_resources().get(resource, 0)

    def has_room(self) -> bool:
        """Whether one more may be submitted: twice as many as run at a time keep every machine busy."""
        a = self._args
        at_a_time = self._total("GPU") * a.jobs_per_gpu if self._on_gpu else self._total("CPU") // a.threads
        return len(self._active) < (a.jobs or max(1, 2 * at_a_time))

    def start(self, job: Job) -> None:
        """Submit a job to the cluster."""
        settings = thread_settings(self._args.threads)
        ref = self._run.remote(str(CODE), str(self._demo), job.flags, settings, os.getcwd())
        self._active[ref] = job

    def ended(self, seconds: float) -> list[Ended]:
        """The jobs that ended, after waiting at most so many seconds for one."""
        if not self._active:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(self._active), num_returns=1, timeout=seconds)
        return [self._take(ref) for ref in ended]

    def _take(self, ref: Any) -> Ended:
        job = self._active.pop(ref)
        try:
            return Ended(job, *self._ray.get(ref))
        except self._ray.exceptions.RayError as e:  # its machine was lost more often than MAX_RETRIES
            return Ended(job, 1, "\n".join(str(e).strip().splitlines()[:3]))

    def stop(self) -> None:
        """End what is still running."""
        for ref in self._active:
            self._ray.cancel(ref, force=True)
        self._ray.shutdown()
