"""The page served as label.py serves it, on a folder of `make_folder`, with trainings that take a blink.

    python labeling_served.py ROOT RESULTS PORT [CLASS ...] [--blind] [--annotator NAME] [--idle SECONDS]

The network takes image i for class i modulo the number of classes, and each sixth one for the class after that.
`started` runs it as a process of its own, to be killed.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import labeling.connections
from labeling.project import Project
from labeling.records import Measured
from labeling.server import serve
from labeling.session import Session
from labeling.work import Ready, Result, Suggestion
from runs.format import Round
from utils import exit_code

TRAINING_SECONDS = 0.2


def suggested(i, n_classes):
    """What the network takes image i for."""
    return (i + (i % 6 == 5)) % n_classes


def train(task, n_classes):
    """The result of a task."""
    picks, known, measured = task.candidates[:: 1 if task.train else 2][: task.n], {}, None
    if task.train or not task.n:
        for i in {*task.candidates, *task.queued}:
            label = suggested(i, n_classes)
            ranked = [label, *(c for c in range(n_classes) if c != label)]
            known[i] = Suggestion(label, 0.5 + 0.4 * (i % 7) / 7, tuple(ranked[:10]))
    if task.train:
        n = len(task.validation)
        right = n * (task.round + 2) // (task.round + 3)
        measured = Measured(Round(task.round, len(task.labels), {}, 1.0, 0.1, 0.1), n, right, None)
    groups = {c: [i for i in task.candidates if i in known and known[i].label == c] for c in range(n_classes)}
    return Result(picks, None, known, groups, measured)


async def run(args):
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    given = {"classes": tuple(args.classes), "n_query": 20, "n_val": 10}
    project = Project(args.root, args.results, given)
    project.save()

    def submit(task):
        loop.call_later(TRAINING_SECONDS, lambda: session.receive(train(task, len(args.classes))))

    session = Session(project, args.blind, submit)
    loop.call_later(TRAINING_SECONDS, session.receive, Ready({}))
    await serve(session, args.port, lambda url: print(url, flush=True), args.annotator)


@contextmanager
def started(root, results, port=0, *more):
    """The address of the page in a process of its own, and the process; it is killed in the end."""
    command = [sys.executable, __file__, str(root), str(results), str(port), *more]
    # without waiting for the disk: no test cuts the power
    settings = {"env": {**os.environ, "NO_FSYNC": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **settings)
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def port_of(url):
    """The port in an address."""
    return int(re.search(r":(\d+)/", url)[1])


if __name__ == "__main__":
    flags = argparse.ArgumentParser()
    flags.add_argument("root", type=Path)
    flags.add_argument("results", type=Path)
    flags.add_argument("port", type=int)
    flags.add_argument("classes", nargs="*", default=["duck", "gull", "heron"])
    flags.add_argument("--blind", action="store_true")
    flags.add_argument("--annotator")
    flags.add_argument("--idle", type=float, default=labeling.connections.IDLE_SECONDS)
    args = flags.parse_args()
    labeling.connections.IDLE_SECONDS = args.idle
    if "NO_FSYNC" in os.environ:
        os.fsync = lambda _: None
    sys.exit(exit_code(lambda: asyncio.run(run(args)), "interrupted"))
