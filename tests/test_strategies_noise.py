"""Batches drawn by noisy scores: the law of each noise, and what a strategy does with it."""

import itertools
import json
import math

import numpy as np
import pytest
import small
import torch
from scipy.stats import chisquare

import training.learner
from runs.options import recorded
from strategies import STRATEGIES, resolve, scores
from strategies.base import ScoreStrategy, top_n
from strategies.noise import NOISES, noisy
from training.learner import Learner
from utils import UserError, stream

SCORED = [name for name, s in STRATEGIES.items() if issubclass(s, ScoreStrategy)]
LOWEST = {name: STRATEGIES[name](None, None, None).lowest for name in SCORED}


def weights(values, noise, beta, lowest):
    """What each image is drawn by, from section 3 of the paper; the values must differ for softrank."""
    if noise == "power":
        return [(v - lowest) ** beta for v in values]
    if noise == "softmax":
        return [math.exp(beta * v) for v in values]
    ranks = [1 + sum(other > v for other in values) for v in values]
    return [rank**-beta for rank in ranks]


def batch_law(w, n):
    """Probability of each sequence of n draws without replacement, each proportional to w among those left."""
    law = {}
    for picks in itertools.permutations(range(len(w)), n):
        left, probability = set(range(len(w))), 1.0
        for i in picks:
            probability *= w[i] / sum(w[j] for j in left)
            left.remove(i)
        law[picks] = probability
    return law


def assert_law(draws, law):
    """The frequencies of sequences fit their probabilities, by a chi-square test."""
    counts = dict.fromkeys(law, 0)
    for draw in draws:
        counts[tuple(draw)] += 1
    possible = [picks for picks, p in law.items() if p > 0]
    assert sum(counts[picks] for picks in possible) == len(draws)
    expected = np.array([law[picks] for picks in possible]) * len(draws)
    observed = np.array([counts[picks] for picks in possible])
    rare = expected < 10
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        observed = np.append(observed[~rare], observed[rare].sum())
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("values", [[0.1, 0.9, 0.35, 0.6], [-0.1, -0.9, -0.95, -0.2]])
def test_batches_follow_the_law_of_the_paper(values, noise, beta):
    lowest = 0.0 if values[0] > 0 else -1.0
    rng = stream(0)
    draws = [top_n(noisy(torch.tensor(values), noise, beta, lowest, rng), 2, rng) for _ in range(5000)]
    assert_law(draws, batch_law(weights(values, noise, beta, lowest), 2))


def test_images_of_weight_zero_come_last_in_any_order():
    values = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.25])
    rng = stream(0)
    draws = [top_n(noisy(values, "power", 1.0, 0.0, rng), 5, rng).tolist() for _ in range(600)]
    assert {frozenset(d[:2]) for d in draws} == {frozenset({0, 4})}
    assert_law([d[2:] for d in draws], {p: 1 / 6 for p in itertools.permutations((1, 2, 3))})


def test_ranks_of_equal_scores_are_shared_out_at_random():
    values = torch.tensor([1.0, 3.0, 1.0, 1.0])
    rng = stream(0)
    first = [top_n(noisy(values, "softrank", 2.0, 0.0, rng), 1, rng) for _ in range(5000)]
    w = 1 / np.array([1, 4, 9, 16])
    rest = w[1:].sum() / w.sum() / 3
    assert_law(first, {(0,): rest, (1,): w[0] / w.sum(), (2,): rest, (3,): rest})


@pytest.mark.parametrize(("noise", "least"), [("power", 0.0), ("softmax", -torch.inf), ("softrank", -torch.inf)])
def test_extreme_scores_are_drawn_first_and_last(noise, least):
    values = torch.tensor([least, 0.5, torch.inf, 0.25])
    for seed in range(20):
        result = noisy(values, noise, 100.0, 0.0, stream(seed))
        assert not result.isnan().any()
        assert result.argsort(descending=True)[[0, 3]].tolist() == [2, 0]


@pytest.mark.parametrize("noise", NOISES)
def test_a_large_beta_keeps_the_order_and_a_small_one_none(noise):
    values = torch.tensor([0.1, 0.9, 0.35, 0.6])
    assert top_n(noisy(values, noise, 1e6, 0.0, stream(0)), 4, stream(0)).tolist() == [1, 3, 2, 0]
    rng = stream(0)
    draws = [top_n(noisy(values, noise, 1e-9, 0.0, rng), 2, rng) for _ in range(3000)]
    assert_law(draws, batch_law([1, 1, 1, 1], 2))


# In a strategy


def ask(name, pool, learner, n, seed=0, **arguments):
    return STRATEGIES[name](pool, learner, stream(seed, "query", 0), **arguments).query(n)


class Known:
    """A learner that knows the probabilities of two classes."""

    has_dropout = True

    def __init__(self, p):
        self.p = p

    def probs(self, inputs):
        p = self.p[inputs.idxs]
        return torch.stack([p, 1 - p], 1)

    def rough(self):
        raise AssertionError("screening is not exact with noise")


