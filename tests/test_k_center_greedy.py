"""k-center greedy against the plain loop in float64."""

import numpy as np
import pytest
import reference_kernels as reference
import small
import torch
from reference_kernels import normal

from strategies.k_center_greedy import KCenterGreedy
from strategies.kernels import k_center as module
from strategies.kernels.distances import rounding
from strategies.kernels.k_center import k_center_greedy
from utils import UserError


def assert_greedy(x, centers, picks):
    """Each pick is, within rounding of float64, as far as any row; whichever of equal ones it is."""
    assert len(set(picks.tolist())) == len(picks)
    start = 0 if len(centers) else 1
    for i in range(start, len(picks)):
        nearest = reference.covering_distances(x, centers, picks[:i])
        assert nearest[picks[i]] >= nearest.max() - 1e-9


@pytest.mark.parametrize("block", [1, 3, 16, 1000])
@pytest.mark.parametrize(
    ("n_rows", "n_centers", "d", "n"), [(200, 30, 7, 60), (200, 0, 7, 60), (60, 5, 3, 60), (9, 1, 1, 1)]
)
def test_picks_are_those_of_the_plain_loop_in_the_same_order(n_rows, n_centers, d, n, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    x, centers = normal(n_rows, d), normal(n_centers, d, seed=1)
    picks = k_center_greedy(x, centers, n)
    assert picks.tolist() == reference.k_center_greedy(x, centers, n).tolist()


@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("d", [32, 512])
def test_picks_are_those_of_float64_where_float32_could_not_tell(d, offset):
    """Rows on a sphere around the only center: their distances to it differ in the last digits of float32."""
    directions = normal(2000, d).double()
    x = (directions / directions.norm(dim=1, keepdim=True) * 10 + offset).float()
    centers = torch.full((1, d), float(offset))
    assert k_center_greedy(x, centers, 150).tolist() == reference.k_center_greedy(x, centers, 150).tolist()


def test_few_huge_rows_do_not_blur_the_others():
    x = normal(600, 16)
    x[:3] *= 1e4
    assert k_center_greedy(x, x[3:20], 200).tolist() == reference.k_center_greedy(x, x[3:20], 200).tolist()


def test_ties_are_resolved_to_one_of_the_farthest():
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    assert_greedy(grid, grid[:1], k_center_greedy(grid, grid[:1], 64))


def test_duplicates_are_picked_last_but_picked():
    x = torch.cat([normal(40, 5)] * 3)
    picks = k_center_greedy(x, x[:0], 120)
    assert sorted(picks % 40)[::3] == list(range(40))
    assert len(set((picks[:40] % 40).tolist())) == 40
    assert sorted(picks.tolist()) == list(range(120))


def test_rows_that_are_all_centers_are_still_different_picks():
    x = torch.ones(700, 4)
    assert len(set(k_center_greedy(x, x[:2], 600).tolist())) == 600


def test_without_centers_the_first_pick_is_farthest_from_the_mean():
    x = normal(50, 3) + 7
    x[31] = 20
    assert k_center_greedy(x, x[:0], 1).tolist() == [31]


@pytest.mark.parametrize("n", [0, 6])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 5 rows"):
        k_center_greedy(normal(5, 2), normal(1, 2), n)


@pytest.mark.parametrize("where", ["x", "centers"])
def test_nan_is_an_error(where):
    x, centers = normal(20, 2), normal(3, 2)
    (x if where == "x" else centers)[1, 1] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        k_center_greedy(x, centers, 4)


def test_a_thousand_picks_take_few_passes_over_the_pool(monkeypatch):
    passes, exact = [], []
    bounds, measure = module._upper_bounds, module._exact_nearest
    monkeypatch.setattr(module, "_upper_bounds", lambda *a: passes.append(len(a[2])) or bounds(*a))
    monkeypatch.setattr(module, "_exact_nearest", lambda *a: exact.append(len(a[0])) or measure(*a))
    k_center_greedy(normal(10_000, 16), normal(100, 16, seed=1), 1000)
    assert len(passes) <= 10
    assert sum(passes) == 1000 + 100 // module.STRIDE
    assert sum(exact) <= 10 * 2 * module.BLOCK_ROWS


@pytest.mark.parametrize("d", [1, 8, 100, 512, 2048])
def test_upper_bounds_are_above_the_distances_and_close(d):
    x, centers = normal(300, d) * normal(300, 1, seed=2).exp(), normal(50, d, seed=1)
    x[:50] = centers
    upper = module._upper_bounds(x, x.square().sum(1), centers)
    exact = module._exact_nearest(x, centers, torch.zeros(d))
    scale = (x.double().square().sum(1) + centers.double().square().sum(1).max()).numpy()
    assert (upper >= exact).all()
    assert (upper - exact <= 3 * rounding(d) * scale).all()


def test_strategy_covers_labeled_and_picked_images():
    pool = small.pool(n=80, n_labeled=20)
    learner = small.learner(pool)
    idxs = KCenterGreedy(pool, learner, np.random.default_rng(0)).query(25)
    x, centers = learner.embeddings(pool.inputs[pool.unlabeled]), learner.embeddings(pool.inputs[pool.labeled])
    expected = reference.k_center_greedy(x, centers, 25)
    assert idxs.tolist() == pool.unlabeled[expected].tolist()


def test_equal_images_are_told_apart_by_a_draw(monkeypatch):
    pool = small.pool(n=40, n_labeled=5)
    learner = small.learner(pool)
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), 3))
    queries = {tuple(KCenterGreedy(pool, learner, np.random.default_rng(seed)).query(3)) for seed in range(10)}
    assert len(queries) == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_picks_what_the_cpu_picks():
    x, centers = normal(5000, 64), normal(300, 64, seed=1)
    assert k_center_greedy(x.cuda(), centers.cuda(), 500).tolist() == k_center_greedy(x, centers, 500).tolist()
