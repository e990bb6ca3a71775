"""BAIT against explicit inverses in float64."""

import numpy as np
import pytest
import reference_bait as reference
import small
import torch
from reference_kernels import normal

from strategies.bait import BAIT, bait, fisher_embeddings
from strategies.kernels import trace_greedy as module
from utils import UserError, stream


def rows(n, d, seed=0):
    """Rows of different lengths. Shape (n, d)."""
    return normal(n, d, seed=seed) * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed + 7))


def query(pool, learner, n, seed=0, **arguments):
    return BAIT(pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("n_labeled", [0, 1, 20])
@pytest.mark.parametrize(("d", "n_rows", "n"), [(8, 100, 10), (16, 60, 25), (32, 90, 12), (64, 70, 15), (64, 30, 30)])
def test_picks_are_those_of_explicit_inverses_in_the_same_order(d, n_rows, n, n_labeled):
    x, labeled = rows(n_rows, d), rows(n_labeled, d, seed=1)
    assert bait(x, labeled, n).tolist() == reference.bait(x, labeled, n)


@pytest.mark.parametrize("oversample", [1.0, 1.5, 4.0])
@pytest.mark.parametrize("ridge", [0.01, 100.0])
def test_hyperparameters_mean_what_the_reference_says(ridge, oversample):
    x, labeled = rows(50, 12), rows(9, 12, seed=1)
    assert bait(x, labeled, 8, ridge, oversample).tolist() == reference.bait(x, labeled, 8, ridge, oversample)


def test_each_forward_and_backward_step_is_the_best_one(monkeypatch):
    """The trace is measured anew before each step, with picks of the kernel so far."""
    x, labeled, n = rows(40, 10), rows(6, 10, seed=1), 9
    objective = reference.Objective(x, labeled, n, 1.0)
    chosen, removed = [], []
    kept = module._kept
    order = {tuple(row.tolist()): i for i, row in enumerate(x.double())}

    def spy(rows, inverse, target, n):
        chosen.extend(order[tuple(row.tolist())] for row in rows)
        before = np.ones(len(rows), bool)
        for n_left in range(len(rows) - 1, n - 1, -1):
            after = kept(rows, inverse, target, n_left)
            removed.extend(chosen[i] for i in np.flatnonzero(before & ~after))
            before = after
        return kept(rows, inverse, target, n)

    monkeypatch.setattr(module, "_kept", spy)
    picks = bait(x, labeled, n)
    assert (len(chosen), len(removed)) == (18, 9)
    for i, pick in enumerate(chosen):
        rest = [j for j in range(40) if j not in chosen[:i]]
        assert objective([*chosen[:i], pick]) <= min(objective([*chosen[:i], j]) for j in rest) + 1e-12
    left = list(chosen)
    for out in removed:
        traces = {j: objective([k for k in left if k != j]) for j in left}
        assert traces[out] <= min(traces.values()) + 1e-12
        left.remove(out)
    assert picks.tolist() == left


def test_float64_tells_rows_apart_that_float32_cannot():
    x = rows(80, 8)
    x = torch.cat([x, x * (1 + 1e-6 * normal(80, 1, seed=3))])
    target, start = module.second_moment(x) / len(x), torch.eye(8, dtype=torch.float64)
    exact = module.trace_greedy(x.double(), target, start, 60, 60)
    assert module.trace_greedy(x, target, start, 60, 60).tolist() == exact.tolist()


@pytest.mark.parametrize("length", [1e3, 1e4])
@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_outweighs_all_others_misleads_no_pick(seed, length):
    x = normal(300, 16, seed=seed)
    x[0] *= length
    forward = bait(x, x[:0], 15, oversample=1.0).tolist()
    assert forward == bait(x.double(), x[:0].double(), 15, oversample=1.0).tolist()
    assert len(set(bait(x, x[:0], 15).tolist())) == 15


def counted(monkeypatch):
    """Sizes of the calls that measure all rows with two matrices, and of those that do with two vectors."""
    matrices, vectors = [], []
    all_forms, linear = module._all_forms, module.F.linear
    monkeypatch.setattr(module, "_all_forms", lambda *a: matrices.append(len(a[0])) or all_forms(*a))
    monkeypatch.setattr(module.F, "linear", lambda x, w: vectors.append((len(x), len(w))) or linear(x, w))
    return matrices, vectors


def test_gains_that_have_drifted_are_measured_anew(monkeypatch):
    """The chosen rows span all directions many times over, so that the gains fall to a millionth of the first."""
    matrices, _ = counted(monkeypatch)
    x = 30 * rows(3000, 8)
    picks = bait(x, x[:0], 300)
    assert matrices.count(3000) in range(2, 8)
    assert picks.tolist() == bait(x.double(), x[:0].double(), 300).tolist()


def test_a_pick_costs_two_products_with_a_vector(monkeypatch):
    matrices, vectors = counted(monkeypatch)
    bait(rows(5000, 64), rows(1000, 64, seed=1), 30)
    assert matrices == [5000]
    assert vectors == [(5000, 2)] * 60


def test_of_equal_rows_the_first_is_added_and_the_last_removed():
    x = torch.cat([rows(10, 5)] * 3)
    picks = bait(x, x[:0], 10).tolist()
    expected = reference.bait(x, x[:0], 10)
    assert sorted(i % 10 for i in picks) == sorted(i % 10 for i in expected)
    for i in range(10):
        copies = [p for p in picks if p % 10 == i]
        assert copies == [i, i + 10, i + 20][: len(copies)]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rows_that_are_all_equal_are_different_picks(value):
    x = torch.full((300, 4), value)
    assert len(set(bait(x, x[:2], 200).tolist())) == 200


def test_n_of_1_and_all():
    x, labeled = rows(30, 6), rows(4, 6, seed=1)
    assert bait(x, labeled, 1).tolist() == reference.bait(x, labeled, 1)
    assert bait(x, labeled, 30).tolist() == reference.bait(x, labeled, 30)


@pytest.mark.parametrize("n", [0, 6])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 5 rows"):
        bait(rows(5, 2), rows(1, 2), n)
    with pytest.raises(ValueError, match="picks of 5 rows"):
        module.trace_greedy(rows(5, 2), torch.eye(2).double(), torch.eye(2).double(), n, 5 if n == 0 else 6)


@pytest.mark.parametrize("where", ["x", "labeled"])
def test_nan_is_an_error(where):
    x, labeled = rows(20, 2), rows(3, 2)
    (x if where == "x" else labeled)[1, 1] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        bait(x, labeled, 4)


@pytest.mark.parametrize("n_classes", [2, 100])
def test_fisher_embeddings_are_those_of_the_reference(n_classes):
    """Also where p is 1 in float32."""
    h, logits = normal(50, 7), 3 * normal(50, n_classes, seed=1)
    logits[:5, 0] += torch.tensor([10.0, 17, 20, 30, 60])
    got = fisher_embeddings(logits.softmax(1), h.clone()).double().numpy()
    expected = reference.fisher_rows(logits, h)
    assert (np.abs(got - expected) <= 1e-5 * np.abs(expected) + 1e-8).all()
    assert (got[:4] != 0).all()


@pytest.mark.parametrize("name", ["SmallCNN", "Linear"])
@pytest.mark.parametrize("n_labeled", [1, 20])
def test_strategy_picks_what_the_reference_picks(name, n_labeled):
    pool = small.pool(n=80, n_labeled=n_labeled, name=name)
    learner = small.learner(pool, name)
    net, h = learner.net, learner.embeddings(pool.inputs)
    x = reference.fisher_rows(net.head(h), h)
    expected = reference.bait(x[pool.unlabeled], x[pool.labeled], 12)
    assert query(pool, learner, 12).tolist() == pool.unlabeled[expected].tolist()


@pytest.mark.parametrize("n_classes", [2, 100])
def test_strategy_works_with_few_and_many_classes_and_one_in_the_labeled_images(n_classes):
    pool = small.pool(n=60, n_classes=n_classes, labels=np.full(60, n_classes - 1), name="Linear")
    picks = query(pool, small.learner(pool, "Linear"), 48)
    assert sorted(picks.tolist()) == pool.unlabeled.tolist()


def test_strategy_works_without_labeled_images(pool, learner):
    empty = small.pool(n_labeled=0)
    h = learner.embeddings(empty.inputs)
    x = reference.fisher_rows(learner.net.head(h), h)
    assert query(empty, learner, 7).tolist() == reference.bait(x, x[:0], 7)


def test_equal_images_are_told_apart_by_a_draw(pool, learner, monkeypatch):
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), learner.net.head.in_features))
    assert len({tuple(query(pool, learner, 3, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("arguments", [{"ridge": 0.0}, {"ridge": float("nan")}, {"oversample": 0.9}])
def test_hyperparameters_out_of_range_are_refused(arguments, pool, learner):
    with pytest.raises(UserError, match="--strategy_args"):
        query(pool, learner, 3, **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_picks_what_the_cpu_picks():
    x, labeled = rows(5000, 64), rows(300, 64, seed=1)
    assert bait(x.cuda(), labeled.cuda(), 200).tolist() == bait(x, labeled, 200).tolist()
