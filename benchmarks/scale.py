"""How time and memory grow to 1,000,000 images: reading a folder, and every strategy's whole query.

    python benchmarks/scale.py           about 15 minutes on one core, 4 GB of memory; writes a temporary folder
    python benchmarks/scale.py --tiny    on small sizes, in seconds: checks that it runs

The images are synthetic: 8 x 8 pixels, a hundred patterns and noise. The network is one layer to 128 features and its
head, so that the selection, not the network, is most of what is timed. Growth is the time of an image over that of an
image of the smallest pool. Memory is the process's peak, its images and the maps of its files included.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, forget_peak, header, on_cpu, peak_memory, row

from data import Inputs, Pool, load
from nets import Net
from strategies import STRATEGIES
from training.loop import train
from training.recipe import Recipe
from utils import stream

SIDE, N_FEATURES, N_CLASSES = 8, 128, 10
SHORT_SECONDS = 1  # shorter queries are timed five times, and the median is reported


def made_up(n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 8, 8, 3) uint8 and their classes (n,): a pattern of 100, and noise."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(128, 40, (100, SIDE, SIDE, 3)).astype(np.float32)
    kind = rng.integers(0, 100, n)
    x = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for start in range(0, n, 10_000):
        some = kind[start : start + 10_000]
        noise = rng.standard_normal((len(some), SIDE, SIDE, 3), np.float32)
        x[start : start + 10_000] = (patterns[some] + 30 * noise).clip(0, 255)
    return x, kind % N_CLASSES


def one_layer() -> Net:
    """A network that takes almost no time."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, N_FEATURES), nn.ReLU())
    return Net(body, N_FEATURES, N_CLASSES, 0.5)


# Queries


def queries(timer: Timer, sizes: list[int], n_labeled: int, n: int, names: list[str]) -> None:
    """The query of every strategy on pools that grow."""
    print(f"{'strategy':<42} {'unlabeled':>9} {'picks':>6} {'seconds':>9} {'growth':>7} {'GB':>6}")
    first: dict[str, float] = {}
    for size in sizes:
        x, y = made_up(size + n_labeled)
        pool = Pool(Inputs(torch.from_numpy(x).permute(0, 3, 1, 2)), N_CLASSES)
        first_labels = np.random.default_rng(1).permutation(size + n_labeled)[:n_labeled]
        pool.label(first_labels, y[first_labels])
        recipe = Recipe(n_epoch=1, batch_size=64, lr=0.01, min_steps=300, flip=False, translate=0.0)
        plain = train(one_layer, pool, recipe, torch.device("cpu"), stream(0, "train"))
        learner = plain.configured(bf16=False, screen=True)  # as demo.py has it
        for name in names:
            strategy = STRATEGIES[name](pool, learner, stream(0, "query"))
            runs = [timer.once(partial(strategy.query, n))]
            while len(runs) < 5 and runs[0][0] < SHORT_SECONDS:
                runs.append(timer.once(partial(strategy.query, n)))
            seconds, peak = (float(np.median([r[i] for r in runs])) for i in (0, 2))
            growth = seconds / size / first.setdefault(name, seconds / size)
            print(f"{name:<42} {size:>9} {n:>6} {seconds:>9.2f} {growth:>7.2f} {peak:>6.2f}", flush=True)


# A folder


def write_folder(root: Path, n_files: int, n_distinct: int) -> None:
    """PNG files in ten classes; only `n_distinct` are written, the others are links to these."""
    x, y = made_up(n_distinct)
    for part in ("train", "test"):
        for label in range(N_CLASSES):
            (root / part / str(label)).mkdir(parents=True)
    written: list[Path] = []
    for i in range(n_files):
        path = root / ("test" if i % 6 == 5 else "train") / str(y[i % n_distinct]) / f"{i:07d}.png"
        if i < n_distinct:
            Image.fromarray(x[i]).save(path)
            written.append(path)
        else:
            os.link(written[i % n_distinct], path)


def start(data_dir: Path, name: str) -> tuple[float, float]:
    """Seconds to the first batch, and peak memory in GB, of a process that has imported what it needs."""
    forget_peak()
    before = time.perf_counter()
    load(name, data_dir, SIDE).train.inputs.batch(0, 64, torch.device("cpu"))
    return time.perf_counter() - before, peak_memory()


def folder_case(n_files: int) -> None:
    """The first start on a folder reads every file, the second a list of them and the cache."""
    with tempfile.TemporaryDirectory() as data_dir:
        write_folder(Path(data_dir, "made_up"), n_files, min(1000, n_files))
        spawn = multiprocessing.get_context("spawn")
        spent = []
        for _ in range(4):
            with ProcessPoolExecutor(1, spawn) as process:
                process.submit(made_up, 1).result()  # imports what is needed
                spent.append(process.submit(start, Path(data_dir), "made_up").result())
    (first, _), *later = spent
    second, peak = (float(np.median(v)) for v in zip(*later, strict=True))
    row("second start / first start, to a batch", f"{n_files} files", second, first, peak, "seconds on the wall")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--files", type=int, nargs="*", default=[50_000], help="sizes of folders")
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="sizes of pools")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    files, sizes, n_labeled, n = args.files, args.images, 10_000, 1000
    if args.tiny:
        files, sizes, n_labeled, n = [300], [200, 400], 50, 20
    header(on_cpu(1))
    for n_files in files:
        folder_case(n_files)
    if sizes:
        queries(Timer(1, 1), sizes, n_labeled, n, args.strategies)


if __name__ == "__main__":
    main()
