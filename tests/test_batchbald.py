"""BatchBALD against joint entropies over all combinations of classes."""

import itertools
import math

import numpy as np
import pytest
import reference
import reference_batchbald
import small
import torch
from reference_kernels import normal

from strategies.batchbald import BatchBALD
from strategies.bayesian_active_learning_disagreement import BayesianActiveLearningDisagreement
from strategies.kernels import joint_information as module
from strategies.kernels.joint_information import Outcomes, joint_information_greedy
from strategies.kernels.precision import wide_probs
from utils import UserError, stream


def predictions(n, k, n_classes, seed=0, scale=2.0):
    """Class probabilities of k networks that agree in part. Shape (n, k, n_classes)."""
    return (scale * (normal(n, 1, n_classes, seed=seed) + normal(n, k, n_classes, seed=seed + 1))).softmax(-1)


def alike(n, k, n_classes, d=20, scale=3.0):
    """Class probabilities of one linear network with k dropout masks. Shape (n, k, n_classes)."""
    h, weights = normal(n, d).relu(), scale * normal(n_classes, d, seed=1) / d**0.5
    masks = torch.rand(k, d, generator=torch.Generator().manual_seed(2)) >= 0.5
    return torch.stack([2 * (h * mask) @ weights.T for mask in masks], 1).softmax(-1)


def nested(probs):
    """As the reference takes predictions: lists (K, U, C)."""
    return wide_probs(probs).transpose(0, 1).tolist()


def nothing_picked(k):
    return Outcomes(torch.ones(1).double(), torch.full((1, k), 1 / k, dtype=torch.float64))


def greedy(probs, n, n_outcomes=10_000, seed=0):
    return joint_information_greedy(lambda rows: probs[rows], len(probs), n, n_outcomes, stream(seed)).tolist()


def plain_greedy(probs, n, n_outcomes=10_000, seed=0):
    """All gains before each pick."""
    rng, outcomes, picks = stream(seed), nothing_picked(probs.shape[1]), []
    while len(picks) < n:
        gains = torch.cat([outcomes.gains(wide_probs(some)) for some in probs.split(50)]).clamp_min(0)
        gains[picks] = -1
        picks.append(int((gains >= gains.max() * (1 - module.SAME)).nonzero()[0]))
        outcomes = outcomes.with_pick(wide_probs(probs[picks[-1]]), n_outcomes, rng)
    return picks


@pytest.mark.parametrize(
    ("n_rows", "k", "n_classes", "n"), [(12, 6, 3, 4), (10, 4, 2, 8), (6, 5, 10, 3), (4, 3, 100, 2)]
)
def test_picks_and_information_are_those_of_all_combinations(n_rows, k, n_classes, n):
    probs = predictions(n_rows, k, n_classes)
    expected, information = reference_batchbald.batchbald(nested(probs), n)
    assert greedy(probs, n) == expected
    outcomes, total = nothing_picked(k), 0.0
    for pick, so_far in zip(expected, information, strict=True):
        wide = wide_probs(probs[pick])
        total += float(outcomes.gains(wide[None]))
        assert total == pytest.approx(so_far, abs=1e-12)
        outcomes = outcomes.with_pick(wide, n_classes**n, stream(0))
    assert len(outcomes.mass) == n_classes**n


def test_gains_are_what_each_image_adds_to_the_joint_information():
    probs = predictions(9, 5, 3)
    outcomes = nothing_picked(5)
    for pick in (4, 7):
        outcomes = outcomes.with_pick(wide_probs(probs[pick]), 100, stream(0))
    passes = nested(probs)
    before = reference_batchbald.joint_information(passes, [4, 7])
    expected = [reference_batchbald.joint_information(passes, [4, 7, i]) - before for i in range(9)]
    np.testing.assert_allclose(outcomes.gains(wide_probs(probs)), expected, atol=1e-12)


@pytest.mark.parametrize("n_outcomes", [100, 3000])
@pytest.mark.parametrize("probs", [predictions(300, 20, 4), alike(300, 20, 4), alike(300, 10, 10, scale=8.0)])
def test_picks_are_those_of_computing_all_gains_before_each(probs, n_outcomes, monkeypatch):
    monkeypatch.setattr(module, "GROUPS", 20)
    assert greedy(probs, 9, n_outcomes) == plain_greedy(probs, 9, n_outcomes)


