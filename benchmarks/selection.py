"""How fast the selection kernels are, against the usual implementations, which are written out here.

    python benchmarks/selection.py           about 5 minutes on one core
    python benchmarks/selection.py --tiny    on small sizes, in seconds: checks that it runs

Seconds are of one process on the same arrays, ours and the other in turn, median of `--repeats` where the other takes
less than 30 seconds; CPU-seconds when there is one thread. Memory is the process's peak while ours runs, data included.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, header, on_cpu, row

from data import Pool, load
from nets import NETS, Net
from strategies.badge import badge
from strategies.kernels.deepfool import deepfool_distances
from strategies.kernels.k_center import k_center_greedy
from strategies.kernels.k_means import k_means
from training.loop import train
from training.recipe import default_recipe
from utils import stream


def rng() -> np.random.Generator:
    """The same draws for every run."""
    return np.random.default_rng(0)


# The usual implementations


def plain_k_center(x: Tensor, centers: Tensor, n: int, product: bool = False) -> list[int]:
    """One pass over the pool for each pick, and for each center too unless `product` takes these in one product."""
    sq = x.square().sum(1)
    nearest = x.new_full((len(x),), torch.inf)
    if product:
        for some in centers.split(512):
            nearest = torch.minimum(nearest, torch.addmm(some.square().sum(1), x, some.T, alpha=-2).amin(1) + sq)
    else:
        for c in centers:
            nearest = torch.minimum(nearest, sq + c.square().sum() - 2 * (x @ c))
    picks: list[int] = []
    while len(picks) < n:
        i = int(nearest.argmax())
        picks.append(i)
        nearest = torch.minimum(nearest, sq + sq[i] - 2 * (x @ x[i]))
        nearest[i] = -1
    return picks


def plain_badge(probs: Tensor, h: Tensor, n: int, rng: np.random.Generator) -> list[int]:
    """k-means++ in gradient space with the product trick, one pass over the pool a pick."""
    a = -probs
    a[torch.arange(len(a)), probs.argmax(1)] += 1
    sq = a.square().sum(1) * h.square().sum(1)
    picks = [int(sq.argmax())]
    mass = torch.full_like(sq, torch.inf)
    while len(picks) < n:
        i = picks[-1]
        mass = torch.minimum(mass, (sq + sq[i] - 2 * (a @ a[i]) * (h @ h[i])).clamp_min(0))
        mass[i] = 0
        cumulative = np.cumsum(mass.numpy(), dtype=np.float64)
        picks.append(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")))
    return picks


def one_by_one(net: Net, x: Tensor, overshoot: float) -> Tensor:
    """DeepFool as DeepAL runs it: one image at a time, all classes, gradients of the weights if they ask for them."""
    lengths = []
    for image in x:
        image = image[None].clone().requires_grad_()
        r = torch.zeros_like(image)
        logits = net(image)[0]
        y = int(logits.argmax())
        for _ in range(50):
            if int(logits.argmax()) != y:
                break
            logits[y].backward(retain_graph=True)
            own, best, step = image.grad.clone(), torch.inf, r
            for c in range(len(logits)):
                if c != y:
                    image.grad.zero_()
                    logits[c].backward(retain_graph=True)
                    w, gap = image.grad - own, (logits[c] - logits[y]).detach().abs()
                    if gap / w.norm() < best:
                        best, step = gap / w.norm(), gap / w.norm() ** 2 * w
            image.grad.zero_()
            r = r + step
            logits = net(image + (1 + overshoot) * r)[0]
        lengths.append(r.norm())
    return torch.stack(lengths)


# Synthetic inputs


def embeddings(n_rows: int, d: int) -> Tensor:
    """Rows as networks embed: not negative, 30 directions in 100 groups and noise."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(100, 30, generator=generator)
    low = groups[torch.randint(0, 100, (n_rows,), generator=generator)] + torch.randn(n_rows, 30, generator=generator)
    basis = torch.randn(30, d, generator=generator)
    x = torch.empty(n_rows, d)
    for start in range(0, n_rows, 50_000):
        some = low[start : start + 50_000]
        x[start : start + 50_000] = (some @ basis + torch.randn(len(some), d, generator=generator)).relu()
    return x


def predictions(n_rows: int, n_classes: int) -> Tensor:
    """Class probabilities, some certain and some not."""
    return torch.randn(n_rows, n_classes, generator=torch.Generator().manual_seed(1)).mul(2).softmax(1)


# The cases


def k_means_case(timer: Timer, n_rows: int, d: int, k: int) -> None:
    """Against scikit-learn."""
    x = embeddings(n_rows, d)

    def inertia(centroids: Tensor, assignment: Tensor) -> float:
        return sum(
            (some - centroids[c]).square().sum(dtype=torch.float64).item()
            for some, c in zip(x.split(10_000), assignment.split(10_000), strict=True)
        )

    theirs = KMeans(k, n_init=1, random_state=0)
    ours, other, peak, result, _ = timer.compare(lambda: k_means(x, k, rng()), lambda: theirs.fit(x.numpy()))
    excess = inertia(*result) / theirs.inertia_ - 1
    row("k-means / scikit-learn", f"{n_rows} x {d}, k={k}", ours, other, peak, f"inertia {100 * excess:+.2f} %")


