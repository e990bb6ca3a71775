"""TypiClust: the most typical rows against the loop, the clusters, and the strategy."""

import numpy as np
import pytest
import reference_typiclust as reference
import small
import torch
from reference_kernels import normal

import strategies.typiclust as strategy
from strategies import STRATEGIES
from strategies.kernels import distances
from strategies.kernels import typicality as module
from strategies.kernels.k_means import k_means
from strategies.kernels.rows import directions
from strategies.kernels.typicality import most_typical
from strategies.typiclust import typiclust
from utils import UserError, stream


def clusters(n_rows, k, seed=0):
    """Clusters of very different sizes, and which rows are labeled. Shapes (n_rows,), (n_rows // 8,)."""
    rng = np.random.default_rng(seed)
    assignment = rng.choice(k, n_rows, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    assignment[:k] = np.arange(k)
    return torch.from_numpy(assignment), rng.choice(n_rows, n_rows // 8, replace=False)


def query(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["TypiClust"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("spare", [1, 3, 64])
@pytest.mark.parametrize("n_neighbors", [1, 4, 20])
@pytest.mark.parametrize(("n_rows", "k", "n"), [(150, 6, 1), (150, 6, 40), (150, 20, 132), (60, 1, 53), (40, 30, 35)])
def test_picks_are_those_of_the_loop_in_the_same_order(n_rows, k, n, n_neighbors, spare, monkeypatch):
    monkeypatch.setattr(module, "SPARE", spare)
    x, (assignment, labeled) = normal(n_rows, 5), clusters(n_rows, k)
    got = most_typical(x, assignment, labeled, n, n_neighbors)
    assert got.tolist() == reference.most_typical(x, assignment, labeled, n, n_neighbors)


@pytest.mark.parametrize("min_size", [0, 5, 10, 1000])
def test_small_clusters_come_last(min_size):
    x, (assignment, labeled) = normal(120, 5), clusters(120, 12)
    got = most_typical(x, assignment, labeled, 105, min_size=min_size)
    assert got.tolist() == reference.most_typical(x, assignment, labeled, 105, min_size=min_size)
    sizes = np.bincount(assignment)[assignment[got]]
    assert (np.diff((sizes <= min_size).astype(int)) >= 0).all()


def test_clusters_without_labels_come_first_then_large_ones():
    sizes, n_labeled = [30, 20, 10, 8, 7], [1, 0, 0, 2, 0]
    assignment = torch.from_numpy(np.repeat(np.arange(5), sizes))
    labeled = np.concatenate([np.flatnonzero(assignment == c)[:m] for c, m in enumerate(n_labeled)])
    picks = most_typical(normal(75, 3), assignment, labeled, 7)
    assert assignment[picks].tolist() == [1, 2, 4, 0, 3, 1, 2]


def test_without_labels():
    x, (assignment, _) = normal(90, 4), clusters(90, 7)
    nothing = np.arange(0)
    assert most_typical(x, assignment, nothing, 90).tolist() == reference.most_typical(x, assignment, nothing, 90)


def test_differences_that_float32_loses_decide():
    """Rows far from 0 whose distances differ in the last digits of float32."""
    x = 100 + normal(80, 6).div(100)
    assignment, labeled = clusters(80, 3)
    assert most_typical(x, assignment, labeled, 60).tolist() == reference.most_typical(x, assignment, labeled, 60)


@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_blocks_change_nothing(block, monkeypatch):
    x, (assignment, labeled) = normal(150, 5), clusters(150, 4)
    whole = most_typical(x, assignment, labeled, 50)
    monkeypatch.setattr(distances, "BLOCK", block)
    assert most_typical(x, assignment, labeled, 50).tolist() == whole.tolist()


def test_of_two_equally_typical_rows_the_first_is_taken():
    x = normal(400, 7)
    pairs = torch.arange(400) % 200  # a cluster is row i and row 200 + i
    assert sorted(most_typical(x, pairs, np.arange(0), 200, min_size=0).tolist()) == list(range(200))


def test_duplicates_are_different_picks():
    x = torch.cat([normal(20, 3)] * 4)
    assert sorted(most_typical(x, torch.zeros(80).long(), np.arange(5), 75).tolist()) == list(range(5, 80))
    assert len(set(most_typical(torch.ones(300, 2), torch.zeros(300).long(), np.arange(0), 299).tolist())) == 299


def test_distances_are_measured_once_in_the_clusters_that_are_picked_from(monkeypatch):
    measured = []
    nearest = module.nearest_others
    monkeypatch.setattr(module, "nearest_others", lambda x, k: measured.append((len(x), k)) or nearest(x, k))
    assignment = torch.from_numpy(np.repeat([0, 1, 2], [500, 300, 200]))
    most_typical(normal(1000, 4), assignment, np.arange(100), 2)
    assert measured == [(300, 84), (200, 84)]
    measured.clear()
    most_typical(normal(1000, 4), assignment, np.arange(100), 300)
    assert measured == [(400, 84), (336, 84), (300, 84), (236, 84), (200, 84), (136, 84)]


@pytest.mark.parametrize("n", [0, 16])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 15 rows"):
        most_typical(normal(20, 2), torch.zeros(20).long(), np.arange(5), n)


# Clusters and the strategy


@pytest.mark.parametrize(("n_labeled", "n", "k"), [(0, 1, 1), (0, 9, 9), (12, 9, 21), (12, 48, 30), (50, 10, 30)])
def test_there_are_as_many_clusters_as_labeled_and_picked_rows(n_labeled, n, k, monkeypatch):
    asked = []
    monkeypatch.setattr(strategy, "k_means", lambda x, k, rng: asked.append((len(x), k)) or k_means(x, k, rng))
    picks = typiclust(normal(60, 4), np.arange(n_labeled), n, stream(0), max_clusters=30)
    assert asked == [(60, k)]
    assert len({*picks.tolist()} - {*range(n_labeled)}) == n


def test_only_directions_count():
    h, labeled = normal(100, 6), np.arange(0, 100, 7)
    lengths = torch.rand(100, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    picks = typiclust(h.clone(), labeled, 20, stream(0))
    assert typiclust(h * 2 ** (8 * lengths).round(), labeled, 20, stream(0)).tolist() == picks.tolist()
    x = normal(5, 3)
    x[3] = 0
    torch.testing.assert_close(directions(x.clone()), torch.nn.functional.normalize(x))


def test_each_group_gets_a_label_and_its_middle_one():
    groups = np.repeat(np.arange(8), 25)
    x = torch.eye(8)[groups] + 0.05 * normal(200, 8)
    picks = typiclust(x.clone(), np.arange(75), 5, stream(0), max_clusters=8)
    assert sorted(groups[picks]) == [3, 4, 5, 6, 7]
    x = directions(x).double().numpy()
    for pick in picks:
        members = np.flatnonzero(groups == groups[pick])
        assert pick == min(members, key=lambda i: reference.mean_distance(x, i, members, 20))


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
@pytest.mark.parametrize("n_labeled", [1, 12])
def test_strategy_picks_what_the_reference_picks(name, n_classes, n_labeled, monkeypatch):
    """The clusters, which a draw decides, are those that the strategy made."""
    pool = small.pool(60, n_labeled, n_classes, labels=np.full(60, n_classes - 1), name=name)
    learner = small.learner(pool, name)
    made = []

    def spy(x, k, rng):
        made.extend((x.clone(), k_means(x, k, rng)))
        return made[1]

    monkeypatch.setattr(strategy, "k_means", spy)
    picks = query(pool, learner, 15)
    x, (_, assignment) = made
    h = directions(learner.embeddings(pool.inputs))
    rows = [int((h - row).square().sum(1).argmin()) for row in x]  # which image each of the shuffled rows is
    labeled = [i for i, row in enumerate(rows) if row in pool.labeled]
    expected = reference.most_typical(x, assignment, labeled, 15)
    assert picks.tolist() == [rows[i] for i in expected]


def test_strategy_works_without_labeled_images_and_among_some(pool, learner):
    empty = small.pool(n_labeled=0)
    assert sorted(query(empty, learner, 60).tolist()) == [*range(60)]
    among = pool.unlabeled[5:20]
    picks = STRATEGIES["TypiClust"](pool, learner, stream(0)).query(15, among)
    assert sorted(picks.tolist()) == among.tolist()


def test_equal_images_are_told_apart_by_a_draw(pool, learner, monkeypatch):
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), 3))
    assert len({tuple(query(pool, learner, 3, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("arguments", [{"max_clusters": 0}, {"n_neighbors": 0}, {"n_neighbors": 10**9}])
def test_meaningless_arguments_are_refused(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        STRATEGIES["TypiClust"](None, None, None, **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_picks_what_the_cpu_picks():
    x, (assignment, labeled) = normal(5000, 64), clusters(5000, 40)
    got = most_typical(x.cuda(), assignment.cuda(), labeled, 500)
    assert got.tolist() == most_typical(x, assignment, labeled, 500).tolist()
