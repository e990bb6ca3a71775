"""Run demo.py again and again, each time killed with -9 at another moment, until one run ends by itself.

Usage: killer.py replace|time SEED FLAG ...   Prints how often it killed. "replace" kills just before or just after the
k-th file is put into its place, k = 1, 2, ...; "time" kills after a random delay.
"""

import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from rerun import rerun_until_it_ends

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

    def work(kills):
        if how == "replace":
            kill_at_replace(1 + kills // 2, after=kills % 2 == 1)
        return demo.main(flags)

    def delay(kills):
        return 0.02 * 50 ** rng.random() if how == "time" and kills < 8 else None  # 0.02 to 1 s, most of them short

    rerun_until_it_ends(work, delay)


if __name__ == "__main__":
    main()
