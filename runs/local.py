"""Doing jobs on this machine: one worker process in each slot, with its share of the GPUs and cores."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from runs.job import Ended, Job
from utils import UserError, n_cores, warn

if TYPE_CHECKING:
    from argparse import Namespace

WORKER = Path(__file__).with_name("worker.py")
# What most runs import after their start, and workers beforehand.
IMPORTED_LATE = ("sklearn.datasets", "torch._dynamo", "torchvision.models")
POLL_SECONDS = 0.05  # between two looks at the runs, where one cannot wait for several pipes
STOP_SECONDS = 2.0  # until workers that do not end when asked to are killed


def thread_settings(threads: int) -> dict[str, str]:
    """Environment variables that give a process this many CPU threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def code_version(folder: Path) -> list[tuple[str, int]]:
    """The Python files of a folder and of the packages in it, each with the time of its last change."""
    packages = {init.parent for init in folder.glob("*/__init__.py")}
    version = []
    for path in itertools.chain(folder.glob("*.py"), *(package.rglob("*.py") for package in packages)):
        with suppress(FileNotFoundError):  # an editor is replacing it
            version.append((str(path), path.stat().st_mtime_ns))
    return sorted(version)


class Worker:
    """A process that has imported demo.py and does runs, one at a time; see runs/worker.py.

    It ends with this process, however this one ends, and a run ends with its worker.

    Args:
        demo: path of demo.py.
        settings: environment variables of the runs.
        folder: working directory of the runs.
    """

    def __init__(self, demo: Path, settings: dict[str, str], folder: str) -> None:
        self._code_folder, self._code_version = demo.parent, code_version(demo.parent)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(demo), *IMPORTED_LATE],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **settings},
            cwd=folder,
        )

    def is_usable(self) -> bool:
        """Whether it can do another run, with the code as it is now."""
        return self._process.poll() is None and code_version(self._code_folder) == self._code_version

    def start(self, flags: Sequence[str]) -> None:
        """Start a run; the one before must have ended."""
        self._stderr.seek(0)
        self._stderr.truncate()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died, as `exit_code` will show
            self._process.stdin.write(json.dumps(flags).encode() + b"\n")

    def fileno(self) -> int:
        """The pipe that becomes readable when a run ends."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def exit_code(self) -> int | None:
        """Exit code of the run, negative for a signal; None while it goes on. The worker may have died with it."""
        assert self._process.stdout is not None
        if hasattr(os, "fork") and wait([self.fileno()], 0) and (answer := self._process.stdout.readline()):
            return int(answer)
        return self._process.poll()

    def last_lines(self, code: int) -> str:
        """The last three lines that the run wrote on stderr; if it was killed, the last of them names the signal."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 5000))
        lines = [line for line in self._stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
        if code < 0:
            lines.append(f"killed by {signal.Signals(-code).name}" + (": is the memory full?" if code == -9 else ""))
        return "\n".join(lines[-3:])

    def stop(self) -> None:
        """Make it kill its run and end; does not wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self, seconds: float = STOP_SECONDS) -> None:
        """Stop it and wait for its end; kill it if that takes longer than so many seconds."""
        self.stop()
        with self._process, self._stderr:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:  # it still imports demo.py, and has no run
                self._process.kill()


def wait_for_one(workers: Sequence[Worker], seconds: float) -> None:
    """Return when a run of these workers may have ended, after so many seconds at the latest."""
    if hasattr(os, "fork"):
        wait([worker.fileno() for worker in workers], seconds)
    else:
        time.sleep(min(POLL_SECONDS, seconds))


@dataclass
class Slot:
    """Room for one run at a time: its environment variables, and the worker that serves it once there is one."""

    settings: dict[str, str]
    worker: Worker | None = None


class Local:
    """Does jobs in processes of this machine, one at a time in each slot.

    Args:
        demo: path of demo.py.
        settings: environment variables of each slot.
    """

    def __init__(self, demo: Path, settings: Sequence[dict[str, str]]) -> None:
        self._demo = demo
        self._idle = [Slot(variables) for variables in reversed(settings)]
        self._active: dict[Job, Slot] = {}

    def has_room(self) -> bool:
        """Whether one more may start now."""
        return bool(self._idle)

    def start(self, job: Job) -> None:
        """Start a job in an idle slot, with a new worker where the slot has none that is up to date."""
        slot = self._idle.pop()
        if slot.worker is not None and not slot.worker.is_usable():
            slot.worker.close()
            slot.worker = None
        slot.worker = slot.worker or Worker(self._demo, slot.settings, os.getcwd())
        slot.worker.start(job.flags)
        self._active[job] = slot

    def ended(self, seconds: float) -> list[Ended]:
        """The jobs that ended, after waiting at most so many seconds for one."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [
                self._take(job, worker, code)
                for job, worker in self._running()
                if (code := worker.exit_code()) is not None
            ]
            left = deadline - time.monotonic()
            if ended or left <= 0:
                return ended
            wait_for_one([worker for _, worker in self._running()], left)

    def _running(self) -> list[tuple[Job, Worker]]:
        return [(job, slot.worker) for job, slot in self._active.items() if slot.worker is not None]

    def _take(self, job: Job, worker: Worker, code: int) -> Ended:
        self._idle.append(self._active.pop(job))
        return Ended(job, code, worker.last_lines(code))

    def stop(self) -> None:
        """End all workers and what is still running; a run can be ended at any moment."""
        workers = [slot.worker for slot in [*self._idle, *self._active.values()] if slot.worker is not None]
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.close(max(0, deadline - time.monotonic()))
        self._idle, self._active = [], {}


def visible_gpus() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES allows, by the names it gives them."""
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names[:n]] if names[0].strip() else [str(i) for i in range(n)]


def slot_settings(args: Namespace, device: str) -> list[dict[str, str]]:
    """The environment variables of each slot: a GPU, or a share of one, where there are GPUs, and CPU threads.

    Args:
        args: the flags of sweep.py.
        device: the --device of the runs.

    Raises:
        UserError: more jobs than the GPUs have room for.
    """
    gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in visible_gpus()] if device in ("auto", "cuda") else []
    if not gpus and device.startswith(("cuda:", "mps")):
        gpus = [{}]
    slots: list[dict[str, str]] = gpus * args.jobs_per_gpu or [{}] * (args.jobs or max(1, n_cores() // args.threads))
    jobs = args.jobs or len(slots)
    if jobs > len(slots):
        raise UserError(f"--jobs {jobs}: the GPUs have room for {len(slots)}; a larger --jobs_per_gpu makes more")
    if not gpus and jobs * args.threads > n_cores():
        warn(f"{jobs} runs of {args.threads} threads are more than the {n_cores()} cores here and slow each other down")
    return [{**thread_settings(args.threads), **slot} for slot in slots[:jobs]]
