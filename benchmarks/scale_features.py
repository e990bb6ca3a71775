"""A pool of 1,000,000 rows of features: time and memory of trainings and of every strategy's query.

    python benchmarks/scale_features.py           long, on one core (--strategies for some of them); writes a temporary
                                                  file of 2.6 GB
    python benchmarks/scale_features.py --tiny    on small sizes, in seconds: checks that it runs

The rows are synthetic: a hundred clusters in 1,280 dimensions, float16, in a memory map. Memory is the most that the
process held, the map not counted, which the system may drop and read again.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Timer, on_cpu

from data import Idxs, Inputs, Pool
from features.rows import feature_stats
from nets import NETS, Net
from strategies import STRATEGIES, described
from strategies.candidates import random_candidates
from training.learner import Learner
from training.loop import train
from training.recipe import default_recipe
from utils import stream

CPU = torch.device("cpu")
N_CLASSES = 10
QUADRATIC = ("MaxHerding", "UHerding")  # a query of all rows would take hours
AT_ONCE = 10_000  # rows that are made up together
INTERVAL = 0.02  # seconds between two looks at the memory


def made_up(path: Path, n: int, n_features: int) -> tuple[torch.Tensor, np.ndarray]:
    """Rows (n, D), float16, over a memory map, and their classes (n,)."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((100, n_features), np.float32)
    kind = rng.integers(0, 100, n)
    x = np.memmap(path, np.float16, "w+", shape=(n, n_features))
    for start in range(0, n, AT_ONCE):
        some = kind[start : start + AT_ONCE]
        x[start : start + AT_ONCE] = 0.3 * centers[some] + rng.standard_normal((len(some), n_features), np.float32)
    x.flush()
    return torch.from_numpy(np.memmap(path, np.float16, "c", shape=(n, n_features))), kind % N_CLASSES


def own_memory() -> float:
    """What this process holds, mapped files not counted, in GB (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1e6


def measured(timer: Timer, f: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, the most memory held in GB, and the result."""
    peak, done = own_memory(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(INTERVAL):
            peak = max(peak, own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        seconds, result, _ = timer.once(f)
    finally:
        done.set()
        thread.join()
    return seconds, peak, result


def show(case: str, seconds: float, gigabytes: float) -> None:
    """One line of the table."""
    print(f"{case:<60} {seconds:>9.2f} {gigabytes:>6.2f}", flush=True)


def query(strategy: str, pool: Pool, learner: Learner, n: int, n_candidates: int | None) -> Idxs:
    """A whole query, of all unlabeled images or of candidates drawn at random."""
    among = None
    if n_candidates:
        among = random_candidates(pool, learner, n_candidates, stream(0, "candidates"))
    return STRATEGIES[strategy](pool, learner, stream(0, "query")).query(n, among)


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tiny", action="store_true", help="small sizes, for a test")
    flags.add_argument("--n_query", type=int, default=100, help="images that a query picks")
    flags.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, metavar="NAME", help="all that pass forward alone"
    )
    args = flags.parse_args()
    torch.set_num_threads(1)
    n, n_features, n_labeled, n_candidates = (3000, 32, 100, 500) if args.tiny else (1_000_000, 1280, 1000, 50_000)
    names = args.strategies or [name for name, s in STRATEGIES.items() if "backward" not in described(s, "Cost")]
    timer = Timer(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        x, y = made_up(Path(folder, "rows.f16"), n, n_features)
        print(f"torch {torch.__version__}, {on_cpu(1)}; {n:,} rows of {n_features}, {n_labeled:,} labels")
        print(f"{'case':<60} {'seconds':>9} {'GB':>6}")
        seconds, peak, stats = measured(timer, partial(feature_stats, x))
        show("mean and standard deviation of all features", seconds, peak)
        pool = Pool(Inputs(x), N_CLASSES)
        first = np.random.default_rng(1).permutation(n)[:n_labeled]
        pool.label(first, y[first])
        recipe = default_recipe(NETS["Linear"], False)

        def build() -> Net:
            net = NETS["Linear"].build((n_features,), N_CLASSES, recipe.dropout, False)
            net.set_input_stats(*stats)
            return net

        seconds, peak, learner = measured(timer, partial(train, build, pool, recipe, CPU, stream(0, "train")))
        show("training of Linear", seconds, peak)
        for name in names:
            for some in (n_candidates,) if name in QUADRATIC else (None, n_candidates):
                seconds, peak, _ = measured(timer, partial(query, name, pool, learner, args.n_query, some))
                show(f"{name}, {args.n_query} of {some or n:,}", seconds, peak)


if __name__ == "__main__":
    main()
