"""What a sweep costs beside its runs: many runs of about a second, by sweep.py and one by one in this process.

    python benchmarks/many_runs.py

One run at a time, one torch thread. The overhead of a run is what the sweep takes longer than the runs alone, divided
by their number. The sweep again: all runs are finished, so this is the time to start, to check them and to leave.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from measuring import cpu_seconds

import demo

ROOT = Path(demo.__file__).parent
RECIPE = (
    "--dataset_name Digits --img_size 8 --net_name SmallCNN --n_init_labeled 50 --n_query 50 --n_round 2 --n_epoch 1"
)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU-seconds, those of ended child processes included, and seconds on the wall."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--n_runs", type=int, default=20)
    flags.add_argument("--min_steps", type=int, default=30, help="training steps of each round, at least")
    args = flags.parse_args()
    torch.set_num_threads(1)
    common = [*RECIPE.split(), "--min_steps", str(args.min_steps), "--device", "cpu"]

    with tempfile.TemporaryDirectory() as folder:

        def alone(seeds: range, results: str) -> None:
            with redirect_stdout(StringIO()):
                for seed in seeds:
                    demo.main([*common, "--seed", str(seed), "--results_dir", f"{folder}/{results}"])

        def sweep() -> None:
            lists = ["--strategy_name", "RandomSampling", "--seed", f"1-{args.n_runs}", "--jobs", "1"]
            command = [sys.executable, "sweep.py", *lists, *common, "--results_dir", f"{folder}/sweep"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

        alone(range(1), "warm")  # the first run also imports modules
        runs = timed(lambda: alone(range(1, args.n_runs + 1), "alone"))
        swept, again = timed(sweep), timed(sweep)
        picks = [
            {p.parent.name: p.read_bytes() for p in Path(folder, r).rglob("queries.csv")} for r in ("alone", "sweep")
        ]

    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    print(f"{'case':<34} {'CPU-seconds':>12} {'seconds':>9}")
    for case, (cpu, wall) in (
        (f"{args.n_runs} runs in one process", runs),
        (f"{args.n_runs} runs by sweep.py", swept),
        ("the same sweep again", again),
        ("overhead of each run", tuple((a - b) / args.n_runs for a, b in zip(swept, runs, strict=True))),
    ):
        print(f"{case:<34} {cpu:>12.2f} {wall:>9.2f}")
    n_same = sum(picks[1].get(name) == content for name, content in picks[0].items())
    print(f"{n_same} of {args.n_runs} runs with the same picks")


if __name__ == "__main__":
    main()
