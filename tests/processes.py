"""Other processes, for tests of what processes do to each other."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent

HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
{}
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(lines, *args):
    """A process that has run some lines and now waits; it is killed in the end. Its arguments begin at sys.argv[2]."""
    command = [sys.executable, "-c", HOLD.format(lines), str(ROOT), *map(str, args)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