@pytest.mark.parametrize("n_groups", [1, 10, 200])
def test_gains_beyond_groups_are_close_upper_bounds(n_groups):
    probs = alike(200, 20, 4)
    outcomes = nothing_picked(20)
    for pick in range(5):
        outcomes = outcomes.with_pick(wide_probs(probs[pick]), 4**5, stream(0))
    groups = outcomes.merged(n_groups)
    assert len(groups.mass) <= n_groups
    torch.testing.assert_close(groups.mass @ groups.networks, outcomes.mass @ outcomes.networks)
    exact, bounds = outcomes.gains(wide_probs(probs)), groups.gains(wide_probs(probs))
    assert (bounds >= exact - 1e-12).all()
    alone = nothing_picked(20).gains(wide_probs(probs))
    slack = ((bounds - exact).mean() / (alone - exact).mean()).item()
    assert slack == pytest.approx(1) if n_groups == 1 else slack < 0.5 if n_groups == 10 else slack < 0.1


def test_a_sample_of_outcomes_has_no_bias_and_little_error():
    """Seven picks of 4 classes have 16,384 outcomes."""
    probs = alike(40, 20, 4)
    exact, samples = nothing_picked(20), [nothing_picked(20) for _ in range(40)]
    for pick in range(7):
        wide = wide_probs(probs[pick])
        exact = exact.with_pick(wide, 4**7, stream(0))
        samples = [s.with_pick(wide, 500, stream(i, pick)) for i, s in enumerate(samples)]
    assert max(len(s.mass) for s in samples) <= 500
    expected = exact.gains(wide_probs(probs))
    errors = torch.stack([s.gains(wide_probs(probs)) for s in samples]) - expected
    assert errors.std(0).max() < 0.02 * expected.max()
    assert (errors.mean(0).abs() < 4.5 * errors.std(0) / 40**0.5 + 1e-9).all()


def test_outcomes_stay_probabilities_where_some_are_impossible():
    certain = torch.eye(3)[:, None].expand(-1, 4, -1)  # rows of class 0, 1 and 2, all networks agree
    outcomes = nothing_picked(4)
    for row in certain:
        outcomes = outcomes.with_pick(wide_probs(row), 5, stream(0))
    assert outcomes.mass.tolist() == [1]
    assert outcomes.networks.tolist() == [[0.25] * 4]
    assert len(set(greedy(torch.cat([certain] * 4), 12))) == 12


def test_duplicates_are_worth_less_than_what_is_new():
    """Of two images, each known to one network in two alone, and copies: the second pick is no copy of the first."""
    names_first = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    names_second = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    probs = torch.stack([names_first] * 3 + [0.99 * names_second + 0.005])
    assert greedy(probs, 4) == [0, 3, 1, 2]


def test_a_batch_says_no_more_than_which_network_it_is():
    probs = alike(60, 4, 10, scale=20.0)
    outcomes, total = nothing_picked(4), 0.0
    for pick in greedy(probs, 30, 1000):
        total += float(outcomes.gains(wide_probs(probs[pick])[None]))
        outcomes = outcomes.with_pick(wide_probs(probs[pick]), 1000, stream(0))
    assert 0.9 * math.log(4) < total < math.log(4) + 1e-9


def test_few_images_are_looked_at_again(monkeypatch):
    """2,000 candidates, 8 picks: what is looked at beyond all outcomes after the first pick."""
    looked_at = []
    gains = Outcomes.gains

    def spy(self, probs):
        assert max(len(self.mass), 50) * 10 * len(probs) <= module.BLOCK
        looked_at.append((len(self.mass), len(probs), self.mass.dtype))
        return gains(self, probs)

    monkeypatch.setattr(Outcomes, "gains", spy)
    greedy(alike(2000, 50, 10), 8)
    assert sum(n for s, n, dtype in looked_at if s == 1 and dtype == torch.float32) == 2000
    assert sum(n for _, n, dtype in looked_at if dtype == torch.float64) <= 8 * module.FINALISTS
    assert sum(n for s, n, _ in looked_at if s > module.GROUPS) < 0.05 * 2000 * 7
    assert sum(n for s, n, _ in looked_at if s > 1) < 1.1 * 2000 * 7


