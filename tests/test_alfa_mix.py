"""ALFA-Mix: which predictions change, and what a query makes of it."""

import numpy as np
import pytest
import reference_alfa_mix as reference
import small
import torch

from strategies import STRATEGIES
from strategies.kernels import alfa_mix, distances
from strategies.kernels.alfa_mix import class_means, flips_when_mixed
from utils import UserError, stream


def made_up(u, d, n_classes, n_anchors, seed=0, sparse=0.0):
    """Embeddings, weights, biases and anchors; a share of the entries of the first and last is 0."""
    rng = np.random.default_rng(seed)
    shapes = ((u, d), (n_classes, d), (n_classes,), (n_anchors, d))
    h, weight, bias, anchors = (rng.normal(size=shape) for shape in shapes)
    h, anchors = (x * (rng.random(x.shape) >= sparse) for x in (h, anchors))
    return tuple(torch.from_numpy(x).float() for x in (h, weight, bias, anchors))


def assert_same_as_the_loop(h, weight, bias, anchors, eps):
    got = flips_when_mixed(h, weight, bias, anchors, eps)
    assert got.tolist() == reference.flips(*(t.tolist() for t in (h, weight, bias, anchors)), eps)
    return int(got.sum())


@pytest.mark.parametrize("sparse", [0.0, 0.6])
@pytest.mark.parametrize(("n_classes", "n_anchors"), [(2, 1), (2, 2), (5, 3), (100, 40)])
@pytest.mark.parametrize("eps", [0.02, 0.2, 1.0])
def test_flips_are_those_of_the_loop(n_classes, n_anchors, eps, sparse):
    n = assert_same_as_the_loop(*made_up(60, 7, n_classes, n_anchors, sparse=sparse), eps)
    assert n < 60 or eps == 1
    assert n > 0 or eps < 0.1


def test_flips_are_those_of_the_loop_on_certain_predictions():
    """Probabilities of which float32 knows nothing but 0 and 1."""
    h, weight, bias, anchors = made_up(60, 7, 4, 3)
    for factor in (20, 60):
        assert 0 < assert_same_as_the_loop(h, factor * weight, factor * bias, anchors, 0.2) < 60


def test_blocks_do_not_show(monkeypatch):
    rows = made_up(60, 7, 5, 3, sparse=0.3)
    expected = flips_when_mixed(*rows, 0.2)
    monkeypatch.setattr(distances, "BLOCK", 7 * 8)
    assert torch.equal(flips_when_mixed(*rows, 0.2), expected)


def test_an_embedding_far_from_the_origin_changes_nothing():
    h, weight, bias, anchors = (t.double() for t in made_up(60, 7, 5, 3))
    expected = flips_when_mixed(h, weight, bias, anchors, 0.2)
    away = torch.full((7,), 1000.0, dtype=torch.float64)
    moved = flips_when_mixed(h + away, weight, bias - weight @ away, anchors + away, 0.2)
    assert torch.equal(moved, expected)


def test_a_large_entry_that_all_share_changes_nothing():
    """Distances do not lose the digits of the others to it."""
    h, weight, bias, anchors = made_up(200, 7, 5, 3)
    wider = torch.nn.functional.pad(weight, (0, 1))

    def flips(shared):
        z, near = (torch.nn.functional.pad(x, (0, 1), value=shared) for x in (h, anchors))
        return flips_when_mixed(z, wider, bias, near, 0.2)

    assert torch.equal(flips(30_000.0), flips(0.0))


def test_an_image_between_two_opposite_classes_has_no_gradient_and_stays():
    v = torch.tensor([1.0, 2.0])
    weight, bias = torch.stack([v, 0 * v, -v]), torch.tensor([0.0, 0.01, 0.0])
    assert flips_when_mixed(torch.zeros(1, 2), weight, bias, torch.ones(1, 2), 1.0).tolist() == [False]
    assert flips_when_mixed(torch.full((1, 2), 1e-4), weight, bias, torch.ones(1, 2), 1.0).tolist() == [True]


def test_an_image_equal_to_the_only_anchor_stays():
    h, weight, bias, _ = made_up(60, 7, 5, 3)
    flips = flips_when_mixed(h, weight, bias, h[:1], 1.0)
    assert not flips[0]
    assert flips.any()


