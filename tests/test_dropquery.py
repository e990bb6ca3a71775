"""DropQuery: the law of the votes, the candidates, and their representatives."""

import numpy as np
import pytest
import reference_dropquery as reference
import reference_kernels
import small
import torch
from scipy.stats import chisquare

from strategies import STRATEGIES
from strategies.kernels import distances, representatives
from strategies.kernels.dropquery import disagreements, inconsistent
from strategies.kernels.k_means import k_means
from utils import UserError, stream


def head(n_classes, d, seed=0):
    """Weights (C, D) and biases (C,) of a head."""
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.normal(size=shape)).float() for shape in ((n_classes, d), n_classes))


# Votes


@pytest.mark.parametrize(("n_classes", "n_drop", "p_drop"), [(2, 3, 0.75), (5, 4, 0.5), (100, 1, 0.9)])
def test_votes_are_those_of_the_loop(n_classes, n_drop, p_drop):
    h = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = head(n_classes, 6)
    masks = stream(1).random((n_drop, 40, 6), dtype=np.float32) >= p_drop
    got = disagreements(h, weight, bias, n_drop, p_drop, stream(1))
    expected = reference.disagreements(h.tolist(), weight.tolist(), bias.tolist(), masks.tolist(), p_drop)
    assert got.tolist() == expected
    assert 0 < sum(expected) < 40 * n_drop


def test_each_image_and_pass_has_a_mask_of_its_own(monkeypatch):
    """20,000 copies of one row, in several blocks, disagree as often as independent draws would."""
    monkeypatch.setattr(distances, "BLOCK", 4 * 3000)
    row, (weight, bias) = torch.tensor([0.7, -1.2, 0.4, 0.9]), head(3, 4, seed=2)
    counts = disagreements(row.expand(20_000, 4), weight, bias, 3, 0.75, stream(0))
    law = reference.law_of_disagreements(row.tolist(), weight.tolist(), bias.tolist(), 3, 0.75)
    assert min(law) > 0.01
    assert chisquare(np.bincount(counts, minlength=4), 20_000 * np.array(law)).pvalue > 1e-3
    pairs = np.bincount(4 * counts[:-1] + counts[1:], minlength=16)  # neighbours
    assert chisquare(pairs, 19_999 * np.outer(law, law).ravel()).pvalue > 1e-3
    blocks = np.bincount(4 * counts[:-3000] + counts[3000:], minlength=16)  # the same place in the next block
    assert chisquare(blocks, 17_000 * np.outer(law, law).ravel()).pvalue > 1e-3


def test_votes_take_a_product_with_the_head_a_pass(monkeypatch):
    products = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda b, x, w: products.append(len(x)) or addmm(b, x, w))
    monkeypatch.setattr(distances, "BLOCK", 6 * 16)
    disagreements(torch.randn(40, 6), *head(3, 6), 5, 0.75, stream(0))
    assert products == [16] * 6 + [16] * 6 + [8] * 6


# Candidates


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 30])
@pytest.mark.parametrize("n_drop", [1, 2, 3, 4, 7])
def test_candidates_are_those_of_the_loop(n, n_drop):
    counts = stream(0).binomial(n_drop, 0.4, 150)
    got = inconsistent(torch.from_numpy(counts), n_drop, n)
    assert got.tolist() == reference.candidates(counts.tolist(), n_drop, n)
    assert (counts[got] > 0).all()


def test_the_threshold_is_lowered_only_while_there_are_few():
    counts = torch.tensor([3] * 20 + [2] * 5 + [1] * 30 + [0] * 100)
    assert len(inconsistent(counts, 3, 1)) == 25
    assert len(inconsistent(counts, 3, 2)) == 55
    assert len(inconsistent(counts, 3, 5)) == 55  # never those that always agree


# Representatives


