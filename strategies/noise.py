"""Noise on scores: a batch of the highest noisy scores is a weighted draw, not n images that are all alike.

Adding Gumbel noise to beta log w and taking the n highest draws n images one by one without replacement, each with
probability proportional to w ** beta among those that are left. What w is, the kind of noise says.

Source: Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron, Gal, "Stochastic batch acquisition", TMLR 2023.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils import UserError

Floats = NDArray[np.float64]
NO_NOISE = "none"
NOISES = ("power", "softmax", "softrank")
MOST_BETA = 1e6  # beyond it, float64 loses the noise beside beta log w
ROUNDING = 1e-4  # by which a float32 score may be below the lowest possible one


def check_noise(noise: str, beta: float) -> None:
    """Refuse hyperparameters of a ScoreStrategy that mean nothing.

    Raises:
        UserError: no such noise, a beta that is not positive, or a beta without noise.
    """
    if noise not in (NO_NOISE, *NOISES):
        raise UserError(f"--strategy_args noise={noise}: must be {', '.join((NO_NOISE, *NOISES))}")
    if not 0 < beta <= MOST_BETA:
        raise UserError(f"--strategy_args beta={beta}: must be above 0 and at most {MOST_BETA:g}")
    if noise == NO_NOISE and beta != 1:
        raise UserError(f"--strategy_args beta={beta}: needs noise={' or noise='.join(NOISES)}")


def noisy(scores: Tensor, noise: str, beta: float, lowest: float, rng: np.random.Generator) -> Tensor:
    """Scores whose n highest are a draw of n by the given noise, in float64 on the CPU.

    Args:
        scores: higher is sooner; infinities allowed, not NaN. Shape (U,).
        noise: power draws by (score - lowest) ** beta, those of weight 0 last; softmax by exp(beta score); softrank by
            rank ** -beta, where the highest score has rank 1 and equal scores have their ranks in random order.
        beta: how little noise, above 0: near 0 all orders are equally likely, a large one keeps the scores' order.
        lowest: the lowest score possible; used by power.
        rng: draws the noise.

    Returns:
        Shape (U,).

    Raises:
        UserError: a score is below `lowest` and the noise is power.
    """
    values = scores.detach().to("cpu", torch.float64).numpy()
    if noise == "power":
        log_weights = _log_shifted(values, lowest)
    elif noise == "softmax":
        log_weights = values
    else:
        log_weights = _log_ranks(values, rng)
    return torch.from_numpy(beta * log_weights + rng.gumbel(size=len(values)))


def _log_shifted(scores: Floats, lowest: float) -> Floats:
    weights = scores - lowest
    if (weights < -ROUNDING).any():
        raise UserError(
            f"noise=power: needs scores of {lowest:g} or more, the lowest is {scores.min():g}; "
            "take noise=softmax or noise=softrank"
        )
    with np.errstate(divide="ignore"):
        return np.log(weights.clip(min=0))


def _log_ranks(scores: Floats, rng: np.random.Generator) -> Floats:
    """Minus the logarithm of each score's rank, from 1 for the highest."""
    shuffled = rng.permutation(len(scores))
    order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    result = np.empty(len(scores))
    result[order] = -np.log(np.arange(1, len(scores) + 1))
    return result
