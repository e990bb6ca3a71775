"""Validation images held out at random, and long-tailed training sets."""

import numpy as np
import pytest

from data import from_arrays
from subsets import long_tailed, with_validation
from utils import UserError, stream


@pytest.fixture(scope="module")
def data():
    """480 training images of classes of 80, 160 and 240, whose first pixel counts them."""
    labels = np.repeat([0, 1, 2], [100, 200, 300])
    x = np.zeros((600, 8, 8, 3), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.arange(600) % 256, np.arange(600) // 256
    return from_arrays(x, labels, [f"{i:03d}.png" for i in range(600)], ["ant", "bee", "cow"])


def numbers_of(split):
    x = split.inputs.x[split.inputs.idxs]
    return (x[:, 0, 0, 0].int() + 256 * x[:, 1, 0, 0].int()).tolist()


def assert_rows_stay_together(split, data):
    label_of = dict(zip(data.train.paths, data.train.labels.tolist(), strict=True))
    assert numbers_of(split) == [int(path[:3]) for path in split.paths]
    assert split.labels.tolist() == [label_of[path] for path in split.paths]


def test_validation_images_leave_the_training_set(data):
    parts = with_validation(data, 50, stream(1, "validation")).splits
    assert [*parts] == ["train", "val", "test"]
    assert (len(parts["train"]), len(parts["val"])) == (430, 50)
    assert sorted(parts["train"].paths + parts["val"].paths) == sorted(data.train.paths)
    assert parts["test"] is data.test
    for name in ("train", "val"):
        assert_rows_stay_together(parts[name], data)
        assert parts[name].paths == [p for p in data.train.paths if p in set(parts[name].paths)]  # in order


def test_validation_images_depend_on_the_seed_alone_and_are_drawn_evenly(data):
    drawn = [with_validation(data, 50, stream(seed, "validation")).splits["val"].paths for seed in range(200)]
    assert drawn[3] == with_validation(data, 50, stream(3, "validation")).splits["val"].paths
    assert drawn[3] != drawn[4]
    counts = np.array([sum(path in set(paths) for paths in drawn) for path in data.train.paths[:40]])
    assert abs(counts.mean() - 200 * 50 / 480) < 3


def test_validation_images_are_refused_where_they_cannot_be_had(data):
    with pytest.raises(UserError, match=r"^--n_val 480: the data set has 480 training images, and some must be left"):
        with_validation(data, 480, stream(0))
    with pytest.raises(UserError, match=r"^--n_val 5: the data set has a val/ folder of 50 images already$"):
        with_validation(with_validation(data, 50, stream(0)), 5, stream(0))


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_the_rarest_class_has_the_ratio_of_the_commonest(data, ratio):
    orders = set()
    for seed in range(12):
        made = long_tailed(data, ratio, stream(seed))
        assert made.test is data.test
        assert_rows_stay_together(made.train, data)
        counts = np.bincount(made.train.labels)
        low, middle, high = np.sort(counts)
        assert low == pytest.approx(ratio * high, abs=0.51 + 0.5 * ratio)
        assert middle == pytest.approx(np.sqrt(ratio) * high, abs=0.51 + 0.5 * ratio)
        full = counts == np.bincount(data.train.labels)
        assert full.any() or low == 1  # no class gives away more than the shape needs
        orders.add(tuple(counts.argsort()))
    assert len(orders) > 2


def test_a_ratio_of_1_makes_classes_equal(data):
    assert np.bincount(long_tailed(data, 1.0, stream(0)).train.labels).tolist() == [80, 80, 80]
