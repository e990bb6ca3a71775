"""Compute the features of a folder again and again, each time killed with -9 at another moment, until one ends.

Usage: killed_embedding.py FOLDER BACKBONE SIZE KILLS SEED   Prints how often it killed. The backbone is "toy" or one of
load_backbone's names. A killed process dies within a write, before a flush, just before or after the manifest is
replaced, or, where the backbone is not a toy, at a random time.
"""

import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from rerun import rerun_until_it_ends
from toy_backbone import toy

from features import row_files
from features.backbones import load_backbone
from features.cache import cached_features
from images.listing import list_folder


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(kills):
    """From now on, die at one step of a commit, a later commit each time."""
    commits = 0
    fsync, replace, add = os.fsync, os.replace, row_files.GrowingRows.add

    def deadly_fsync(fd):
        nonlocal commits
        commits += 1
        if kills % 4 == 0 and commits == 2 + kills:
            die()
        fsync(fd)

    def deadly_replace(source, target):
        if kills % 4 == 1:
            die()
        replace(source, target)
        if kills % 4 == 2:
            die()

    def deadly_add(rows, block):
        if kills % 4 == 3:
            for f in rows._files:
                f.write(b"half of a row")
                f.flush()
            die()
        add(rows, block)

    os.fsync, os.replace, row_files.GrowingRows.add = deadly_fsync, deadly_replace, deadly_add


def main():
    folder, name, size, n_kills, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    torch.set_num_threads(1)
    rng = random.Random(seed)
    listing = list_folder(folder)
    backbone = toy() if name == "toy" else load_backbone(name, size)
    _ = backbone.network

    def work(kills):
        row_files.COMMIT_SECONDS = 0.0 if name == "toy" else 1.0
        if kills < n_kills and name == "toy":
            kill_at(kills)
        cached_features(folder, listing, folder.parent, backbone, torch.device("cpu"))
        return 0

    def delay(kills):
        return 2 + 4 * rng.random() if kills < n_kills and name != "toy" else None

    rerun_until_it_ends(work, delay)


if __name__ == "__main__":
    main()
