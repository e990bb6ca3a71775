"""FALCUN: the law of its draws, and what they cost."""

import itertools

import numpy as np
import pytest
import reference_falcun as reference
import small
import torch
from scipy.stats import chisquare

from strategies import STRATEGIES
from strategies.kernels import distances
from strategies.kernels import falcun as kernel
from strategies.kernels.falcun import falcun
from utils import UserError, stream


def predictions(u, n_classes, seed=0, scale=2.0):
    """Random class probabilities (U, C)."""
    return (scale * torch.randn(u, n_classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def assert_law(draws, law):
    """The frequencies of sequences fit their probabilities, by a chi-square test."""
    index = {picks: i for i, picks in enumerate(law)}
    observed = np.bincount([index[tuple(d)] for d in draws], minlength=len(law)).astype(float)
    expected = np.array([*law.values()]) * len(draws)
    assert (observed[expected == 0] == 0).all()
    rare = expected < 10
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (observed, expected))
    assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 100])
def test_sequences_follow_the_law_of_the_paper(n_classes, gamma):
    probs = predictions(5, n_classes)
    law = reference.sequence_law(probs.double().tolist(), 3, gamma)
    assert_law([falcun(probs, 3, gamma, stream(0, seed)) for seed in range(3000)], law)


@pytest.mark.parametrize("picked", [0, 1, 4, 9])
def test_what_rows_are_drawn_by_is_what_the_loop_says(picked, monkeypatch):
    """The weights of each draw, on a larger pool in several blocks."""
    monkeypatch.setattr(distances, "BLOCK", 4 * 7)
    probs, seen = predictions(30, 4), []
    weights = kernel._weights
    monkeypatch.setattr(kernel, "_weights", lambda *a: seen.append(weights(*a)) or seen[-1])
    picks = falcun(probs, picked + 1, 10.0, stream(0)).tolist()
    expected = np.array(reference.draw_law(probs.double().tolist(), picks[:picked], 10.0))
    expected = np.delete(expected, picks[:picked])
    np.testing.assert_allclose(seen[picked] / seen[picked].sum(), expected, rtol=1e-4, atol=1e-9)


def test_a_large_gamma_takes_the_most_relevant_and_does_not_overflow():
    probs = predictions(200, 3)
    expected = []
    for _ in range(6):
        expected.append(int(np.argmax(reference.draw_law(probs.double().tolist(), expected, 30.0))))
    assert falcun(probs, 6, 1e6, stream(0)).tolist() == expected


def test_duplicates_of_what_was_drawn_come_last():
    probs = torch.tensor([[0.5, 0.5]] * 5 + [[0.9, 0.1], [0.2, 0.8]])
    for seed in range(50):
        first = falcun(probs, 3, 1e6, stream(seed)).tolist()
        assert len({tuple(probs[i].tolist()) for i in first}) == 3


def test_rows_that_are_all_alike_are_drawn_uniformly():
    for probs in (torch.tensor([[0.7, 0.3]] * 4), torch.tensor([[1.0, 0.0]] * 4)):
        law = {picks: 1 / 12 for picks in itertools.permutations(range(4), 2)}
        assert_law([falcun(probs, 2, 10.0, stream(0, s)) for s in range(2000)], law)


def test_certain_rows_are_drawn_when_nothing_else_is_left():
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0 + 1e-7, 0.0], [0.6, 0.4]])
    for seed in range(20):
        assert sorted(falcun(probs, 4, 0.5, stream(seed)).tolist()) == [0, 1, 2, 3]


class Lowest:
    """A generator that draws the lowest number there is."""

    def random(self):
        return 0.0


def test_a_row_of_weight_zero_is_never_drawn_before_others():
    probs = torch.tensor([[1.0, 0.0], [0.6, 0.4], [1.0, 0.0], [0.7, 0.3]])
    assert falcun(probs, 2, 10.0, Lowest()).tolist()[0] == 1


@pytest.mark.parametrize("n", [1, 2, 60])
def test_picks_are_different(n):
    picks = falcun(predictions(60, 5), n, 10.0, stream(0))
    assert picks.dtype == np.int64
    assert len(set(picks.tolist())) == n


@pytest.mark.parametrize("n", [0, 7])
def test_impossible_numbers_of_picks_are_refused(n):
    with pytest.raises(ValueError, match=f"falcun: {n} picks of 6 rows"):
        falcun(predictions(6, 3), n, 10.0, stream(0))


def test_each_pick_but_the_last_takes_one_pass(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 4 * 10)
    blocks = []
    row_blocks = distances.row_blocks
    monkeypatch.setattr(kernel, "row_blocks", lambda u, c: blocks.extend(row_blocks(u, c)) or row_blocks(u, c))
    falcun(predictions(35, 4), 6, 10.0, stream(0))
    assert len(blocks) == 5 * 4


# In a query


def ask(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["FALCUN"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
def test_query_draws_by_the_predictions(name, n_classes):
    pool = small.pool(60, 12, n_classes, name=name)
    learner = small.learner(pool, name)
    expected = falcun(learner.probs(pool.inputs[pool.unlabeled]), 9, 10.0, stream(0, "query", 0))
    np.testing.assert_array_equal(ask(pool, learner, 9), pool.unlabeled[expected])


def test_query_may_choose_among_some(pool, learner):
    among = pool.unlabeled[10:25]
    assert sorted(STRATEGIES["FALCUN"](pool, learner, stream(0)).query(15, among)) == among.tolist()


@pytest.mark.parametrize("gamma", [-1.0, 1e7])
def test_meaningless_gamma_is_refused(gamma):
    with pytest.raises(UserError, match="--strategy_args gamma="):
        STRATEGIES["FALCUN"](None, None, None, gamma=gamma)
