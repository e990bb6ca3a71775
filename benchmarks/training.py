"""Training and scoring against the per-image loop that DalMax's ancestors use. `make bench` runs it.

    python benchmarks/training.py            minutes, on CIFAR-10 in DATA/ where it is there, else on noise
    python benchmarks/training.py --tiny     seconds, to see that it runs

Each case is timed in turn with the other, A B A B ..., in one process with one torch thread. Seconds are CPU-seconds of
this process and its workers; the ratio is the other's over ours.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent.parent))

from data import ImageData, Images, Pool, load
from nets import NETS, Learner, Net, Recipe, train
from utils import UserError, stream

CPU = torch.device("cpu")
# DeepAL's settings for CIFAR-10: 20 epochs of 64, SGD 0.05 with momentum 0.3, dropout 0.5, nothing else
DEEPAL = Recipe(
    n_epoch=20, batch_size=64, lr=0.05, momentum=0.3, nesterov=False, weight_decay=0.0, clip=0.0, schedule="constant",
    min_steps=0, flip=False, translate=0.0, dropout=0.5,
)  # fmt: skip


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """Each image through Pillow and torchvision's transforms, one by one."""

    def __init__(self, images: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], net: Net) -> None:
        self.images, self.targets = images, targets
        normalize = transforms.Normalize(net.mean.tolist(), net.std.tolist())
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.targets[i])


def per_image_train(net: Net, dataset: PerImage, recipe: Recipe) -> Learner:
    """The loop of DeepAL: a DataLoader with one worker, started anew every epoch."""
    optimizer = torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum)
    loader = DataLoader(dataset, recipe.batch_size, shuffle=True, num_workers=1)
    net.train()
    for _ in range(recipe.n_epoch):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return Learner(net, CPU)


@torch.no_grad()
def per_image_probs(net: Net, dataset: PerImage) -> torch.Tensor:
    """DeepAL's prediction loop: batches of 1,000 and one worker."""
    loader = DataLoader(dataset, 1000, num_workers=1)
    return torch.cat([net(x).softmax(1) for x, _ in loader])


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def timed(runs: dict[str, Callable[[], Any]], n_repeat: int) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Median CPU-seconds and seconds of each function, taken in turn, and their last results."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    results = {}
    for _ in range(n_repeat):
        for name, function in runs.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            results[name] = function()
            spent[name].append((cpu_seconds() - cpu, time.perf_counter() - wall))
    medians = {k: (statistics.median(c for c, _ in v), statistics.median(w for _, w in v)) for k, v in spent.items()}
    return medians, results


def accuracy(learner: Learner, data: ImageData) -> float:
    """On the test images."""
    return float((learner.probs(Images(data.test_x)).argmax(1).numpy() == data.test_y).mean())


def noise(n: int) -> ImageData:
    """Made-up images where CIFAR-10 is not at hand."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)).permute(0, 3, 1, 2)
    y = np.random.default_rng(1).integers(0, 10, n)
    names = [str(i) for i in range(n)]
    half = torch.full((3,), 0.5)
    return ImageData(x, x[:100], y, y[:100], names, names[:100], [*"0123456789"], half, half / 2, "noise", [])


def table(rows: list[list[str]]) -> str:
    """Rows with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tiny", action="store_true", help="a few steps only")
    flags.add_argument("--data_dir", type=Path, default=Path("DATA"))
    flags.add_argument("--repeat", type=int, default=3, help="times each case is run")
    args = flags.parse_args()
    torch.set_num_threads(1)
    n_score, n_repeat = (500, 1) if args.tiny else (40_000, args.repeat)
    try:
        data = noise(2000) if args.tiny else load("CIFAR10", args.data_dir, 32)
    except UserError as e:
        print(f"{e}\nnoise instead; accuracies mean nothing")
        data = noise(50_000)
    deepal = replace(DEEPAL, n_epoch=1) if args.tiny else DEEPAL
    default = replace(NETS["SmallCNN"].recipe, **({"n_epoch": 1, "min_steps": 10} if args.tiny else {}))
    idxs = stream(1, "initial").choice(len(data.train_y), 1000, replace=False)
    pool = Pool(Images(data.train_x), data.train_y, 10)
    pool.label(idxs)
    pixels = data.train_x.permute(0, 2, 3, 1).numpy()

    def build() -> Net:
        net = NETS["SmallCNN"].build(10, 32, deepal.dropout, False)
        net.set_pixel_stats(data.mean, data.std)
        return net

    def other_training() -> Learner:
        net = build()
        return per_image_train(net, PerImage(pixels[idxs], data.train_y[idxs], net), deepal)

    training, learners = timed(
        {
            "ours, DeepAL's recipe": lambda: train(build, pool, deepal, CPU, stream(1, "train")),
            "ours, default recipe": lambda: train(build, pool, default, CPU, stream(1, "train")),
            "per image": other_training,
        },
        n_repeat,
    )
    learner = learners["ours, DeepAL's recipe"]
    images = Images(data.train_x)[np.arange(n_score)]
    scored = PerImage(pixels[:n_score], data.train_y[:n_score], learner.net)
    scoring, probs = timed(
        {"ours": lambda: learner.probs(images), "per image": lambda: per_image_probs(learner.net, scored)}, n_repeat
    )
    difference = (probs["ours"] - probs["per image"]).abs().max().item()
    rows = [["case", "size", "CPU-seconds", "seconds", "ratio of CPU-seconds", "accuracy"]]
    size = f"SmallCNN, 1,000 labels, {deepal.n_epoch} epochs of 64"
    for name, (cpu, wall) in training.items():
        ratio = f"{training['per image'][0] / cpu:.2f}"
        reached = f"{accuracy(learners[name], data):.4f}"
        rows.append([f"training, {name}", size, f"{cpu:.2f}", f"{wall:.2f}", ratio, reached])
    for name, (cpu, wall) in scoring.items():
        ratio = f"{scoring['per image'][0] / cpu:.2f}"
        rows.append([f"scoring, {name}", f"{n_score:,} images", f"{cpu:.2f}", f"{wall:.2f}", ratio, ""])
    print(f"torch {torch.__version__}, one thread, {torch.backends.cpu.get_cpu_capability()}")
    print(table(rows))
    print(f"largest difference between the two scorings' probabilities: {difference:.1e}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
