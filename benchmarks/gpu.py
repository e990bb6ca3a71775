"""The default experiment and every strategy on one GPU: seconds, accuracy, and the share of the chip that is used.

    python benchmarks/gpu.py            under 10 minutes on an H200-class GPU, with CIFAR-10 in DATA/
    python benchmarks/gpu.py --tiny     seconds on any machine, to see that it runs

What it prints is what the README quotes; keep it beside this file with the machine and the date.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import demo
import nets
from data import Images, Pool
from strategies import STRATEGIES, resolve
from utils import stream

FLOPS = {"ResNet18": 3.33e9, "ResNet9": 0.57e9}  # forward and backward, a 32 x 32 image; 2 a multiply-add


@contextmanager
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


def peak_gigabytes(device: torch.device) -> float:
    """Most device memory held since the last call."""
    if device.type != "cuda":
        return 0.0
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


def experiments(args: argparse.Namespace, flags: list[str], net_names: list[str]) -> None:
    """The default command with each network and strategy: seconds a round, and accuracy at the ends."""
    for net_name in net_names:
        for strategy in ("RandomSampling", "MarginSampling"):
            with tempfile.TemporaryDirectory() as results:
                run = [*flags, "--net_name", net_name, "--strategy_name", strategy, "--seed", "1"]
                start = time.perf_counter()
                code = demo.main([*run, "--results_dir", results, "--data_dir", str(args.data_dir)])
                seconds = time.perf_counter() - start
                if code:
                    sys.exit(code)
                (path,) = Path(results).rglob("rounds.csv")
                with open(path, newline="") as f:
                    rows = list(csv.DictReader(f))
            ends = ", ".join(f"{100 * float(r['accuracy']):.2f} % at {r['n_labeled']}" for r in (rows[0], rows[-1]))
            print(f"== {net_name} {strategy}: {seconds:.1f} s for {len(rows)} trainings; {ends}", flush=True)


def engine(e: demo.Experiment, pool: Pool, ceiling: float) -> nets.Learner:
    """The same training as a CUDA graph and step by step: seconds, share of the bf16 rate, agreement."""
    test = Images(e.images.test_x).to(e.device)
    n_images = e.recipe.n_steps(len(pool.labeled)) * e.recipe.batch_size
    probs = {}
    for name, recipe in (("graph", e.recipe), ("eager", replace(e.recipe, cuda_graph=False))):
        with stopwatch(e.device) as seconds:
            learner = nets.train(e.build, pool, recipe, e.device, stream(1, "train", 0))
        probs[name] = learner.probs(test)
        share = n_images * FLOPS[e.config["net_name"]] / seconds[0] / ceiling
        print(
            f"== {e.config['net_name']} training on {len(pool.labeled)}, {name}: {seconds[0]:.2f} s, "
            f"{n_images / seconds[0]:,.0f} images/s, {100 * share:.1f} % of the bf16 rate, "
            f"{peak_gigabytes(e.device):.2f} GB",
            flush=True,
        )
    same = (probs["graph"].argmax(1) == probs["eager"].argmax(1)).double().mean().item()
    print(f"== graph and eager predict the same class for {100 * same:.2f} % of the test images", flush=True)
    return learner


def queries(e: demo.Experiment, pool: Pool, learner: nets.Learner, n: int) -> None:
    """Every strategy's whole query."""
    for name in STRATEGIES:
        strategy, arguments = resolve(name, [])
        with stopwatch(e.device) as seconds:
            strategy(pool, learner, stream(1, "query", 0), **arguments).query(n)
        memory = peak_gigabytes(e.device)
        print(f"== query {name}: {seconds[0]:.2f} s for {n} of {len(pool.unlabeled)}, {memory:.2f} GB", flush=True)


def main() -> None:
    """Print everything."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tiny", action="store_true", help="ResNet9 on Digits at 8 pixels, a few steps")
    p.add_argument("--data_dir", type=Path, default=Path("DATA"))
    args = p.parse_args()
    flags = ["--dataset_name", "CIFAR10"]
    net_names = ["ResNet18", "ResNet9"]
    if args.tiny:
        flags = ["--dataset_name", "Digits", "--img_size", "8", "--n_init_labeled", "40", "--n_query", "20"]
        flags += ["--n_round", "1", "--n_epoch", "1", "--min_steps", "3", "--batch_size", "16"]
        net_names = ["ResNet9"]
    parsed = demo.parser().parse_args(
        [*flags, "--net_name", net_names[0], "--seed", "1", "--data_dir", str(args.data_dir)]
    )
    e = demo.experiment(parsed)
    name = torch.cuda.get_device_name() if e.device.type == "cuda" else platform.machine()
    print(f"== {datetime.date.today()}, {name}, torch {torch.__version__}")
    ceiling = bf16_rate(e.device, 256 if args.tiny else 8192)
    print(f"== bf16 matrix product: {ceiling / 1e12:.1f} TFLOP/s", flush=True)
    pool = Pool(Images(e.images.train_x).to(e.device), e.images.train_y, len(e.images.classes))
    pool.label(demo.initial(e))
    learner = engine(e, pool, ceiling)
    queries(e, pool, learner, parsed.n_query)
    experiments(args, flags, net_names)


if __name__ == "__main__":
    main()
