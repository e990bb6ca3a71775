"""Which rows each step of a training reads, and how images are mirrored and shifted."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import small
import torch

import training.batches
from training.batches import Batches, augmented, batch_order, draw_batches
from training.recipe import Recipe
from utils import stream

MANY = Recipe(n_epoch=100, batch_size=50, min_steps=0)  # on 20 rows: 40 steps, 2000 rows drawn


@pytest.mark.parametrize("at_once", [1, 120, 10**6])
def test_draws_do_not_depend_on_how_many_are_drawn_together(at_once, monkeypatch):
    """They are those of version 0.1.0, which drew everything at once: results must not move."""
    monkeypatch.setattr(training.batches, "AT_ONCE", at_once)
    draws = draw_batches(20, (3, 16, 16), MANY, stream(0))
    rng = stream(0)
    order = np.concatenate([rng.permutation(20) for _ in range(100)]).reshape(40, 50)
    np.testing.assert_array_equal(draws.order, order)
    np.testing.assert_array_equal(draws.flips, rng.random((40, 50)) < 0.5)
    np.testing.assert_array_equal(draws.shifts, rng.integers(-2, 3, (40, 50, 2)))


def test_drawing_takes_little_more_memory_than_the_draws():
    recipe = replace(MANY, n_epoch=20_000, batch_size=1000)
    tracemalloc.start()
    try:
        draws = draw_batches(1000, (3, 16, 16), recipe, stream(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(d.nbytes for d in (draws.order, draws.flips, draws.shifts))
    assert size == 9 * 20_000_000
    assert peak < size + 40e6


@pytest.mark.parametrize(("n", "n_steps", "batch_size"), [(10, 7, 4), (3, 5, 8), (64, 1, 64), (1, 3, 2)])
def test_batch_order_shows_every_image_once_a_pass(n, n_steps, batch_size):
    order = batch_order(n, n_steps, batch_size, stream(0))
    assert order.shape == (n_steps, batch_size)
    flat = order.ravel()
    for start in range(0, len(flat) - n + 1, n):
        assert sorted(flat[start : start + n]) == list(range(n))
    assert len(set(flat[len(flat) // n * n :].tolist())) == len(flat) % n


def test_every_step_of_a_training_has_its_draws():
    draws = draw_batches(20, (3, 16, 16), MANY, stream(0))
    assert draws.order.shape == draws.flips.shape == (40, 50)
    assert draws.shifts.shape == (40, 50, 2)
    np.testing.assert_array_equal(draws.order, batch_order(20, 40, 50, stream(0)))


def test_half_of_the_images_are_mirrored_where_the_recipe_mirrors():
    assert draw_batches(20, (3, 16, 16), replace(MANY, flip=True), stream(0)).flips.mean() == pytest.approx(
        0.5, abs=0.05
    )
    assert not draw_batches(20, (3, 16, 16), replace(MANY, flip=False), stream(0)).flips.any()


@pytest.mark.parametrize(("side", "translate", "reach"), [(16, 0.125, 2), (32, 0.125, 4), (10, 0.25, 2), (16, 0.0, 0)])
def test_shifts_reach_equally_far_in_both_directions(side, translate, reach):
    shifts = draw_batches(20, (3, side, side), replace(MANY, translate=translate), stream(0)).shifts
    for axis in range(2):
        values, counts = np.unique(shifts[..., axis], return_counts=True)
        assert values.tolist() == list(range(-reach, reach + 1))
        assert counts.min() > 0.7 * 2000 / (2 * reach + 1)


def test_order_does_not_depend_on_the_augmentation():
    """So runs that differ in it alone stay paired."""
    plain = draw_batches(20, (3, 16, 16), replace(MANY, flip=False, translate=0.0), stream(0))
    np.testing.assert_array_equal(plain.order, draw_batches(20, (3, 16, 16), MANY, stream(0)).order)


def test_augmented_equals_a_loop_over_pixels():
    x = small.pixels(5, 9).permute(0, 2, 3, 1).contiguous()
    idxs = torch.tensor([3, 0, 3, 4])
    flips = torch.tensor([True, False, False, True])
    shifts = torch.tensor([[0, 0], [2, -3], [-4, 4], [1, 2]])
    out = augmented(x, idxs, flips, shifts)

    def reflect(i):
        return abs(i) if i <= 8 else 16 - i

    for b in range(4):
        for i in range(9):
            for j in range(9):
                row = reflect(i + shifts[b, 0].item())
                column = reflect((8 - j if flips[b] else j) + shifts[b, 1].item())
                assert torch.equal(out[b, :, i, j], x[idxs[b], row, column])


def test_a_step_reads_its_rows_augmented_with_their_classes():
    x, y = small.pixels(20).permute(0, 2, 3, 1).contiguous(), torch.arange(20) % 4
    draws = draw_batches(20, (3, 16, 16), MANY, stream(0))
    batches = Batches(x, y, draws, lambda pixels: pixels / 255)
    assert batches.n_steps == 40
    for step in (0, 7, 39):
        rows, classes = batches.at(torch.tensor([step]))
        idxs, flips, shifts = (torch.from_numpy(d[step]) for d in (draws.order, draws.flips, draws.shifts))
        assert torch.equal(rows, augmented(x, idxs, flips, shifts) / 255)
        assert torch.equal(classes, y[idxs])


def test_rows_of_features_are_read_as_they_are():
    x, y = torch.randn(20, 7), torch.arange(20)
    draws = draw_batches(20, (7,), MANY, stream(0))
    rows, classes = Batches(x, y, draws, lambda rows: rows / 2).at(torch.tensor([3]))
    assert torch.equal(rows, x[torch.from_numpy(draws.order[3])])
    assert classes.tolist() == draws.order[3].tolist()