@pytest.mark.parametrize(("n_classes", "scale"), [(2, 1.0), (10, 3.0), (10, 20.0), (100, 3.0), (100, 20.0)])
def test_rounding_of_float32_is_less_than_the_room_for_it(n_classes, scale):
    probs = alike(100, 50, n_classes, scale=scale)
    outcomes = nothing_picked(50)
    for pick in range(6):
        exact, rough = outcomes.gains(wide_probs(probs)), outcomes.rough().gains(probs)
        assert (rough - exact).abs().max() < outcomes.room(n_classes) / 2
        outcomes = outcomes.with_pick(wide_probs(probs[pick]), 10_000, stream(0))


@pytest.mark.parametrize("n", [0, 6])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 5 rows"):
        greedy(predictions(5, 3, 2), n)


def test_nan_is_an_error():
    probs = predictions(20, 3, 2)
    probs[7, 1] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        greedy(probs, 2)


# The strategy


def query(pool, learner, n, seed=0, **arguments):
    return BatchBALD(pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("name", ["SmallCNN", "Linear"])
def test_strategy_picks_what_the_reference_picks(name):
    pool = small.pool(n=40, n_labeled=10, n_classes=3, name=name)
    learner = small.learner(pool, name, dropout=0.5)
    idxs, head = pool.unlabeled, learner.net.head
    rng = stream(0, "query", 0)
    rng.permutation(len(idxs))
    masks = rng.random((5, head.in_features)) >= 0.5
    passes = [
        [
            reference.softmax(reference.masked_logits(h, head.weight.tolist(), head.bias.tolist(), mask.tolist(), 0.5))
            for h in learner.embeddings(pool.inputs[idxs]).tolist()
        ]
        for mask in masks
    ]
    expected, _ = reference_batchbald.batchbald(passes, 3)
    assert query(pool, learner, 3, n_drop=5).tolist() == idxs[expected].tolist()


def test_the_first_pick_is_that_of_bald(pool, learner):
    order = stream(0, "query", 0)
    order.permutation(48)
    bald = BayesianActiveLearningDisagreement(pool, learner, order).score(pool.unlabeled)
    assert query(pool, learner, 1).tolist() == [pool.unlabeled[int(bald.argmax())]]


@pytest.mark.parametrize("n_labeled", [0, 1, 59])
@pytest.mark.parametrize("n_classes", [2, 100])
def test_strategy_works_with_few_and_many_classes_and_labels(n_classes, n_labeled):
    pool = small.pool(n_classes=n_classes, labels=np.full(60, n_classes - 1), name="Linear")
    learner = small.learner(pool, "Linear", dropout=0.5)
    other = small.pool(n_labeled=n_labeled, n_classes=n_classes, name="Linear")
    picks = query(other, learner, 60 - n_labeled, n_drop=3, n_outcomes=50)
    assert sorted(picks.tolist()) == other.unlabeled.tolist()


def test_equal_images_are_told_apart_by_a_draw(pool, learner, monkeypatch):
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), learner.net.head.in_features))
    assert len({tuple(query(pool, learner, 3, seed)) for seed in range(10)}) == 10


def test_many_images_a_query_are_refused():
    pool = small.pool(n=120, n_labeled=10, name="Linear")
    with pytest.raises(UserError, match="at most 100"):
        query(pool, small.learner(pool, "Linear", dropout=0.5), 101)


@pytest.mark.parametrize("arguments", [{"n_drop": 1}, {"n_drop": 10_001}, {"n_outcomes": 0}])
def test_hyperparameters_out_of_range_are_refused(arguments, pool, learner):
    with pytest.raises(UserError, match="--strategy_args"):
        query(pool, learner, 3, **arguments)


def test_the_reference_knows_closed_forms():
    """Two networks, each certain of another class: ln 2 in all, from the first image on."""
    passes = [[[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3]
    for chosen in itertools.permutations(range(3), 2):
        assert reference_batchbald.joint_information(passes, chosen) == pytest.approx(math.log(2))
    assert reference_batchbald.joint_information([[[0.5, 0.5]]] * 2, [0]) == pytest.approx(0)
