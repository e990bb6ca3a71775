"""Ruling images out by rough scores: the picks stay those of exact scores, and few exact scores are computed."""

import copy

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import training.learner
from data import Inputs, Pool
from strategies import STRATEGIES, described, screening
from strategies.base import ScoreStrategy, top_n
from strategies.screening import screened
from training.learner import Learner
from utils import UserError, stream

SCREENED = [name for name, s in STRATEGIES.items() if getattr(s, "screens", False)]
QUICK = [name for name, s in STRATEGIES.items() if "backward" not in described(s, "Cost")]  # the others take minutes
CPU = torch.device("cpu")


def exactly(values, requested):
    """Looks scores up and records the positions of each request."""

    def exact(positions):
        requested.append(positions.tolist())
        return values[positions]

    return exact


def made_up(n, error, seed=0):
    """Exact scores and rough ones off by up to `error`."""
    rng = np.random.default_rng(seed)
    values = rng.random(n)
    return torch.from_numpy(values), torch.from_numpy(values + error * rng.uniform(-1, 1, n))


@pytest.mark.parametrize("n", [1, 20, 500])
@pytest.mark.parametrize("error", [0, 1e-3, 0.1, 100])
def test_the_highest_are_those_of_the_exact_scores(n, error):
    values, rough = made_up(20_000, error)
    requested = []
    result = screened(rough, exactly(values, requested), n)
    np.testing.assert_array_equal(top_n(result, n, stream(0)), top_n(values, n, stream(0)))
    known = result > -torch.inf
    assert torch.equal(result[known], values[known])
    everything = [i for positions in requested for i in positions]
    assert sorted(everything) == known.nonzero()[:, 0].tolist()  # each image once
    assert all(positions == sorted(positions) for positions in requested)


def test_few_exact_scores_are_computed():
    values, rough = made_up(20_000, 1e-3)
    requested = []
    screened(rough, exactly(values, requested), 500)
    assert 750 <= sum(map(len, requested)) <= 750 + 1000 + 100


def test_an_image_off_by_nearly_twice_the_largest_error_seen_is_found():
    values, rough = torch.full((20_000,), -1.0), torch.full((20_000,), -1.0)
    rough[:100] = torch.linspace(2, 1.5, 100)  # the first 90 are found at once
    values[:100] = rough[:100] - 0.2
    values[7777], rough[7777] = 1.7, 1.25  # the best of the rest; off by 0.45, more than any seen
    values[8888], rough[8888] = 1.7, 0.85  # off by 0.85: shown only once 0.45 has been seen
    requested = []
    result = screened(rough, exactly(values, requested), 60)
    assert [positions[-1] for positions in requested[1:]] == [7777, 8888]
    assert sum(map(len, requested[1:])) <= 12
    assert set(top_n(result, 60, stream(0))) >= {7777, 8888}


def test_the_sample_shows_errors_that_the_best_do_not():
    values, rough = torch.zeros(20_000), torch.zeros(20_000)
    rough[:15] = values[:15] = 1.0  # the best are exact
    rough[15:], values[15:] = 0.5, 0.45
    rough[20], values[20] = 0.1, 0.6  # sampled: off by one half
    values[7777] = 1.2  # not sampled, off by 0.7
    requested = []
    result = screened(rough, exactly(values, requested), 10)
    assert top_n(result, 1, stream(0)) == [7777]


def test_ties_at_the_boundary_are_all_scored():
    values = torch.zeros(20_000)
    result = screened(values.clone(), exactly(values, []), 10)
    assert torch.equal(result, values)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 2), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_pool_up_to_the_sample_is_exact(u, n, error, seed):
    values, rough = made_up(u, error, seed)
    result = screened(rough, exactly(values, []), min(n, u))
    assert torch.equal(result, values)


# In a query


