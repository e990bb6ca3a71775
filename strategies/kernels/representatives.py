"""A few rows that stand for many: how DropQuery and ALFAMix thin out their candidates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import sq_norms
from strategies.kernels.k_means import k_means, nearest_members


def representatives(h: Tensor, candidates: Idxs, n: int, rng: np.random.Generator) -> Idxs:
    """From each of n clusters of the candidates, the row nearest to the center; large clusters first.

    Clusters are those of k-means among directions, rows divided by their length. Where there are n candidates or fewer,
    all of them in random order, and then other rows at random.

    Source: Gupte et al., TMLR 2024, and Parvaneh et al., CVPR 2022, in their authors' code.
    Cost: up to 20 products of the candidates with n centers; memory for two copies of the candidates.

    Args:
        h: embeddings. Shape (U, D).
        candidates: positions in `h`, all different; may be empty.
        n: how many, 1 <= n <= U.
        rng: draws the seeds of k-means, breaks ties, and fills up.

    Returns:
        Positions in `h`, all different. Shape (n,).

    Raises:
        UserError: an embedding of a candidate is not finite.
    """
    shuffled = rng.permutation(candidates)  # ties break by position, which this makes a random draw
    if len(candidates) <= n:
        others = np.setdiff1d(np.arange(len(h)), candidates)
        return np.concatenate([shuffled, rng.choice(others, n - len(candidates), replace=False)])
    x = h[torch.from_numpy(shuffled).to(h.device)]
    x.div_(sq_norms(x).sqrt_().clamp_min_(1e-12)[:, None])
    centroids, assignment = k_means(x, n, rng)
    nearest = nearest_members(x, centroids, assignment)
    largest = torch.bincount(assignment, minlength=n).argsort(descending=True, stable=True)
    return shuffled[nearest[largest].cpu().numpy()]
