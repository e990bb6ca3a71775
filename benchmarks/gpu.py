"""The default experiment and every strategy on one GPU: seconds, accuracy, and the share of the chip that is used.

    python benchmarks/gpu.py            under 10 minutes on an H200-class GPU, with CIFAR-10 in DATA/
    python benchmarks/gpu.py --tiny     seconds on any machine, checks that it runs
    python benchmarks/gpu.py --only queries     a part of it: engine, queries or experiments

Its output goes into docs/benchmarks.md, and beside this file with the machine and the date.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import io
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring import header, peak_memory, row

import demo
from data import Pool
from strategies import STRATEGIES, resolve
from training.learner import Learner
from training.loop import train
from utils import stream

SECONDS = ("train_seconds", "eval_seconds", "query_seconds")
PARTS = ("engine", "queries", "experiments")
FLOPS = {"ResNet18": 3.33e9, "ResNet9": 0.97e9}  # forward and backward, a 32 x 32 image; 2 a multiply-add


@contextlib.contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """Seconds of a block, device work included; the list gets them at its end."""
    seconds: list[float] = []
    synchronize(device)
    start = time.perf_counter()
    yield seconds
    synchronize(device)
    seconds.append(time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_gigabytes() -> float:
    """Most memory of the device that tensors held since the last call; without a device, the process's."""
    if not torch.cuda.is_available():
        return peak_memory()
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak


def bf16_rate(device: torch.device, size: int) -> float:
    """FLOP a second of a large bf16 matrix product, on random numbers."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    with stopwatch(device) as seconds:
        for _ in range(10):
            a @ b
    return 10 * 2 * size**3 / seconds[0]


def experiments(args: argparse.Namespace, flags: list[str], runs: list[tuple[str, str]]) -> None:
    """The default command with some networks and strategies: seconds of all rounds, and accuracy at the ends."""
    for net_name, strategy in runs:
        with tempfile.TemporaryDirectory() as results:
            run = [*flags, "--net_name", net_name, "--strategy_name", strategy, "--seed", "1"]
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                code = demo.main([*run, "--results_dir", results, "--data_dir", str(args.data_dir)])
            seconds = time.perf_counter() - start
            if code:
                sys.exit(code)
            (path,) = Path(results).rglob("rounds.csv")
            with open(path, newline="") as f:
                rows = list(csv.DictReader(f))
        ends = ", ".join(f"{100 * float(r['accuracy']):.2f} % at {r['n_labeled']}" for r in (rows[0], rows[-1]))
        parts = ", ".join(f"{sum(float(r[p]) for r in rows):.1f} s {p.removesuffix('_seconds')}" for p in SECONDS)
        case = f"demo.py, {net_name}, {strategy}"
        row(case, f"{len(rows)} trainings", seconds, None, peak_gigabytes(), f"{ends}; {parts}")


def engine(e: demo.Experiment, pool: Pool, ceiling: float) -> Learner:
    """The same training as a CUDA graph and step by step: seconds, share of the bf16 rate, agreement."""
    test = e.data.test.inputs.to(e.device)
    net_name, n_labeled, size = e.config["net_name"], len(pool.labeled), e.config["img_size"]
    train(e.build, pool, replace(e.recipe, n_epoch=1, min_steps=10), e.device, stream(1, "train", 0))  # warm up
    n_images = e.recipe.n_steps(n_labeled) * e.recipe.batch_size
    with stopwatch(e.device) as other:
        eager = train(e.build, pool, replace(e.recipe, cuda_graph=False), e.device, stream(1, "train", 0))
    eager_probs = eager.probs(test)
    peak_gigabytes()
    with stopwatch(e.device) as ours:
        learner = train(e.build, pool, e.recipe, e.device, stream(1, "train", 0))
    peak = peak_gigabytes()
    probs = learner.probs(test)
    same = (probs.argmax(1) == eager_probs.argmax(1)).double().mean().item()
    right, eager_right = ((p.argmax(1).cpu().numpy() == e.data.test.labels).mean().item() for p in (probs, eager_probs))
    share = n_images * FLOPS[net_name] * (size / 32) ** 2 / ours[0] / ceiling
    remark = (
        f"{n_images / ours[0]:,.0f} images/s, {100 * share:.1f} % of the bf16 rate; accuracy {right:.4f}, other "
        f"{eager_right:.4f}; same class for {100 * same:.2f} %"
    )
    row(f"training, {net_name}, CUDA graph / eager", f"{n_labeled} labels", ours[0], other[0], peak, remark)
    return learner


def queries(e: demo.Experiment, pool: Pool, learner: Learner, n: int) -> None:
    """Every strategy's whole query, as demo.py has it."""
    scorer = learner.configured(bf16=False, screen=True)
    for name in STRATEGIES:
        strategy, arguments = resolve(name, [])
        peak_gigabytes()
        with stopwatch(e.device) as seconds:
            strategy(pool, scorer, stream(1, "query", 0), **arguments).query(n)
        size = f"{e.config['net_name']}, {n} of {len(pool.unlabeled)}"
        row(f"query, {name}", size, seconds[0], None, peak_gigabytes(), "")


def main() -> None:
    """Print everything."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tiny", action="store_true", help="ResNet9 on Digits at 8 pixels, a few steps")
    p.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="these parts")
    p.add_argument("--data_dir", type=Path, default=Path("DATA"))
    args = p.parse_args()
    flags = ["--dataset_name", "CIFAR10"]
    if args.tiny:
        flags = ["--dataset_name", "Digits", "--img_size", "8", "--n_init_labeled", "1400", "--n_query", "20"]
        flags += ["--n_round", "1", "--n_epoch", "1", "--min_steps", "3", "--batch_size", "128"]
    net_names = ["ResNet9"] if args.tiny else ["ResNet18", "ResNet9"]
    for net_name in net_names:
        parsed = demo.parser().parse_args(
            [*flags, "--net_name", net_name, "--seed", "1", "--data_dir", str(args.data_dir)]
        )
        e = demo.experiment(parsed)
        if net_name == net_names[0]:
            name = torch.cuda.get_device_name() if e.device.type == "cuda" else platform.machine()
            ceiling = bf16_rate(e.device, 256 if args.tiny else 8192)
            header(f"{name}, {datetime.date.today()}, {ceiling / 1e12:.1f} TFLOP/s in a bf16 product; seconds")
        pool = Pool(e.data.train.inputs.to(e.device), len(e.data.classes))
        first = e.first_labels
        pool.label(first, e.data.train.labels[first])
        learner = engine(e, pool, ceiling) if "engine" in args.only else None
        if "queries" in args.only:
            learner = learner or train(e.build, pool, e.recipe, e.device, stream(1, "train", 0))
            queries(e, pool, learner, parsed.n_query)
    if "experiments" in args.only:
        experiments(args, flags, [(net_name, "RandomSampling") for net_name in net_names])


if __name__ == "__main__":
    main()
