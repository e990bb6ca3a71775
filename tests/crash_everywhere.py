"""Crash demo.py at every single step that changes the disk, one crash a run, restart it, and compare what it ends with.

Usage: crash_everywhere.py FOLDER FLAG ...   Prints the number of crashes and of steps; the exit code is 1 if a run
ended otherwise than the undisturbed one.

Steps are writes (the crash leaves half of the bytes), flushes, fsyncs, renames (crash before and after), removals and
new folders. FOLDER gets the results; demo.py gets the flags, less --results_dir.
"""

import builtins
import csv
import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import demo

FILES = ("config.json", "queries.csv", "predictions.csv", "confusion_matrix.csv", "model.pt", "last_round.json")


class Steps:
    """Counts the steps of this process, and kills it at one of them."""

    def __init__(self, deadly=0):
        self.deadly, self.n = deadly, 0

    def reached(self):
        """Count a step; whether it is the deadly one."""
        self.n += 1
        return self.n == self.deadly

    def step(self):
        """A step that is either done or not."""
        if self.reached():
            die()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Writer:
    """A file opened for writing, whose deadly write leaves half of its bytes."""

    def __init__(self, file, steps):
        self.file, self.steps = file, steps

    def write(self, data):
        if self.steps.reached():
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            die()
        return self.file.write(data)

    def flush(self):
        self.steps.step()
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def watch(steps):
    """Let every step that changes the disk be counted from now on."""

    def before(module, name, after=False):
        real = getattr(module, name)

        def counted(*args, **kwargs):
            steps.step()
            result = real(*args, **kwargs)
            if after:
                steps.step()
            return result

        setattr(module, name, counted)

    before(os, "replace", after=True)
    for name in ("fsync", "unlink", "mkdir", "truncate"):
        before(os, name)
    opened = builtins.open

    def counted_open(path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return Writer(file, steps) if set(mode) & set("wax+") else file

    builtins.open = counted_open


def run(flags, results, deadly=0):
    """Run demo.py in a child. Returns whether it ended well, and its steps."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        steps = Steps(deadly)
        watch(steps)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        code = demo.main([*flags, "--results_dir", str(results)])
        os.write(writer, b"%d" % steps.n)
        os._exit(code)
    os.close(writer)
    n = os.read(reader, 100)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(n or 0)


def content(results):
    """What the run in a folder ended with, seconds aside."""
    (config,) = results.rglob("config.json")
    files = {name: (config.parent / name).read_bytes() for name in FILES}
    with open(config.parent / "rounds.csv", newline="") as f:
        rows = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(f)]
    left = sorted(p.name for p in results.rglob("*.tmp"))
    return files, rows, left


def main():
    """Crash everywhere. Returns the exit code."""
    folder, *flags = sys.argv[1:]
    torch.set_num_threads(1)  # no other threads, so that a child of this process can compute
    demo.main([*flags, "--results_dir", str(Path(folder) / "first")])  # so that no child has to import and set up
    code, n_steps = run(flags, Path(folder) / "whole")
    assert code == 0
    whole = content(Path(folder) / "whole")
    n_crashes, wrong = 0, []
    for deadly in range(1, n_steps + 1):
        results = Path(folder) / "crashed"
        code, _ = run(flags, results, deadly)
        n_crashes += code == -signal.SIGKILL
        code, _ = run(flags, results)
        if code != 0 or content(results) != whole:
            wrong.append(deadly)
        shutil.rmtree(results)
    print(f"{n_crashes} crashes at {n_steps} steps")
    if wrong:
        print(f"ended otherwise after a crash at step {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
