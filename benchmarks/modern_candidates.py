"""How long DropQuery, ALFAMix, FALCUN and noisy scores take on features, against the ways they were published in.

    python benchmarks/modern_candidates.py           about 2 minutes on one core
    python benchmarks/modern_candidates.py --tiny    on small sizes, in seconds: checks that it runs

Queries are whole, reading float16 features included. The published ways are written out here, with the k-means of
scikit-learn; ours and the other in turn on the same arrays, CPU-seconds when there is one thread.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, header, on_cpu, row
from selection import embeddings, rng

from data import Inputs, Pool
from nets import NETS
from strategies import STRATEGIES
from strategies.kernels.alfa_mix import class_means, flips_when_mixed
from training.learner import Learner

Picks = NDArray[np.int64]


def head_on_features(n_rows: int, d: int, n_classes: int, n_labeled: int) -> tuple[Pool, Learner]:
    """A pool of float16 features and a linear head on them that is certain of some; its predictions are the labels."""
    x = embeddings(n_rows, d).half()
    net = NETS["Linear"].build((d,), n_classes, 0.3, False)
    net.set_input_stats(x.float().mean(0), x.float().std(0))
    net.head.weight.data.normal_(0, 2 / d**0.5, generator=torch.Generator().manual_seed(0))
    learner, pool = Learner(net, torch.device("cpu")), Pool(Inputs(x), n_classes)
    labeled = rng().choice(n_rows, n_labeled, replace=False)
    pool.label(labeled, learner.probs(pool.inputs[labeled]).argmax(1).numpy())
    return pool, learner


# The published ways


def clustered(h: Tensor, candidates: Tensor, n: int) -> Picks:
    """The candidates nearest to the centers of scikit-learn's k-means."""
    x = F.normalize(h[candidates]).numpy()
    fitted = KMeans(n, n_init=1, random_state=0).fit(x)
    sq = ((x - fitted.cluster_centers_[fitted.labels_]) ** 2).sum(1)
    members = [np.flatnonzero(fitted.labels_ == c) for c in range(n)]
    return candidates.numpy()[[m[sq[m].argmin()] for m in members]]


def plain_dropquery(pool: Pool, learner: Learner, n: int) -> Picks:
    """Three predictions of the whole pool with dropout."""
    torch.manual_seed(0)
    h, head = learner.embeddings(pool.inputs[pool.unlabeled]), learner.net.head
    votes = torch.stack([head(nn.functional.dropout(h, 0.75)).softmax(1).argmax(1) for _ in range(3)])
    mismatch = (votes != head(h).argmax(1)).sum(0)
    threshold = 1
    while (mismatch > threshold).sum() < 25 * n and threshold > 0:
        threshold -= 1
    return pool.unlabeled[clustered(h, (mismatch > threshold).nonzero()[:, 0], n)]


def plain_flips(h: Tensor, head: nn.Linear, anchors: Tensor) -> Tensor:
    """A mix of the whole pool with each anchor, by gradients from autograd."""
    with torch.enable_grad():
        z = h.clone().requires_grad_()
        logits = head(z)
        y = logits.argmax(1)
        (g,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), z)
    flips = torch.zeros(len(h), dtype=torch.bool)
    for anchor in anchors:
        away = anchor - h
        alpha = 0.2 / h.shape[1] ** 0.5 * away.norm(dim=1, keepdim=True) * g / (g.norm(dim=1, keepdim=True) * away)
        mixed = torch.where(away == 0, h, alpha * anchor + (1 - alpha) * h)
        flips |= head(mixed).softmax(1).argmax(1) != y
    return flips


def plain_falcun(probs: NDArray[np.float64], n: int) -> Picks:
    """The authors' loop: the minimum of distances image by image, and `choice` among those left."""
    top = np.sort(probs, 1)
    u = 1 - (top[:, -1] - top[:, -2])
    r, left, picks, draw = u, np.ones(len(u), bool), [], rng()
    while len(picks) < n:
        if picks:
            away = np.abs(probs - probs[picks[-1]]).sum(1)
            r = np.array([r[i] if r[i] < away[i] else away[i] for i in range(len(r))])
        scaled = (r[left] - r[left].min()) / (r[left].max() - r[left].min())
        weights = (scaled + u[left]) ** 10
        picks.append(int(draw.choice(np.flatnonzero(left), p=weights / weights.sum())))
        left[picks[-1]] = False
    return np.array(picks)


# The cases


def candidates_cases(timer: Timer, n_rows: int, d: int, n_classes: int, n_labeled: int, n: int) -> None:
    """All of them on one pool."""
    pool, learner = head_on_features(n_rows, d, n_classes, n_labeled)
    size = f"{n_rows} x {d} x {n_classes}, k={n}"

    def query(name: str, **arguments: str) -> Callable[[], Picks]:
        return lambda: STRATEGIES[name](pool, learner, rng(), **arguments).query(n)

    ours, other, peak, picks, _ = timer.compare(query("DropQuery"), lambda: plain_dropquery(pool, learner, n))
    row("DropQuery / passes, scikit-learn", size, ours, other, peak, f"{len(set(picks.tolist()))} different")

    def alfa_mix_parts() -> tuple[Tensor, Tensor]:
        h = learner.embeddings(pool.inputs[pool.unlabeled])
        labels = torch.from_numpy(pool.labels[pool.labeled])
        return h, class_means(learner.embeddings(pool.inputs[pool.labeled]), labels)

    def plain_alfa_mix() -> Picks:
        h, anchors = alfa_mix_parts()
        return pool.unlabeled[clustered(h, plain_flips(h, learner.net.head, anchors).nonzero()[:, 0], n)]

    ours, other, peak, _, _ = timer.compare(query("ALFAMix"), plain_alfa_mix)
    h, anchors = alfa_mix_parts()
    head = learner.net.head
    flips = flips_when_mixed(h, head.weight, head.bias, anchors, 0.2)
    same = (flips == plain_flips(h, head, anchors)).double().mean()
    remark = f"{int(flips.sum())} flip, {100 * same:.2f} % of images the same"
    row("ALFAMix / mixes, scikit-learn", size, ours, other, peak, remark)

    probs = learner.probs(pool.inputs[pool.unlabeled]).double().numpy()
    ours, other, peak, picks, _ = timer.compare(query("FALCUN"), lambda: plain_falcun(probs, n))
    row("FALCUN / the authors' loop", size, ours, other, peak, f"{len(set(picks.tolist()))} different")

    ours, other, peak, _, _ = timer.compare(query("MarginSampling", noise="power"), query("MarginSampling"))
    row("MarginSampling, noise=power / without noise", size, ours, other, peak, "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--n_classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    timer, shrink = Timer(args.threads, args.repeats), 40 if args.tiny else 1
    with threadpool_limits(args.threads), torch.no_grad():
        header(on_cpu(args.threads))
        candidates_cases(timer, 50_000 // shrink, 1280 // shrink, args.n_classes, 1000 // shrink, 100 // shrink)


if __name__ == "__main__":
    main()
