"""What the class of one image says about the class of another, by dropout networks."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.kernels.distances import BLOCK, row_blocks
from strategies.kernels.precision import wide_probs
from strategies.scores import entropy

CACHED = 2**18  # joint probabilities held at once on a CPU: 2 MB, which its cache holds


def predictive_information(probs: Tensor, targets: Tensor) -> Tensor:
    """Mutual information between the class of each image and that of a target, mean over the targets, in nats.

    Given the network, the two classes are independent: p(y, y*) = mean over k of p_k(y) p_k(y*).

    Source: Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth, "Prediction-oriented Bayesian active learning",
    AISTATS 2023, eq. 9.
    Cost: B M C^2 (K + a logarithm), in matrix products of blocks.

    Args:
        probs: predictions of K networks. Shape (K, B, C).
        targets: predictions of the same networks. Shape (K, M, C).

    Returns:
        0 to ln C. Shape (B,), float32.
    """
    probs, targets = wide_probs(probs), wide_probs(targets)
    n_passes, n_rows, n_classes = probs.shape
    n_targets = targets.shape[1]
    block = CACHED if probs.device.type == "cpu" else BLOCK
    joint_entropy = probs.new_zeros(n_rows)  # summed over the targets
    for some in targets.split(max(1, block // n_classes**2), dim=1):
        for rows in row_blocks(n_rows, some[0].numel() * n_classes, block):
            of_rows = probs[:, rows].permute(1, 2, 0)  # (R, C, K)
            joint = of_rows.flatten(0, 1) @ (some.flatten(1) / n_passes)  # (R C, M C)
            joint_entropy[rows] += _joint_entropy(joint.reshape(len(of_rows), -1))
    alone = entropy(probs.mean(0)) + entropy(targets.mean(0)).mean()
    return (alone - joint_entropy / n_targets).clamp_min(0).float()


def _joint_entropy(joint: Tensor) -> Tensor:
    """Entropy of each row, as `entropy`, with vectorized logarithms, whose last digits may differ. Shape (R,)."""
    return -joint.clamp_min(torch.finfo(joint.dtype).tiny).log_().mul_(joint).sum(1)
