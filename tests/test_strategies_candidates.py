"""Queries that look at some of the unlabeled images only."""

import numpy as np
import pytest

from strategies import STRATEGIES
from strategies.candidates import CANDIDATES
from strategies.scores import margin
from utils import stream


@pytest.mark.parametrize("by", CANDIDATES)
def test_candidates_are_unlabeled_distinct_and_ascending(by, pool, learner):
    idxs = CANDIDATES[by](pool, learner, 20, stream(0))
    assert len(idxs) == 20
    assert (np.diff(idxs) > 0).all()
    assert np.isin(idxs, pool.unlabeled).all()
    np.testing.assert_array_equal(CANDIDATES[by](pool, learner, 48, stream(0)), pool.unlabeled)


def test_random_candidates_are_drawn_evenly_and_repeat(pool, learner):
    draws = [CANDIDATES["random"](pool, learner, 12, stream(seed)) for seed in range(400)]
    counts = np.bincount(np.concatenate(draws), minlength=60)[pool.unlabeled]
    assert abs(counts - 100).max() < 5 * np.sqrt(100 * 0.75)
    np.testing.assert_array_equal(draws[7], CANDIDATES["random"](pool, learner, 12, stream(7)))


def test_uncertain_candidates_have_the_smallest_margins(pool, learner):
    idxs = CANDIDATES["uncertain"](pool, learner, 12, stream(0))
    scores = margin(learner.probs(pool.inputs[pool.unlabeled])).numpy()
    np.testing.assert_array_equal(idxs, np.sort(pool.unlabeled[np.argsort(-scores)[:12]]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_picks_among_the_candidates_alone(name, pool, learner):
    among = pool.unlabeled[::3]
    strategy = STRATEGIES[name](pool, learner, stream(0))
    picks = strategy.query(5, among)
    assert len(set(picks.tolist())) == 5
    assert np.isin(picks, among).all()
    with pytest.raises(ValueError, match=r"query\(17\): 16 images may be chosen"):
        strategy.query(17, among)
