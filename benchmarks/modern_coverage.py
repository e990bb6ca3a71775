"""How long TypiClust, MaxHerding, UHerding and ClusterMargin take on features, against the ways they were published in.

    python benchmarks/modern_coverage.py           about 10 minutes on one core
    python benchmarks/modern_coverage.py --tiny    on small sizes, in seconds: checks that it runs

Queries are whole, reading float16 features included. The published ways, written out here, hold all distances or
kernels of a sample that fits into the memory; ours gets the same sample, then the whole pool. CPU-seconds when there is
one thread.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from modern_candidates import head_on_features
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, header, on_cpu, row
from selection import rng

from data import Pool
from strategies import STRATEGIES
from strategies.max_herding import max_herding
from training.learner import Learner

Picks = NDArray[np.int64]
LINKAGE_ROWS = 5000  # scikit-learn holds their distances


def plain_herding(h: Tensor, centers: Tensor, n: int, sigma: float) -> list[int]:
    """The authors' loop: all kernels in memory, all gains anew for each pick."""
    x, c = F.normalize(h), F.normalize(centers)
    k = torch.cdist(x, x).div_(sigma).square_().neg_().exp_()
    covered = torch.cdist(c, x).div_(sigma).square_().neg_().exp_().amax(0)
    picks: list[int] = []
    while len(picks) < n:
        gains = (k - covered).clamp_min_(0).sum(1)
        gains[picks] = -torch.inf
        picks.append(int(gains.argmax()))
        covered = torch.maximum(covered, k[picks[-1]])
    return picks


def plain_typiclust(pool: Pool, learner: Learner, n: int) -> Picks:
    """The authors' way: scikit-learn's k-means in small batches, neighbours within each cluster anew for each pick."""
    rows = np.concatenate([pool.labeled, pool.unlabeled])
    x, n_labeled = F.normalize(learner.embeddings(pool.inputs[rows])).numpy(), len(pool.labeled)
    k = min(n_labeled + n, 500)
    clusters = MiniBatchKMeans(k, batch_size=5000, random_state=0, n_init=1).fit(x).labels_
    sizes, labeled = np.bincount(clusters, minlength=k), np.bincount(clusters[:n_labeled], minlength=k)
    order = [c for c in np.lexsort([-sizes, labeled]) if sizes[c] > 5]
    clusters[:n_labeled] = -1
    picks: list[int] = []
    for i in range(n):
        members = np.flatnonzero(clusters == order[i % len(order)])
        near = NearestNeighbors(n_neighbors=min(20, len(members) // 2) + 1).fit(x[members]).kneighbors(x[members])
        picks.append(int(members[near[0][:, 1:].mean(1).argmin()]))
        clusters[picks[-1]] = -1
    return rows[picks]


def plain_cluster_margin(pool: Pool, learner: Learner, sample: Picks, n: int) -> Picks:
    """scikit-learn's average linkage of a sample, and candidates out of it alone."""
    h, probs = learner.embeddings(pool.inputs[sample]), learner.probs(pool.inputs[sample])
    clusters = AgglomerativeClustering(len(sample) // 10, linkage="average").fit(h.numpy()).labels_
    top = probs.topk(2).values
    candidates = (top[:, 0] - top[:, 1]).argsort()[: 10 * n].numpy()
    groups = sorted((list(candidates[clusters[candidates] == c]) for c in {*clusters[candidates]}), key=len)
    picks: list[int] = []
    while len(picks) < n:
        picks += [group.pop(0) for group in groups if group]
    return sample[picks[:n]]


def coverage_cases(timer: Timer, n_rows: int, d: int, n_classes: int, n_labeled: int, n: int, n_sample: int) -> None:
    """All of them on one pool."""
    pool, learner = head_on_features(n_rows, d, n_classes, n_labeled)
    size = f"{n_rows} x {d}, L={n_labeled}, k={n}"

    def query(name: str, among: Picks | None = None, **arguments: int) -> Picks:
        return STRATEGIES[name](pool, learner, rng(), **arguments).query(n, among)

    ours, other, peak, picks, _ = timer.compare(lambda: query("TypiClust"), lambda: plain_typiclust(pool, learner, n))
    row("TypiClust / scikit-learn", size, ours, other, peak, f"{len(set(picks.tolist()))} different")

    sample = np.sort(rng().choice(pool.unlabeled, n_sample, replace=False))
    h, centers = learner.embeddings(pool.inputs[sample]), learner.embeddings(pool.inputs[pool.labeled])
    for case, wide in (("float64", h.double()), ("float32", h)):
        ours, other, peak, picks, plain = timer.compare(
            lambda: max_herding(h.clone(), centers.clone(), n, rng()),
            lambda wide=wide: plain_herding(wide, centers.to(wide.dtype), n, 1.0),
        )
        remark = f"{int((picks == np.array(plain)).sum())} of {n} picks the same"
        row(f"MaxHerding / all kernels, {case}", f"{n_sample} x {d}, L={n_labeled}, k={n}", ours, other, peak, remark)
    for name in ("MaxHerding", "UHerding"):
        ours, picks, peak = timer.once(lambda name=name: query(name))
        row(f"{name}, whole pool", size, ours, None, peak, f"{len(set(picks.tolist()))} different")

    some = sample[:LINKAGE_ROWS]
    ours, other, peak, _, _ = timer.compare(
        lambda: query("ClusterMargin", some), lambda: plain_cluster_margin(pool, learner, some, n)
    )
    row("ClusterMargin / scikit-learn", f"{len(some)} x {d}, k={n}", ours, other, peak, "")
    ours, picks, peak = timer.once(lambda: query("ClusterMargin"))
    row("ClusterMargin, whole pool", size, ours, None, peak, f"{len(set(picks.tolist()))} different")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shrink = 40 if args.tiny else 1
    with threadpool_limits(args.threads), torch.no_grad():
        header(on_cpu(args.threads))
        coverage_cases(
            Timer(args.threads, args.repeats),
            50_000 // shrink,
            1280 // shrink,
            10,
            1000 // shrink,
            max(5, 100 // shrink),
            10_000 // shrink,
        )


if __name__ == "__main__":
    main()
