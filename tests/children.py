"""Scripts run in forked children of a process that has imported everything, each with a time limit, and how they ended.

A start of Python and its imports takes seconds, a fork takes milliseconds.
"""

import os
import re
import signal
import sys
import time
import traceback
import warnings
from typing import NamedTuple

LIMIT = 20  # seconds, of which a command of the campaigns needs less than one
MOST_MEMORY = 1.5e9  # bytes that a command may take beside those that it shares with its parent
UNPRINTABLE = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]")


class Ending(NamedTuple):
    """How a child ended.

    Attributes:
        code: exit code, negative for a signal; None for a child that was killed at the time limit.
        out, err: what it wrote.
        memory: bytes that it took more than its parent had at its end.
    """

    code: int | None
    out: str
    err: str
    memory: float

    def faults(self, codes=(0, 2), memory=MOST_MEMORY):
        """What no command may do, whatever its files hold: a line each."""
        if self.code is None:
            return [f"hang: no end within {LIMIT} s"]
        found = []
        if "Traceback" in self.err:
            lines = [line for line in self.err.splitlines() if line and not line.startswith(" ")]
            found.append(f"traceback: {lines[-1]}")
        elif self.code not in codes:
            found.append(f"exit code {self.code}")
        elif self.code == 2 and not self.err.startswith("error: ") and "\nerror: " not in self.err:
            found.append("exit code 2 without an error line")
        elif stray := [line for line in self.err.splitlines() if not line.startswith(("note: ", "error: ", "  "))]:
            found.append(f"stray line on stderr: {stray[0]}")
        if raw := UNPRINTABLE.search(self.out + self.err):
            found.append(f"control character {raw[0]!a} printed")
        if self.memory > memory:
            found.append(f"memory: {self.memory / 1e9:.1f} GB")
        return found


def in_child(work, folder, limit=LIMIT):
    """Call `work` in a forked child whose working folder and output files are in `folder`.

    Args:
        work: returns the exit code.
        folder: gets `out`, `err` and the empty working folder `cwd`.
        limit: seconds after which the child and its children are killed.
    """
    (folder / "cwd").mkdir(exist_ok=True)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # threads of BLAS, which wait
        child = os.fork()
    if child == 0:
        _work_and_exit(work, folder)
    end, pause = time.monotonic() + limit, 0.001
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended or time.monotonic() > end:
            break
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    code = os.waitstatus_to_exitcode(status) if ended else None
    if not ended:
        os.killpg(child, signal.SIGKILL)
        _, _, used = os.wait4(child, 0)
    out, err = ((folder / name).read_text("utf-8", "surrogateescape") for name in ("out", "err"))
    return Ending(code, out, err, 1024 * (used.ru_maxrss - _own_memory()))


def _own_memory():
    """Kilobytes that this process holds in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


def _work_and_exit(work, folder):
    code = 1
    try:
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder / "cwd")
        try:
            code = work()
        except SystemExit as e:
            code = e.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def snapshot(folder):
    """All that is in a folder: kind, size, time of change and content of each file."""
    found = {}
    for here, below, names in os.walk(folder):
        for name in [*below, *names]:
            path = os.path.join(here, name)
            stat = os.lstat(path)
            times = None if os.path.isdir(path) else (stat.st_size, stat.st_mtime_ns)
            found[os.path.relpath(path, folder)] = (stat.st_mode, times, content_at(path))
    return found


def content_at(path):
    """A file's bytes, or what stands there instead, without following links or waiting for a FIFO."""
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    if os.path.isfile(path):
        with open(path, "rb") as f:
            return f.read()
    return "folder" if os.path.isdir(path) else "other" if os.path.lexists(path) else None
