"""What a strategy inherits: `query`, and `top_n`, which ranks scores."""

import numpy as np
import pytest
import torch

from strategies.base import Strategy, top_n
from utils import UserError, stream


def test_a_new_strategy_needs_one_method(pool, learner):
    class Newest(Strategy):
        def select(self, idxs, n):
            return idxs[-n:]

    assert Newest(pool, learner, stream(0)).query(3).tolist() == pool.unlabeled[-3:].tolist()


def test_top_n_takes_the_highest_first():
    picks = top_n(torch.tensor([0.1, 0.9, -torch.inf, 0.5, torch.inf]), 5, stream(0))
    assert picks.tolist() == [4, 1, 3, 0, 2]


def test_top_n_breaks_ties_by_a_fair_draw():
    values = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])
    seconds = [top_n(values, 2, stream(seed)).tolist() for seed in range(400)]
    assert {first for first, _ in seconds} == {1}
    counts = np.bincount([second for _, second in seconds], minlength=5)
    assert counts[1] == 0
    assert (counts[[0, 2, 3, 4]] > 70).all()
    assert top_n(values, 2, stream(3)).tolist() == top_n(values, 2, stream(3)).tolist()


def test_top_n_refuses_nan_and_too_many():
    with pytest.raises(UserError, match="1 of 2 scores are NaN"):
        top_n(torch.tensor([1.0, torch.nan]), 1, stream(0))
    with pytest.raises(ValueError):
        top_n(torch.tensor([1.0]), 2, stream(0))
