"""Training and scoring against the per-image loop of earlier tools such as DeepAL, and BALD against K passes.

    python benchmarks/training.py            minutes, on CIFAR-10 in DATA/ where it is there, else on noise
    python benchmarks/training.py --tiny     seconds, checks that it runs

Each case is timed in turn with the other, A B A B ..., in one process with one torch thread, median of `--repeats`
where the other takes less than 30 seconds; screened queries against those that are not, once. Seconds are CPU-seconds
of this process and its workers; the ratio is the other's over ours. Memory is the process's peak while ours runs, data
included.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring import Timer, built, header, on_cpu, row

from data import ImageData, Inputs, Pool, Split, load
from nets import NETS, Net
from strategies import STRATEGIES, scores
from strategies.base import ScoreStrategy
from strategies.screening import SCREENED_FROM
from training.learner import Learner
from training.loop import train
from training.recipe import Recipe, default_recipe
from utils import UserError, stream

CPU = torch.device("cpu")
SCREENED = [name for name, s in STRATEGIES.items() if issubclass(s, ScoreStrategy) and s.screens]
# DeepAL's settings for CIFAR-10: 20 epochs of 64, SGD 0.05 with momentum 0.3, dropout 0.5, nothing else
DEEPAL = Recipe(
    n_epoch=20, batch_size=64, lr=0.05, momentum=0.3, nesterov=False, weight_decay=0.0, clip=0.0, schedule="constant",
    min_steps=0, flip=False, translate=0.0, dropout=0.5,
)  # fmt: skip


class PerImage(Dataset[tuple[Tensor, int]]):
    """Each image through Pillow and torchvision's transforms, one by one."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], net: Net) -> None:
        self.images, self.labels = images, labels
        normalize = transforms.Normalize(net.mean.tolist(), net.std.tolist())
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def per_image_train(net: Net, dataset: PerImage, recipe: Recipe) -> Learner:
    """The loop of DeepAL: a DataLoader with one worker, restarted every epoch."""
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
def per_image_probs(net: Net, dataset: PerImage) -> Tensor:
    """DeepAL's prediction loop: batches of 1,000 and one worker."""
    loader = DataLoader(dataset, 1000, num_workers=1)
    return torch.cat([net(x).softmax(1) for x, _ in loader])


@torch.no_grad()
def passes_of_the_network(learner: Learner, images: Inputs, n_drop: int, rng: np.random.Generator) -> Tensor:
    """BALD with a pass of the whole network for each dropout mask, and the entropies summed on the way."""
    net, p = learner.net, learner.net.dropout.p
    masks = torch.from_numpy(rng.random((n_drop, net.head.in_features)) >= p) / (1 - p)
    mean, entropies = torch.zeros(len(images), net.head.out_features), torch.zeros(len(images))
    for mask in masks:
        probs = torch.cat([net.head(net.embed(net.normalize(x)) * mask).softmax(1) for x in images.batches(0, 64, CPU)])
        mean += probs / n_drop
        entropies += scores.entropy(probs) / n_drop
    return scores.entropy(mean) - entropies


def accuracy(learner: Learner, data: ImageData) -> float:
    """On the test images."""
    return float((learner.probs(data.test.inputs).argmax(1).numpy() == data.test.labels).mean())


