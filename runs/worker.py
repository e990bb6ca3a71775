"""The process behind each slot of a sweep: imports demo.py once and forks a child for every run.

    python -P runs/worker.py path/to/demo.py MODULE ...

It reads one line a run on stdin, the flags of demo.py as a JSON list, and answers with one line on stdout, the exit
code of the run. The next line must not be sent before the answer. When stdin closes, because the sweep has closed it or
has died, the worker kills the run and ends. When the worker dies, its run ends too.

The modules are imported before the forks too, so that no run has to. Where processes cannot fork (Windows), the worker
does one run in its own process: its exit code is the answer.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.01  # between two looks at a run
returned: list[int] = []  # in a child, the exit code of its run


def main() -> int:
    """Serve runs until stdin closes. Returns the exit code; in a child, that of its run."""
    atexit.register(leave)  # first, so that it is called last
    demo_path, *modules = sys.argv[1:]
    lines, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # what runs print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep, which then closes stdin
    sys.path.insert(0, str(Path(demo_path).parent))
    demo = importlib.import_module("demo")
    if hasattr(os, "fork"):
        for name in modules:
            importlib.import_module(name)
        return serve(lines, answers, demo.main, demo_path)
    line = lines.readline()
    return run(demo.main, demo_path, line, lines.fileno()) if line else 0


def run(demo_main: Callable[[], int], demo_path: str, line: bytes, lifeline: int) -> int:
    """Run demo.py in this process, which ends at once when the other end of the pipe `lifeline` closes."""
    threading.Thread(target=lambda: os.read(lifeline, 1) or os._exit(130), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [demo_path, *json.loads(line)]
    return demo_main()


def serve(lines: IO[bytes], answers: int, demo_main: Callable[[], int], demo_path: str) -> int:
    """Fork a child for each line and answer with its exit code. Returns 0, but in a child what `run` returns."""
    gc.collect()
    gc.freeze()  # the children's garbage collector leaves alone what they share with this process
    lifeline, held_open = os.pipe()  # closes with this process
    for line in lines:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            child = os.fork()  # OpenBLAS may have started threads, and stops them before a fork
        if child == 0:
            lines.close()
            os.close(answers)
            os.close(held_open)
            returned.append(run(demo_main, demo_path, line, lifeline))
            return returned[0]
        code = wait(child, lines)
        if code is None:
            break
        os.write(answers, b"%d\n" % code)
    return 0


def leave() -> None:
    """Exit a child without the interpreter's cleanup, which takes 0.4 CPU-seconds: it copies what the worker shares.

    A run that raised an exception is cleaned up as usual.
    """
    if returned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(returned[0])


def wait(child: int, lines: IO[bytes]) -> int | None:
    """Wait for a run to end. Returns its exit code, negative for a signal; None if the sweep is gone: it is killed."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if select.select([lines], [], [], POLL_SECONDS)[0]:  # closed: nothing is sent between a line and its answer
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None


if __name__ == "__main__":
    sys.exit(main())