def k_center_case(timer: Timer, n_rows: int, d: int, n_labeled: int, n: int) -> None:
    """Against the plain loop, which visits the pool for every labeled image, and one that takes these in a product."""
    everything = embeddings(n_rows + n_labeled, d)
    x, centers = everything[:n_rows], everything[n_rows:]
    exact = plain_k_center(x.double(), centers.double(), n, product=True)
    size = f"{n_rows} x {d}, L={n_labeled}, k={n}"
    for product in (False, True):
        ours, other, peak, picks, _ = timer.compare(
            lambda: k_center_greedy(x, centers, n),
            partial(plain_k_center, x, centers, n, product),
        )
        same = int((picks == np.array(exact)).sum())
        case = "k-center / product for L, plain loop for k" if product else "k-center / plain loop"
        row(case, size, ours, other, peak, f"{same} of {n} picks as in float64")


def badge_case(timer: Timer, n_rows: int, d: int, n_classes: int, n: int) -> None:
    """Against the product trick with one pass a pick."""
    h, probs = embeddings(n_rows, d), predictions(n_rows, n_classes)
    ours, other, peak, picks, _ = timer.compare(
        lambda: badge(probs, h, n, rng()), lambda: plain_badge(probs, h, n, rng())
    )
    check = f"{len(set(picks.tolist()))} different"
    row("BADGE / product trick, a pass a pick", f"{n_rows} x {d} x {n_classes}, k={n}", ours, other, peak, check)


def deepfool_case(timer: Timer, dataset_name: str, data_dir: Path, n_steps: int, n_images: int, n_alone: int) -> None:
    """Against one image at a time, all classes; milliseconds an image."""
    data = load(dataset_name, data_dir, 32)
    pool = Pool(data.train.inputs, len(data.classes))
    first = rng().permutation(len(data.train))[:500]
    pool.label(first, data.train.labels[first])
    recipe = replace(default_recipe(NETS["SmallCNN"], False), n_epoch=1, min_steps=n_steps)
    learner = train(
        lambda: NETS["SmallCNN"].build(pool.inputs.shape, pool.n_classes, 0.5, False),
        pool,
        recipe,
        torch.device("cpu"),
        stream(0, "train"),
    )
    net, some = learner.net, pool.inputs[rng().permutation(pool.unlabeled)[:n_images]]
    x = net.normalize(some.batch(0, len(some), learner.device))
    exact = torch.cat([deepfool_distances(net, b, None) for b in x.split(256)])
    size = f"SmallCNN, {dataset_name}, ms/image"
    for case, weights, overshoot in (("as DeepAL does it", True, 0.0), ("overshoot, frozen weights", False, 0.02)):

        def alone(weights: bool = weights, overshoot: float = overshoot) -> Tensor:
            net.requires_grad_(weights)
            lengths = one_by_one(net, x[:n_alone], overshoot)
            net.zero_grad(set_to_none=True)
            net.requires_grad_(False)
            return lengths

        ours, other, peak, lengths, _ = timer.compare(
            lambda: torch.cat([deepfool_distances(net, b) for b in x.split(256)]), alone
        )
        check = f"Spearman {spearmanr(lengths, exact).statistic:.4f} with all classes"
        row(f"DeepFool / 1 image, {case}", size, 1e3 * ours / len(x), 1e3 * other / n_alone, peak, check)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--cases", nargs="+", default=["k_means", "k_center", "badge", "deepfool"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data_dir", type=Path, default=Path(__file__).parent.parent / "DATA")
    parser.add_argument("--dataset_name", help="the images of DeepFool; CIFAR10 where it is in DATA/, else Digits")
    args = parser.parse_args()
    has_cifar = any((args.data_dir / name).is_dir() for name in ("DATA_CIFAR10", "CIFAR10"))
    dataset_name = args.dataset_name or ("CIFAR10" if has_cifar and not args.tiny else "Digits")
    torch.set_num_threads(args.threads)
    timer = Timer(args.threads, args.repeats)
    shrink = 40 if args.tiny else 1
    n_rows, d, n_labeled, n = 40_000 // shrink, 512 // shrink, 10_000 // shrink, 1000 // shrink
    cases: dict[str, Callable[[], None]] = {
        "k_means": lambda: k_means_case(timer, n_rows, d, n),
        "k_center": lambda: k_center_case(timer, n_rows, d, n_labeled, n),
        "badge": lambda: badge_case(timer, n_rows, d, 10, n),
        "deepfool": lambda: deepfool_case(
            timer, dataset_name, args.data_dir, 300 // shrink, 1000 // shrink, 100 // shrink
        ),
    }
    with threadpool_limits(args.threads):
        header(on_cpu(args.threads))
        for name in args.cases:
            cases[name]()


if __name__ == "__main__":
    main()