@pytest.fixture(scope="module")
def large():
    """A pool large enough, of 16 x 16 noise that repeats in part, so that scores are close and some are equal."""
    x = small.pixels(2200).permute(0, 2, 3, 1)
    x = torch.cat([x, x[:2000], x[:800] // 2]).contiguous()
    pool = Pool(Inputs(x.permute(0, 3, 1, 2)), 4)
    labels = np.random.default_rng(0).integers(0, 4, len(x))
    pool.label(np.arange(0, 5000, 100), labels[::100])
    return pool


@pytest.fixture
def counted(monkeypatch):
    """How many images each embedding in float32 and in bfloat16 took."""
    monkeypatch.setattr(training.learner, "has_fast_bf16", lambda device: True)
    seen = {False: 0, True: 0}
    embed = Learner._embed

    def spy(self, x):
        seen[self.bf16] += len(x)
        return embed(self, x)

    monkeypatch.setattr(Learner, "_embed", spy)
    return seen


def ask(name, pool, learner, n):
    return STRATEGIES[name](pool, learner, stream(0, "query", 0)).query(n)


ROUNDING = 1e-6  # by which a float32 score may differ with the batch that its image is in


def assert_same_picks(got, expected, scores, pool):
    """Equal picks in equal order, except among images whose exact scores differ by rounding alone."""
    score_of = dict(zip(pool.unlabeled.tolist(), scores.tolist(), strict=True))
    ranked, wanted = (np.array([score_of[i] for i in idxs.tolist()]) for idxs in (got, expected))
    np.testing.assert_allclose(ranked, wanted, rtol=0, atol=ROUNDING)  # so at each rank
    missed = set(expected.tolist()) - set(got.tolist())
    assert all(score_of[i] <= wanted[-1] + ROUNDING for i in missed)
    assert len(set(got.tolist())) == len(expected)


def test_picks_count_as_the_same_only_up_to_rounding():
    pool = Pool(Inputs(small.pixels(5)), 2)
    scores = torch.tensor([0.5, 0.9, 0.9 + 1e-8, 0.2, 0.2])
    assert_same_picks(np.array([1, 2, 0, 3]), np.array([2, 1, 0, 4]), scores, pool)
    for wrong in ([1, 0, 2, 3], [1, 2, 3, 4], [1, 1, 0, 3]):
        with pytest.raises(AssertionError):
            assert_same_picks(np.array(wrong), np.array([2, 1, 0, 4]), scores, pool)


def test_the_published_strategies_that_rank_by_predictions_screen():
    assert set(SCREENED) >= {
        "LeastConfidence", "MarginSampling", "EntropySampling",
        "UncertaintySamplingWithDropoutEstimation", "BayesianActiveLearningDisagreement",
    }  # fmt: skip


@pytest.mark.parametrize("name", SCREENED)
def test_screened_query_equals_the_plain_one(name, large, counted):
    plain = small.learner(large, min_steps=40)
    expected = ask(name, large, plain, 300)
    assert counted == {False: 4950, True: 0}
    on = Learner(plain.net, CPU, screen=True)
    got = ask(name, large, on, 300)
    assert counted[True] == 4950
    assert 300 < counted[False] - 4950 < 4000
    scores = STRATEGIES[name](large, plain, stream(0, "query", 0)).score(large.unlabeled)
    assert_same_picks(got, expected, scores, large)


@pytest.mark.parametrize("name", [n for n in QUICK if n not in SCREENED])
def test_others_never_screen(name, large, counted):
    on = Learner(small.learner(large).net, CPU, screen=True)
    ask(name, large, on, 5)
    assert counted[True] == 0


@pytest.mark.parametrize("name", [name for name in SCREENED if STRATEGIES[name].needs_dropout])
def test_every_pass_of_a_screened_query_draws_the_same_masks(name, large, counted, monkeypatch):
    monkeypatch.setattr(screening, "SAFETY", 20.0)  # so that a second exact pass follows
    learner = small.learner(large, min_steps=40)
    expected = STRATEGIES[name](large, learner, stream(0)).score(large.unlabeled)
    got = STRATEGIES[name](large, Learner(learner.net, CPU, screen=True), stream(0))._scores(large.unlabeled, 30)
    known = got > -torch.inf
    assert known.sum() > 30 + 15 + 1238  # more than the first pass takes: the best and the sample
    torch.testing.assert_close(got[known], expected[known], rtol=0, atol=1e-6)


def test_a_strategy_that_does_not_say_so_does_not_screen(large, counted):
    class Norm(ScoreStrategy):
        def score(self, idxs):
            return self.learner.embeddings(self.pool.inputs[idxs]).norm(dim=1)

    on = Learner(small.learner(large).net, CPU, screen=True)
    Norm(large, on, stream(0)).query(5)
    assert counted == {False: 4950, True: 0}


def test_no_screening_where_it_gains_nothing(pool, large, counted, monkeypatch):
    net = small.learner(large).net
    ask("MarginSampling", large, Learner(net, CPU, screen=True), 1300)  # of 4950
    ask("MarginSampling", pool, Learner(net, CPU, screen=True), 3)
    assert counted == {False: 4950 + 48, True: 0}
    assert Learner(net, CPU).rough() is None
    assert Learner(net, CPU, bf16=True, screen=True).rough() is None
    monkeypatch.setattr(training.learner, "has_fast_bf16", lambda device: False)
    assert Learner(net, CPU, screen=True).rough() is None


@pytest.mark.parametrize("name", SCREENED)
def test_a_screened_query_refuses_nan(name, large, counted):
    broken = Learner(small.learner(large).net, CPU, screen=True)
    broken.net.head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN or infinite: the training diverged"):
        ask(name, large, broken, 3)


class Known:
    """A learner of one's own that knows the probabilities, and decides itself whether rough ones are worth having."""

    has_dropout = True

    def __init__(self, p, coarse=None):
        self.p, self.coarse = p, coarse
        self.n_scored = 0

    def rough(self):
        return self.coarse

    def probs(self, inputs):
        self.n_scored += len(inputs)
        p = self.p[torch.from_numpy(np.searchsorted(np.delete(np.arange(5000), np.s_[::100]), inputs.idxs))]
        return torch.stack([p, 1 - p], 1)


def test_a_learner_of_ones_own_is_used_as_it_is(large):
    learner = Known(torch.linspace(0.5, 1, 4950))
    np.testing.assert_array_equal(ask("MarginSampling", large, learner, 5), large.unlabeled[:5])
    assert learner.n_scored == 4950


def test_a_learner_of_ones_own_gives_its_own_rough_scores(large):
    p = torch.linspace(0.5, 1, 4950)
    coarse = Known(p + 1e-4 * torch.linspace(0, 7, 4950).sin())
    learner = Known(p, coarse)
    np.testing.assert_array_equal(ask("MarginSampling", large, learner, 5), large.unlabeled[:5])
    assert coarse.n_scored == 4950
    assert learner.n_scored < 2000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SCREENED)
def test_screened_query_on_a_gpu_equals_the_plain_one(name, large):
    device = torch.device("cuda", 0)
    net = copy.deepcopy(small.learner(large, min_steps=40).net).to(device)
    expected = set(ask(name, large, Learner(net, device), 300).tolist())
    got = set(ask(name, large, Learner(net, device, screen=True), 300).tolist())
    assert len(got & expected) >= 298  # float32 itself varies in its last digits with the batch
