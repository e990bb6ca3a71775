"""UHerding: its weights, its width, its temperature, and the picks."""

import numpy as np
import pytest
import reference_herding as reference
import small
import torch
from reference_kernels import normal
from test_max_herding import assert_greedy, groups

import strategies.uherding as module
from strategies import STRATEGIES
from strategies.uherding import TEMPERATURES, best_temperature, temperature, width
from utils import UserError, stream


def query(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["UHerding"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("quantile", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (30, 2), (100, 8), (60, 64)])
def test_width_is_a_quantile_of_the_distances_to_the_nearest_labeled_image(n, d, quantile):
    h = groups(n, d) * 3
    assert width(h, quantile) == pytest.approx(reference.width(h, quantile), rel=1e-5)


def test_equal_and_nearly_equal_images_do_not_decide_the_width():
    h = torch.cat([normal(60, 8), normal(60, 8)[:1] + 1e-3])
    assert width(h, 0.05) > 0.1
    assert width(h, 0.0) == 0.01
    assert width(torch.cat([h[:5], 2 * h[:5]]), 0.0) == 1.0  # each has a duplicate
    assert width(h[:1], 0.0) == 1.0
    before = h.clone()
    width(h, 0.0)
    assert torch.equal(h, before)


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 8.0])
def test_temperature_has_the_smallest_calibration_error(n_classes, sharpness):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(120, n_classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(n_classes, p=row) for row in p])
    errors = [reference.calibration_error(sharpness * logits, labels, t) for t in TEMPERATURES]
    got = best_temperature(torch.from_numpy(sharpness * logits), labels)
    assert got == TEMPERATURES[int(np.argmin(errors))]
    assert (got > 1.5) == (sharpness >= 3)


def test_of_equally_good_temperatures_the_lowest_is_taken():
    assert best_temperature(torch.zeros(30, 4), np.arange(30) % 4) == 1.0


def test_temperature_comes_from_images_that_the_head_was_not_trained_on(monkeypatch):
    """Wrong labels, which the head learns by heart, make it certain; of those held out it knows nothing."""
    pools, chosen = [], []
    train, best = module.train, module.best_temperature
    monkeypatch.setattr(module, "train", lambda b, pool, *rest: pools.append(pool) or train(b, pool, *rest))
    monkeypatch.setattr(module, "best_temperature", lambda *a: chosen.append(a) or best(*a))
    h, labels = normal(100, 40), np.random.default_rng(0).integers(0, 4, 100)
    t = temperature(h, labels, 4, stream(0))
    assert len(pools[0].labeled) == 70
    assert pools[0].labels[pools[0].labeled].tolist() == labels[pools[0].labeled].tolist()
    assert len(chosen[0][1]) == 30
    assert sorted(chosen[0][1]) == sorted(labels[pools[0].unlabeled])
    assert t > 2
    easy = torch.eye(4)[labels] + 0.01 * normal(100, 4)
    assert temperature(easy, labels, 4, stream(0)) < 1.5


def test_few_labels_leave_the_temperature_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "train", None)
    assert temperature(normal(9, 3), np.zeros(9, np.int64), 2, stream(0)) == 1.0


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
@pytest.mark.parametrize("n_labeled", [1, 8, 20])
def test_strategy_picks_what_the_reference_picks(name, n_classes, n_labeled, monkeypatch):
    pool = small.pool(80, n_labeled, n_classes, labels=np.full(80, n_classes - 1), name=name)
    learner = small.learner(pool, name)
    monkeypatch.setattr(module, "temperature", lambda *a: 2.5)
    h = learner.embeddings(pool.inputs)
    w = reference.uncertainty(learner.net.head(h), 2.5)[pool.unlabeled]
    sigma, x = reference.width(h[pool.labeled], 0.05), reference.directions(h)
    picks = np.searchsorted(pool.unlabeled, query(pool, learner, 25)).tolist()
    assert_greedy(picks, x[pool.unlabeled], x[pool.labeled], w, sigma, 1e-6)


def test_temperature_is_that_of_the_labeled_images(pool, learner, monkeypatch):
    given = []
    monkeypatch.setattr(module, "temperature", lambda *a: given.append(a) or 1.0)
    query(pool, learner, 3)
    h, labels, n_classes, _ = given[0]
    assert torch.allclose(h, learner.embeddings(pool.inputs[pool.labeled]), atol=1e-6) or len(h) == 12
    assert labels.tolist() == pool.labels[pool.labeled].tolist()
    assert n_classes == pool.n_classes


@torch.no_grad()
def test_a_query_without_gradients_is_the_same(pool, learner):
    picks = query(pool, learner, 9)
    with torch.enable_grad():
        assert query(pool, learner, 9).tolist() == picks.tolist()


def test_without_labels_it_is_max_herding(learner):
    empty = small.pool(n_labeled=0)
    same = STRATEGIES["MaxHerding"](empty, learner, stream(0, "query", 0)).query(15)
    assert query(empty, learner, 15).tolist() == same.tolist()


def test_all_images_and_a_choice_among_some(pool, learner):
    assert sorted(query(pool, learner, 48).tolist()) == pool.unlabeled.tolist()
    among = pool.unlabeled[5:20]
    assert set(STRATEGIES["UHerding"](pool, learner, stream(0)).query(4, among).tolist()) <= set(among.tolist())


def test_equal_images_are_told_apart_by_a_draw(pool, learner, monkeypatch):
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), learner.net.head.in_features))
    assert len({tuple(query(pool, learner, 3, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("quantile", [-0.1, 1.1, float("nan")])
def test_meaningless_arguments_are_refused(quantile):
    with pytest.raises(UserError, match="quantile"):
        STRATEGIES["UHerding"](None, None, None, quantile=quantile)
