"""Which predictions change when features are dropped."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import NOT_FINITE, row_blocks
from utils import UserError

CANDIDATES_A_PICK = 25  # the authors' choice: k-means then has something to choose from


def disagreements(
    h: Tensor, weight: Tensor, bias: Tensor, n_drop: int, p_drop: float, rng: np.random.Generator
) -> Tensor:
    """How many of K predictions with dropout differ from the one without. Each row and pass has a mask of its own.

    Source: Gupte et al., "Revisiting active learning in the era of vision foundation models", TMLR 2024, section 4.
    Cost: K + 1 products of the embeddings with the head, K U D random numbers; O(U) memory beyond a block.

    Args:
        h: embeddings. Shape (U, D).
        weight: of the head. Shape (C, D).
        bias: of the head. Shape (C,).
        n_drop: passes, K.
        p_drop: probability that an entry of an embedding is dropped; the others are divided by 1 - p_drop.
        rng: draws the masks.

    Returns:
        0 to K. Shape (U,), int64.

    Raises:
        UserError: a logit is not finite.
    """
    scaled = weight.T / (1 - p_drop)
    counts = torch.zeros(len(h), dtype=torch.int64, device=h.device)
    for rows in row_blocks(*h.shape):
        block = h[rows]
        logits = torch.addmm(bias, block, weight.T)
        if not logits.isfinite().all():
            raise UserError(NOT_FINITE)
        predicted = logits.argmax(1)
        for _ in range(n_drop):
            mask = torch.from_numpy(rng.random(block.shape, dtype=np.float32) >= p_drop).to(h.device)
            counts[rows] += torch.addmm(bias, block * mask, scaled).argmax(1) != predicted
    return counts


def inconsistent(counts: Tensor, n_drop: int, n: int) -> Idxs:
    """Rows whose prediction changed in more than half of the passes, or in fewer passes where these rows are few.

    Args:
        counts: passes in which the prediction changed. Shape (U,).
        n_drop: passes, K.
        n: images to be picked; the share of passes is lowered while there are fewer than 25 rows for each of them.

    Returns:
        Positions, ascending; none where no prediction changed.
    """
    threshold = n_drop // 2
    while threshold > 0 and int((counts > threshold).sum()) < CANDIDATES_A_PICK * n:
        threshold -= 1
    return torch.nonzero(counts > threshold)[:, 0].cpu().numpy()
