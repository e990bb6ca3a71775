"""How long BAIT, EPIG and BatchBALD take, against the ways they were published in.

    python benchmarks/modern_information.py           about 10 minutes on one core
    python benchmarks/modern_information.py --tiny    on small sizes, in seconds: checks that it runs
    python benchmarks/modern_information.py --cases epig --queries --n_classes 100 --n_rows 10000
                                                      one query of EPIG with many classes

The published ways are written out here. Queries of the pool are whole, reading float16 features included. CPU-seconds
when there is one thread; what takes the other 30 seconds or more is timed once.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from modern_candidates import head_on_features
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Timer, header, on_cpu, row
from selection import embeddings, predictions, rng

from strategies import STRATEGIES
from strategies.bait import bait, fisher_embeddings
from strategies.kernels.joint_information import Outcomes, joint_information_greedy
from strategies.kernels.precision import wide_probs
from strategies.kernels.predictive_information import predictive_information

Picks = NDArray[np.int64]


# The published ways


def plain_bait(x: Tensor, labeled: Tensor, n: int) -> Picks:
    """All gains from the inverse, before every pick: four products of the pool with a matrix (D, D)."""
    n_labeled, d = labeled.shape
    inverse = (torch.eye(d, dtype=x.dtype) + labeled.T @ labeled / (n_labeled + n)).inverse()
    fisher = (x.T @ x + labeled.T @ labeled) / (len(x) + n_labeled)
    x = x * (n / (n_labeled + n)) ** 0.5
    picks: list[int] = []
    while len(picks) < 2 * n:
        gains = ((x @ inverse @ fisher @ inverse) * x).sum(1) / (1 + ((x @ inverse) * x).sum(1))
        gains[picks] = -torch.inf
        picks.append(int(gains.argmax()))
        u = inverse @ x[picks[-1]]
        inverse = inverse - torch.outer(u, u) / (1 + x[picks[-1]] @ u)
    while len(picks) > n:
        some = x[picks]
        losses = ((some @ inverse @ fisher @ inverse) * some).sum(1) / (1 - ((some @ inverse) * some).sum(1))
        u = inverse @ some[losses.argmin()]
        inverse = inverse + torch.outer(u, u) / (1 - some[losses.argmin()] @ u)
        del picks[int(losses.argmin())]
    return np.array(picks)


def plain_epig(probs: Tensor, targets: Tensor) -> Tensor:
    """As the authors compute it: the joint and the product of marginals of each pair, (B, M, C, C), in batches."""
    scores = []
    for some in probs.split(100, dim=1):
        joint = torch.einsum("kbc,kmd->bmcd", some, targets) / len(probs)
        independent = torch.einsum("bc,md->bmcd", some.mean(0), targets.mean(0))
        scores.append((joint * (joint.log() - independent.log())).nan_to_num(0).sum((2, 3)).mean(1))
    return torch.cat(scores)


def plain_batchbald(probs: Tensor, n: int, n_outcomes: int) -> Picks:
    """Joint entropies of all candidates with the picks, before every pick, with the outcomes that ours has."""
    wide, draw, k = wide_probs(probs), rng(), probs.shape[1]
    outcomes = Outcomes(wide.new_ones(1), wide.new_full((1, k), 1 / k))
    surprise = -wide.xlogy(wide).sum(2)
    picks: list[int] = []
    while len(picks) < n:
        scores = []
        for some in wide.split(max(1, 2**19 // (max(len(outcomes.mass), k) * wide.shape[2]))):
            given = (outcomes.networks @ some.permute(1, 0, 2).flatten(1)).clamp_min(1e-300)
            entropies = outcomes.mass @ -(given.log() * given)
            scores.append(entropies.unflatten(0, (len(some), -1)).sum(1))
        gains = torch.cat(scores) - surprise @ (outcomes.mass @ outcomes.networks)
        gains[picks] = -torch.inf
        picks.append(int(gains.argmax()))
        outcomes = outcomes.with_pick(wide[picks[-1]], n_outcomes, draw)
    return np.array(picks)


# The cases


def dropout_predictions(n_rows: int, k: int, n_classes: int, scale: float) -> Tensor:
    """Predictions of a linear network with k dropout masks, certain on some images and not on others. (U, K, C)."""
    h = embeddings(n_rows, 128)
    generator = torch.Generator().manual_seed(0)
    weights = scale / h.std() * torch.randn(n_classes, 128, generator=generator) / 128**0.5
    masks = torch.rand(k, 128, generator=generator) >= 0.5
    probs = torch.empty(n_rows, k, n_classes)
    for i, mask in enumerate(masks):
        probs[:, i] = (2 * h @ (weights * mask).T).softmax(1)
    return probs


def bait_case(timer: Timer, n_rows: int, d: int, n_labeled: int, n: int) -> None:
    """Against the published form, on a part of the pool."""
    x = fisher_embeddings(predictions(n_rows + n_labeled, 10), embeddings(n_rows + n_labeled, d))
    x, labeled = x[:n_rows], x[n_rows:]
    ours, other, peak, _, _ = timer.compare(lambda: bait(x, labeled, n), lambda: plain_bait(x, labeled, n))
    part, few = (
        x[: n_rows // 5],
        max(1, n // 4),
    )  # float32 loses digits in the plain form, and float64 takes twice as long
    same = int((bait(part, labeled, few) == plain_bait(part.double(), labeled.double(), few)).sum())
    size, remark = f"{n_rows} x {d}, L={n_labeled}, k={n}", f"{same} of {few} picks as in float64 on {len(part)} rows"
    row("BAIT / products with matrices a pick", size, ours, other, peak, remark)


def query_case(timer: Timer, name: str, n_rows: int, d: int, n_classes: int, n_labeled: int, n: int) -> None:
    """A whole query of the whole pool."""
    pool, learner = head_on_features(n_rows, d, n_classes, n_labeled)
    seconds, picks, peak = timer.once(lambda: STRATEGIES[name](pool, learner, rng()).query(n))
    size = f"{n_rows} x {d} x {n_classes}, L={n_labeled}, k={n}"
    row(f"query, {name}", size, seconds, None, peak, f"{len(set(picks.tolist()))} different")


def epig_case(timer: Timer, n_rows: int, k: int, n_targets: int, n_classes: int) -> None:
    """Against the tensor of all pairs of classes."""
    probs = dropout_predictions(n_rows + n_targets, k, n_classes, 2.0).transpose(0, 1).contiguous()
    probs, targets = probs[:, :n_rows], probs[:, n_rows:]
    ours, other, peak, scores, exact = timer.compare(
        lambda: torch.cat([predictive_information(some, targets) for some in probs.split(64, dim=1)]),
        lambda: plain_epig(probs, targets),
    )
    error = f"scores within {(scores - exact).abs().max():.0e}"
    row("EPIG / all pairs in one tensor", f"{n_rows}, M={n_targets}, K={k}, C={n_classes}", ours, other, peak, error)


def batchbald_case(timer: Timer, n_rows: int, k: int, n_classes: int, n: int, scale: float) -> None:
    """Against all gains before every pick."""
    probs = dropout_predictions(n_rows, k, n_classes, scale)
    ours, other, peak, picks, exact = timer.compare(
        lambda: joint_information_greedy(lambda rows: probs[rows], n_rows, n, 10_000, rng()),
        lambda: plain_batchbald(probs, n, 10_000),
    )
    size, same = f"{n_rows}, K={k}, C={n_classes}, k={n}", int((picks == exact).sum())
    case = f"BatchBALD / all gains a pick, weights x {scale:g}"
    row(case, size, ours, other, peak, f"{same} of {n} picks the same")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--cases", nargs="+", default=["bait", "epig", "batchbald"])
    parser.add_argument("--n_classes", type=int, default=10)
    parser.add_argument("--n_rows", type=int, default=50_000, help="of the pool that whole queries choose from")
    parser.add_argument("--queries", action="store_true", help="whole queries alone, without the published ways")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    timer, shrink, c = Timer(args.threads, args.repeats), 40 if args.tiny else 1, args.n_classes
    n_rows, d, n_labeled, n = args.n_rows // shrink, 1280 // shrink, 1000 // shrink, 100 // shrink
    with threadpool_limits(args.threads), torch.no_grad():
        header(on_cpu(args.threads))
        if "bait" in args.cases:
            if not args.queries:
                bait_case(timer, 10_000 // shrink, d, n_labeled, n)
            query_case(timer, "BAIT", n_rows, d, c, n_labeled, n)
        if "epig" in args.cases:
            if not args.queries:
                epig_case(timer, 5000 // shrink, 100, 100, c)
            query_case(timer, "EPIG", n_rows, d, c, n_labeled, n)
        if "batchbald" in args.cases:
            for scale in () if args.queries else (0.5, 1.0, 2.0):
                batchbald_case(timer, 4000 // shrink, 50, c, 4 if args.tiny else 10, scale)
            query_case(timer, "BatchBALD", n_rows, d, c, n_labeled, n // 10 + 1 if args.tiny else 10)


if __name__ == "__main__":
    main()
