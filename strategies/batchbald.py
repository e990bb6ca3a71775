"""BatchBALD: images whose labels together say most about the network."""

from __future__ import annotations

from dataclasses import dataclass

from strategies import scores
from strategies.base import Idxs, Strategy
from strategies.kernels.joint_information import joint_information_greedy
from strategies.kernels.rows import rearranged
from utils import UserError

MOST_PICKS = 100  # far beyond where a batch says all that can be known of the dropout networks, ln K
MOST_OUTCOMES = 1_000_000


@dataclass
class BatchBALD(Strategy):
    """One by one, the image whose class says most about the dropout networks beyond the classes of those picked.

    Source: Kirsch, van Amersfoort, Gal, "BatchBALD: efficient and diverse batch acquisition for deep Bayesian active
    learning", NeurIPS 2019.
    Cost: one pass of the body over the unlabeled images, K products with the head, then up to S K C for each gain that
    is looked at, S combinations of classes.
    """

    needs_dropout = True

    n_drop: int = 50  # dropout passes, K
    n_outcomes: int = 10_000  # combinations of the classes of picked images, S; exact up to it, then a sample

    def __post_init__(self) -> None:
        if not 2 <= self.n_drop <= scores.MOST_PASSES:
            raise UserError(f"--strategy_args n_drop={self.n_drop}: must be from 2 to {scores.MOST_PASSES}")
        if not 1 <= self.n_outcomes <= MOST_OUTCOMES:
            raise UserError(f"--strategy_args n_outcomes={self.n_outcomes}: must be from 1 to {MOST_OUTCOMES}")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """Greedy choice by joint mutual information."""
        if n > MOST_PICKS:
            raise UserError(
                f"BatchBALD: {n} images a query; it is for some tens, at most {MOST_PICKS}, as {self.n_drop} dropout "
                "networks can tell no more images apart; use BayesianActiveLearningDisagreement with "
                "--strategy_args noise=power"
            )
        order = self.rng.permutation(len(idxs))  # ties break by position, which this makes a random draw
        h = rearranged(self.learner.embeddings(self.pool.inputs[idxs]), order)
        head = self.learner.dropout_head(self.n_drop, self.rng)
        picks = joint_information_greedy(lambda rows: head(h[rows.to(h.device)]), len(h), n, self.n_outcomes, self.rng)
        return idxs[order[picks]]
