"""Train a network on a random draw of CIFAR-10's labels with its default recipe: test accuracy and CPU-seconds.

    python benchmarks/accuracy.py ResNet9 --n_labeled 1000
    python benchmarks/accuracy.py ResNet18 --n_labeled 10000      more than an hour on one core

One torch thread; the same draw for every network.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, built, header, on_cpu, row

from data import Pool, load
from nets import NETS
from training.loop import train
from training.recipe import default_recipe
from utils import stream


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("net_names", nargs="+", choices=NETS, metavar="NET")
    flags.add_argument("--n_labeled", type=int, nargs="+", default=[1000])
    flags.add_argument("--dataset_name", default="CIFAR10")
    flags.add_argument("--data_dir", type=Path, default=Path("DATA"))
    flags.add_argument("--seed", type=int, default=1)
    args = flags.parse_args()
    torch.set_num_threads(1)
    data = load(args.dataset_name, args.data_dir, 32)
    timer = Timer(1, 1)
    header(on_cpu(1))
    for n in args.n_labeled:
        pool = Pool(data.train.inputs, len(data.classes))
        first = stream(args.seed, "initial").permutation(len(data.train))[:n]
        pool.label(first, data.train.labels[first])
        for name in args.net_names:
            recipe, rng = default_recipe(NETS[name], False), stream(args.seed, "train")
            seconds, learner, peak = timer.once(
                partial(train, partial(built, name, data, recipe.dropout), pool, recipe, torch.device("cpu"), rng)
            )
            right = (learner.probs(data.test.inputs).argmax(1).numpy() == data.test.labels).mean()
            size = f"{n} labels, {recipe.n_steps(n)} steps of {recipe.batch_size}"
            row(f"training, {name}", size, seconds, None, peak, f"test accuracy {right:.4f}")


if __name__ == "__main__":
    main()