def test_classes_that_look_the_same_never_flip():
    h, _, _, anchors = made_up(60, 7, 5, 3)
    weight = torch.ones(4, 7)
    assert not flips_when_mixed(h, weight, torch.zeros(4), anchors, 1.0).any()
    assert not flips_when_mixed(h, torch.zeros(4, 7), torch.arange(4.0), anchors, 1.0).any()


def test_no_anchors_no_flips():
    h, weight, bias, anchors = made_up(60, 7, 5, 3)
    assert flips_when_mixed(h, weight, bias, anchors[:0], 0.2).tolist() == [False] * 60


def test_only_rows_near_a_boundary_are_compared(monkeypatch):
    h, weight, bias, anchors = made_up(400, 7, 5, 3)
    compared = []
    kept_back = alfa_mix._kept_back
    monkeypatch.setattr(alfa_mix, "_kept_back", lambda e, *rest: compared.append(len(e)) or kept_back(e, *rest))
    n = int(flips_when_mixed(h, weight, bias, anchors, 0.1).sum())
    assert len(compared) == 3  # one comparison an anchor
    assert 0 < n <= compared[0] < 200


def test_class_means_are_those_of_classes_with_labels():
    h = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 5.0]])
    assert class_means(h, torch.tensor([7, 7, 3])).tolist() == [[0.0, 5.0], [2.0, 1.0]]
    assert class_means(h[:0], torch.tensor([], dtype=torch.int64)).shape == (0, 2)


# In a query


def ask(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["ALFAMix"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


def expected_flips(pool, learner, eps):
    """By the loop, from embeddings."""
    h, labeled = (learner.embeddings(pool.inputs[i]).double().numpy() for i in (pool.unlabeled, pool.labeled))
    labels = pool.labels[pool.labeled]
    anchors = [labeled[labels == c].mean(0).astype(np.float32).tolist() for c in range(pool.n_classes) if c in labels]
    head = learner.net.head
    return set(pool.unlabeled[reference.flips(h.tolist(), head.weight.tolist(), head.bias.tolist(), anchors, eps)])


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
def test_query_picks_images_that_flip(name, n_classes):
    pool = small.pool(60, 12, n_classes, name=name)
    learner = small.learner(pool, name)
    flipping = expected_flips(pool, learner, 1.0)
    n = max(1, len(flipping) // 2)
    assert set(ask(pool, learner, n, eps=1.0).tolist()) <= flipping or not flipping
    most = min(48, len(flipping) + 3)
    assert set(ask(pool, learner, most, eps=1.0).tolist()) >= flipping  # and others at random
    assert sorted(ask(pool, learner, 48).tolist()) == pool.unlabeled.tolist()


@pytest.mark.parametrize("classes", [[5], [1, 6], [0, 2, 7]])
def test_labeled_classes_need_not_be_the_first(classes):
    labels = np.random.default_rng(0).choice(classes, 60)
    pool = small.pool(60, 12, 8, labels=labels, name="Linear")
    learner = small.learner(pool, "Linear")
    flipping = expected_flips(pool, learner, 1.0)
    assert set(ask(pool, learner, len(flipping) or 1, eps=1.0).tolist()) == flipping or not flipping


def test_a_query_without_labels_is_a_random_draw(pool, learner):
    empty = small.pool(60, 0)
    assert len({tuple(ask(empty, learner, 5, seed).tolist()) for seed in range(4)}) == 4


def test_query_may_choose_among_some(pool, learner):
    among = pool.unlabeled[10:25]
    picks = STRATEGIES["ALFAMix"](pool, learner, stream(0), eps=1.0).query(6, among)
    assert set(picks.tolist()) <= set(among.tolist())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_an_error(broken, pool):
    learner = small.learner(pool)
    learner.net.head.weight.fill_(broken)
    with pytest.raises(UserError, match="not finite"):
        ask(pool, learner, 3)


@pytest.mark.parametrize("eps", [0.0, -0.1, 1.1])
def test_meaningless_eps_is_refused(eps):
    with pytest.raises(UserError, match="--strategy_args eps="):
        STRATEGIES["ALFAMix"](None, None, None, eps=eps)
