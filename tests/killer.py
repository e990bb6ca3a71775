"""Run demo.py again and again, each time killed with -9 at another moment, until one run ends by itself.

Usage: killer.py replace|time SEED FLAG ...   Prints how often it killed. "replace" kills just before or just after the
k-th file is put into its place, k = 1, 2, ...; "time" kills after a random delay.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import demo


def kill_at_replace(k, after):
    """From now on, die at the k-th os.replace."""
    calls = 0
    replace = os.replace

    def deadly(source, target):
        nonlocal calls
        calls += 1
        if calls == k and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if calls == k:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly


def main():
    how, seed, *flags = sys.argv[1:]
    torch.set_num_threads(1)
    rng = random.Random(int(seed))
    kills = 0
    while True:
        child = os.fork()  # before torch has started threads here, so that the child may start its own
        if child == 0:
            if how == "replace":
                kill_at_replace(1 + kills // 2, after=kills % 2 == 1)
            os._exit(demo.main(flags))
        if how == "time" and kills < 8:
            time.sleep(0.02 * 50 ** rng.random())  # 0.02 to 1 s, most of them short
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            print(kills)
            return os.WEXITSTATUS(status)
        kills += 1


if __name__ == "__main__":
    sys.exit(main())
