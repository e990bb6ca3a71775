"""Images that cover the uncertain part of the pool: coverage at first, uncertainty with more labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import Inputs, Pool
from features.rows import feature_stats
from nets import NETS, Net
from runs.metrics import ece
from strategies.base import Idxs, Strategy
from strategies.kernels.rows import directions
from strategies.kernels.typicality import nearest_others
from strategies.max_herding import LEAST_SIGMA, max_herding
from strategies.scores import margin
from training.loop import train
from training.recipe import default_recipe
from utils import UserError

TEMPERATURES = np.arange(10, 200) / 10  # the authors' choice
HELD_OUT = 0.3  # share of the labeled images that chooses the temperature
LEAST_LABELED = 10  # images, of which three are held out; with fewer the temperature stays 1
EQUAL = 1e-6  # distances of directions that float32 cannot tell from 0


@dataclass
class UHerding(Strategy):
    """MaxHerding where an image counts by its uncertainty, with a similarity that gets narrower with more labels.

    The uncertainty is 1 minus the gap between the two largest probabilities, after the logits are divided by a
    temperature. Deviations: the temperature is that of a linear head trained on the embeddings of 70 % of the labeled
    images, not of a whole network; and the width of the similarity is not the smallest distance between labeled images,
    which one pair of near-duplicates would decide, but a low quantile of the distances to the nearest one.

    Source: Bae, Oliveira, Sutherland, "Uncertainty herding: one active learning method for all label budgets", ICLR
    2025.
    Cost: one pass of the body over all images, half of the product of all unlabeled embeddings with each other, then
    products with the few that may be picked; and the training of a head, which passes over embeddings of labeled ones.
    """

    quantile: float = 0.05  # of the distances to the nearest labeled image; 0 is the smallest

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise UserError(f"--strategy_args quantile={self.quantile}: must be from 0 to 1")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The greedy cover; that of MaxHerding where no image is labeled."""
        h, labeled, head = self.learner.embeddings(self.pool.inputs[idxs]), self.pool.labeled, self.learner.net.head
        if not len(labeled):
            return idxs[max_herding(h, h[:0].clone(), n, self.rng)]
        centers = self.learner.embeddings(self.pool.inputs[labeled])
        t = temperature(centers, self.pool.labels[labeled], self.pool.n_classes, self.rng)
        uncertainty = 1 + margin((head(h) / t).softmax(1)).clamp_min(-1)
        sigma = width(centers, self.quantile)
        return idxs[max_herding(h, centers, n, self.rng, sigma, uncertainty)]


def temperature(h: Tensor, labels: NDArray[np.int64], n_classes: int, rng: np.random.Generator) -> float:
    """What logits of a head are to be divided by, so that its confidence on images it was not trained on is right.

    It has the smallest expected calibration error on 30 % of the rows, of a linear head trained on the others.

    Args:
        h: embeddings of the labeled images. Shape (L, D).
        labels: Shape (L,).
        n_classes: C.
        rng: draws which rows are held out, and the training.

    Returns:
        From 1 to 19.9; 1 for fewer than 10 rows.
    """
    if len(h) < LEAST_LABELED:
        return 1.0
    net = NETS["Linear"]
    recipe = default_recipe(net, False)

    def build() -> Net:
        made = net.build(tuple(h.shape[1:]), n_classes, recipe.dropout, False)
        made.set_input_stats(*(stat.to(h.device) for stat in feature_stats(h.cpu())))
        return made

    held_out, others = np.split(rng.permutation(len(h)), [round(HELD_OUT * len(h))])
    pool = Pool(Inputs(h), n_classes)
    pool.label(others, labels[others])
    with torch.enable_grad():  # whether or not the query is made without
        learner = train(build, pool, recipe, h.device, rng)
    logits = learner.map(learner.net, pool.inputs[held_out]).double().cpu()
    return best_temperature(logits, labels[held_out])


def best_temperature(logits: Tensor, labels: NDArray[np.int64]) -> float:
    """The lowest of the temperatures with the smallest calibration error. Shapes (M, C) and (M,)."""
    errors = [ece((logits / t).softmax(1).numpy(), labels) for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(errors))])


def width(h: Tensor, quantile: float) -> float:
    """A low quantile of the distances from each direction to the nearest different one, at most 1.

    Args:
        h: embeddings of the labeled images. Shape (L, D).
        quantile: 0 for the smallest distance.

    Returns:
        From 0.01 to 1; 1 where all directions are the same.
    """
    if len(h) < 2:
        return 1.0
    _, nearest = nearest_others(directions(h.to(torch.float32, copy=True)), 1)
    different = nearest[nearest > EQUAL]
    if not len(different):
        return 1.0
    return float(np.clip(np.quantile(different, quantile, method="lower"), LEAST_SIGMA, 1))