def pixels(data: ImageData, idxs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Training images as Pillow reads them. Shape (n, H, W, 3), uint8."""
    return data.train.inputs[idxs].batch(0, len(idxs), CPU).permute(0, 2, 3, 1).numpy()


def noise(n: int) -> ImageData:
    """Synthetic images where CIFAR-10 is not available."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)).permute(0, 3, 1, 2)
    y = np.random.default_rng(1).integers(0, 10, n)
    names = [str(i) for i in range(n)]
    splits = {"train": Split(Inputs(x), y, names), "test": Split(Inputs(x[:100]), y[:100], names[:100])}
    half = torch.full((3,), 0.5)
    return ImageData(splits, [*"0123456789"], half, half / 2, "noise", [])


# The cases


def training_case(timer: Timer, data: ImageData, pool: Pool, deepal: Recipe, default: Recipe) -> Learner:
    """One round, with DeepAL's recipe and with our own. Returns the learner of the first."""
    idxs = pool.labeled

    def ours(recipe: Recipe) -> Learner:
        return train(partial(built, "SmallCNN", data, recipe.dropout), pool, recipe, CPU, stream(1, "train"))

    def other() -> Learner:
        net = built("SmallCNN", data, deepal.dropout)
        return per_image_train(net, PerImage(pixels(data, idxs), data.train.labels[idxs], net), deepal)

    seconds, other_seconds, peak, learner, per_image = timer.compare(lambda: ours(deepal), other)
    reached, others = accuracy(learner, data), accuracy(per_image, data)
    size = f"{len(idxs)} labels, {deepal.n_epoch} epochs of {deepal.batch_size}"
    remark = f"accuracy {reached:.4f}, other {others:.4f}"
    row("training, SmallCNN / per-image loop", size, seconds, other_seconds, peak, remark)
    exact = replace(default, bf16=False)
    seconds, exact_seconds, peak, better, exactly = timer.compare(lambda: ours(default), lambda: ours(exact))
    reached, exactly_reached = accuracy(better, data), accuracy(exactly, data)
    size = f"{len(idxs)} labels, {default.n_steps(len(idxs))} steps of {default.batch_size}"
    remark = f"accuracy {reached:.4f}, other {others:.4f}"
    row("training, our recipe / per-image loop", size, seconds, other_seconds, peak, remark)
    remark = f"accuracy {reached:.4f}, other {exactly_reached:.4f}"
    row("training, our recipe, bf16 / float32", size, seconds, exact_seconds, peak, remark)
    return learner


def picks_of(name: str, pool: Pool, k: int, learner: Learner) -> list[int]:
    """What a strategy labels next."""
    return STRATEGIES[name](pool, learner, stream(1, "query", 0)).query(k).tolist()


def scoring_case(timer: Timer, data: ImageData, learner: Learner, n: int) -> None:
    """Probabilities of a pool and what MarginSampling picks of them, in two ways with bfloat16."""
    idxs = np.arange(n)
    images = data.train.inputs[idxs]
    pool = Pool(images, len(data.classes))
    k = n // 40
    loop_net = copy.deepcopy(learner.net).to(memory_format=torch.contiguous_format)  # as DeepAL's is
    dataset = PerImage(pixels(data, idxs), data.train.labels[idxs], loop_net)

    def loop_query() -> list[int]:
        return scores.margin(per_image_probs(loop_net, dataset)).topk(k).indices.tolist()

    ours, other, peak, probs, others = timer.compare(
        partial(learner.probs, images), lambda: per_image_probs(loop_net, dataset)
    )
    difference = (probs - others).abs().max().item()
    row("scoring / per-image loop", f"{n} images", ours, other, peak, f"probabilities within {difference:.0e}")
    ways = {
        "screened": learner.configured(bf16=False, screen=True),
        "--score_bf16": learner.configured(bf16=True, screen=False),
    }
    for way, scorer in ways.items():
        ours, other, peak, picks, other_picks = timer.compare(
            partial(picks_of, "MarginSampling", pool, k, scorer), loop_query
        )
        same = 100 * len(set(picks) & set(other_picks)) / k
        remark = f"{same:.1f} % of the picks are the loop's"
        row(f"MarginSampling, {way} / loop", f"{k} of {n} images", ours, other, peak, remark)


def screening_case(timer: Timer, data: ImageData, learner: Learner, n: int, k: int) -> None:
    """The queries that rank by predictions, with and without ruling images out in bfloat16: do they pick the same?"""
    pool = Pool(data.train.inputs[np.arange(n)], len(data.classes))
    scorer = learner.configured(bf16=False, screen=True)
    for name in SCREENED:
        query = partial(picks_of, name, pool, k)
        ours, picks, peak = timer.once(partial(query, scorer))
        other, other_picks, _ = timer.once(partial(query, learner))
        n_same = len(set(picks) & set(other_picks))
        n_in_place = sum(a == b for a, b in zip(picks, other_picks, strict=True))
        remark = f"{n_same} of {k} picks the same, {n_in_place} in the same place"
        row(f"{name[:29]}, screened / not", f"{k} of {n} images", ours, other, peak, remark)


def bald_case(timer: Timer, data: ImageData, learner: Learner, n: int, n_drop: int) -> None:
    """Mutual information from folded masks, against a pass of the network a mask."""
    images = data.train.inputs[np.arange(n)]
    ours, other, peak, folded, plain = timer.compare(
        lambda: learner.dropout_probs(images, n_drop, stream(1, "query"), scores.mutual_information),
        lambda: passes_of_the_network(learner, images, n_drop, stream(1, "query")),
    )
    remark = f"scores within {(folded - plain).abs().max().item():.0e}"
    row(f"BALD / {n_drop} passes of the network", f"{n} images, K={n_drop}", ours, other, peak, remark)


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tiny", action="store_true", help="a few steps only")
    flags.add_argument("--data_dir", type=Path, default=Path("DATA"))
    flags.add_argument("--repeats", type=int, default=3, help="times each case is run")
    args = flags.parse_args()
    torch.set_num_threads(1)
    try:
        data = noise(5000) if args.tiny else load("CIFAR10", args.data_dir, 32)
    except UserError as e:
        print(f"{e}\nusing noise instead; accuracies mean nothing")
        data = noise(50_000)
    deepal, default = DEEPAL, default_recipe(NETS["SmallCNN"], False)
    if args.tiny:
        deepal, default = replace(deepal, n_epoch=1), replace(default, n_epoch=1, min_steps=10)
    pool = Pool(data.train.inputs, 10)
    first = stream(1, "initial").choice(len(data.train), 1000, replace=False)
    pool.label(first, data.train.labels[first])
    timer = Timer(1, 1 if args.tiny else args.repeats)
    header(on_cpu(1))
    learner = training_case(timer, data, pool, deepal, default)
    scoring_case(timer, data, learner, 500 if args.tiny else 40_000)
    screening_case(timer, data, learner, *((SCREENED_FROM, 100) if args.tiny else (40_000, 1000)))
    bald_case(timer, data, learner, 100 if args.tiny else 2000, 50)


if __name__ == "__main__":
    main()