def directions(sizes, d=12, seed=0):
    """Rows of any length in groups of nearly the same direction, shuffled; the group of each."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.eye(d)[groups] + 0.05 * rng.normal(size=(len(groups), d))
    return torch.from_numpy(rows * rng.uniform(0.1, 10, (len(groups), 1))).float(), groups


def test_a_representative_is_the_nearest_to_the_mean_direction():
    sizes = [30, 22, 15, 9, 4]
    h, groups = directions(sizes)
    candidates = np.sort(np.random.default_rng(1).choice(80, 60, replace=False))
    order = sorted(range(5), key=lambda g: -(groups[candidates] == g).sum())
    unit = h.double().numpy() / np.linalg.norm(h.double().numpy(), axis=1, keepdims=True)
    expected = []
    for g in order:
        members = [u for u in candidates if groups[u] == g]
        center = unit[members].mean(0)
        expected.append(min(members, key=lambda u: reference_kernels.sq_distance(unit[u], center)))
    assert representatives.representatives(h, candidates, 5, stream(0)).tolist() == expected


def test_few_candidates_are_all_taken_and_others_drawn():
    h = torch.randn(20, 3)
    counts = np.zeros(20)
    for seed in range(400):
        picks = representatives.representatives(h, np.array([4, 7, 11]), 8, stream(seed))
        assert sorted(picks[:3]) == [4, 7, 11]
        assert len(set(picks.tolist())) == 8
        counts[picks[3:]] += 1
    assert (counts[[4, 7, 11]] == 0).all()
    others = np.delete(counts, [4, 7, 11])
    assert chisquare(others, np.full(17, 400 * 5 / 17)).pvalue > 1e-3


@pytest.mark.parametrize("n_candidates", [0, 1, 6])
def test_representatives_may_be_all_rows(n_candidates):
    picks = representatives.representatives(torch.randn(6, 3), np.arange(n_candidates), 6, stream(0))
    assert sorted(picks.tolist()) == [*range(6)]


def test_duplicates_are_different_rows():
    h = torch.ones(30, 4)
    h[25:] = 0  # rows without a direction
    picks = representatives.representatives(h, np.arange(30), 9, stream(0))
    assert len(set(picks.tolist())) == 9


def test_equal_rows_are_picked_at_random():
    h = torch.ones(30, 4)
    assert len({int(representatives.representatives(h, np.arange(30), 1, stream(s))[0]) for s in range(40)}) > 10


def test_only_candidates_are_clustered(monkeypatch):
    clustered = []
    monkeypatch.setattr(representatives, "k_means", lambda x, k, rng: clustered.append(len(x)) or k_means(x, k, rng))
    representatives.representatives(torch.randn(50, 3), np.arange(0, 50, 2), 7, stream(0))
    assert clustered == [25]


# In a query


def ask(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["DropQuery"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
def test_query_picks_images_whose_prediction_changes(name, n_classes):
    pool = small.pool(60, 12, n_classes, name=name)
    learner = small.learner(pool, name, dropout=0.0)  # it brings its own dropout
    h, net = learner.embeddings(pool.inputs[pool.unlabeled]), learner.net
    counts = disagreements(h, net.head.weight, net.head.bias, 3, 0.75, stream(0, "query", 0))
    changing = set(pool.unlabeled[inconsistent(counts, 3, 5)].tolist())
    picks = ask(pool, learner, 5).tolist()
    assert set(picks) <= changing if len(changing) >= 5 else set(picks) >= changing
    assert sorted(ask(pool, learner, 48).tolist()) == pool.unlabeled.tolist()


def test_confident_predictions_leave_a_random_draw(pool, learner):
    certain = small.learner(pool)
    certain.net.head.weight.fill_(0)
    certain.net.head.bias.copy_(torch.arange(4.0))
    picks = {tuple(ask(pool, certain, 3, seed).tolist()) for seed in range(5)}
    assert len(picks) == 5


def test_one_class_labeled_and_a_choice_among_some():
    pool = small.pool(60, 12, labels=np.full(60, 2), name="Linear")
    learner = small.learner(pool, "Linear")
    among = pool.unlabeled[5:20]
    picks = STRATEGIES["DropQuery"](pool, learner, stream(0)).query(4, among)
    assert set(picks.tolist()) <= set(among.tolist())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_an_error(broken, pool):
    learner = small.learner(pool)
    learner.net.head.weight.fill_(broken)
    with pytest.raises(UserError, match="not finite"):
        ask(pool, learner, 3)


@pytest.mark.parametrize("arguments", [{"n_drop": 0}, {"n_drop": 10**9}, {"p_drop": 0.0}, {"p_drop": 1.0}])
def test_meaningless_arguments_are_refused(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        STRATEGIES["DropQuery"](None, None, None, **arguments)