@pytest.mark.parametrize("noise", NOISES)
def test_margin_sampling_prefers_small_gaps(noise):
    p = torch.tensor([0.95, 0.5, 0.7, 0.8])
    uncertainty = (1 - (2 * p - 1)).tolist()  # 1 minus the gap
    pool = small.pool(4, 0)
    draws = [ask("MarginSampling", pool, Known(p), 2, seed, noise=noise) for seed in range(3000)]
    assert_law(draws, batch_law(weights(uncertainty, noise, 1.0, 0.0), 2))


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("noise", NOISES)
def test_every_strategy_that_scores_draws_with_noise(name, noise, pool, learner):
    if noise == "power" and LOWEST[name] == -math.inf:
        with pytest.raises(UserError, match="noise=power"):
            ask(name, pool, learner, 9, noise=noise)
        return
    batches = {tuple(ask(name, pool, learner, 9, seed, noise=noise).tolist()) for seed in (0, 0, 1, 2)}
    assert len(batches) == 3
    for picks in batches:
        assert len(set(picks)) == 9
        assert set(picks) <= set(pool.unlabeled.tolist())
    assert sorted(ask(name, pool, learner, 48, noise=noise)) == pool.unlabeled.tolist()


@pytest.mark.parametrize("name", SCORED)
def test_every_score_is_at_least_the_lowest_one(name, pool, learner):
    strategy = STRATEGIES[name](pool, learner, stream(0))
    assert (strategy.score(pool.unlabeled) >= strategy.lowest - 1e-6).all()


def test_the_lowest_score_of_the_dropout_strategy_is_that_of_its_measure(pool, learner):
    for measure in scores.MEASURES:
        arguments = {"measure": measure, "n_drop": 3}
        ask("UncertaintySamplingWithDropoutEstimation", pool, learner, 9, noise="power", **arguments)
        strategy = STRATEGIES["UncertaintySamplingWithDropoutEstimation"](pool, learner, stream(0), **arguments)
        assert strategy.lowest == (-1 if measure == "margin" else 0)


def test_power_of_a_score_below_the_lowest_is_an_error(pool, learner):
    class Negative(ScoreStrategy):
        def score(self, idxs):
            return -torch.arange(len(idxs))

    with pytest.raises(UserError, match="noise=power: needs scores of 0 or more, the lowest is -47; take noise=softm"):
        Negative(pool, learner, stream(0), noise="power").query(3)
    assert Negative(pool, learner, stream(0), noise="softrank").query(3).shape == (3,)


@pytest.mark.parametrize("noise", NOISES)
def test_nan_is_an_error_with_noise_too(noise, pool, learner):
    class Broken(ScoreStrategy):
        def score(self, idxs):
            return torch.full((len(idxs),), torch.nan)

    with pytest.raises(UserError, match="48 of 48 scores are NaN"):
        Broken(pool, learner, stream(0), noise=noise).query(3)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_not_screened(noise, monkeypatch):
    monkeypatch.setattr(training.learner, "has_fast_bf16", lambda device: True)
    large = small.pool(4200, 12, name="Linear")
    learner = Learner(small.learner(large, "Linear").net, torch.device("cpu"), screen=True)
    plain = Learner(learner.net, torch.device("cpu"))
    expected = ask("MarginSampling", large, plain, 20, noise=noise)
    monkeypatch.setattr(Learner, "rough", lambda self: pytest.fail("no rough scores with noise"))
    np.testing.assert_array_equal(ask("MarginSampling", large, learner, 20, noise=noise), expected)


# As an option


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "loud"}, "noise=loud: must be none, power, softmax, softrank"),
        ({"noise": "softmax", "beta": 0.0}, "beta=0.0: must be above 0"),
        ({"noise": "softmax", "beta": -1.0}, "beta=-1.0: must be above 0"),
        ({"noise": "softmax", "beta": math.inf}, "beta=inf: must be above 0 and at most 1e"),
        ({"noise": "none", "beta": 2.0}, "beta=2.0: needs noise=power or noise=softmax or noise=softrank"),
    ],
)
def test_meaningless_noise_is_refused_before_a_run(name, arguments, message):
    """By strategies with checks of their own too."""
    with pytest.raises(UserError, match=f"--strategy_args {message}"):
        STRATEGIES[name](None, None, None, **arguments)


@pytest.mark.parametrize("name", SCORED)
def test_noise_is_recorded_only_where_it_is_used(name):
    strategy, defaults = resolve(name, [])
    before = recorded(strategy, defaults)
    assert not {"noise", "beta"} & set(before)
    assert recorded(*resolve(name, ["noise=none", "beta=1"])) == before
    assert recorded(*resolve(name, ["noise=softmax"])) == {**before, "noise": "softmax"}
    assert recorded(*resolve(name, ["noise=softmax", "beta=2"])) == {**before, "noise": "softmax", "beta": 2.0}


def test_a_run_with_noise_has_a_folder_of_its_own(run, tmp_path):
    assert run(strategy_name="MarginSampling")[0] == 0
    assert run(strategy_name="MarginSampling", strategy_args=["noise=none", "beta=1"])[0] == 0
    assert run(strategy_name="MarginSampling", strategy_args=["noise=power"])[0] == 0
    configs = [json.loads(path.read_text()) for path in tmp_path.rglob("config.json")]
    assert sorted((c["strategy_args"] for c in configs), key=len) == [{}, {"noise": "power"}]
