"""The confusion matrix: counted, written whole or sparse, and read back."""

import hashlib
import time

import numpy as np
import pytest
import sklearn.metrics as sk

from runs.confusion import Confusion, read_confusion
from utils import UserError


def random_confusion(n_classes, n_images=5000):
    rng = np.random.default_rng(n_classes)
    names = [f"class {i}, {'ü' * (i % 3)}" for i in rng.permutation(n_classes)]  # order of the data set, not sorted
    return Confusion.counted(names, rng.integers(0, n_classes, n_images), rng.integers(0, n_classes, n_images))


def test_counts_equal_scikit_learn_with_true_classes_as_rows():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, 100), rng.integers(0, 6, 100)
    found = Confusion.counted("abcdef", labels, predicted)
    assert (found.matrix() == sk.confusion_matrix(labels, predicted, labels=range(6))).all()
    assert found.accuracy == pytest.approx((labels == predicted).mean())
    assert Confusion.counted("abc", np.array([0]), np.array([2])).matrix()[0, 2] == 1


def test_a_few_classes_are_written_whole_with_names_and_sides(tmp_path):
    path = tmp_path / "confusion_matrix.csv"
    path.write_text(Confusion.of_matrix(["a,b", "c"], np.array([[5, 1], [0, 3]])).text())
    assert path.read_text() == 'label\\predicted,"a,b",c\n"a,b",5,1\nc,0,3\n'
    found = read_confusion(path)
    assert (found.classes, found.matrix().tolist()) == (["a,b", "c"], [[5, 1], [0, 3]])


@pytest.mark.parametrize("n_classes", [1, 2, 300])
def test_up_to_three_hundred_classes_all_cells_are_written(tmp_path, n_classes):
    c = random_confusion(n_classes)
    path = tmp_path / "confusion_matrix.csv"
    path.write_text(c.text())
    lines = path.read_text().splitlines()
    assert (len(lines), lines[1].count(",") >= n_classes) == (n_classes + 1, True)
    found = read_confusion(path)
    assert found.classes == c.classes
    assert (found.matrix() == c.matrix()).all()


def test_more_classes_are_written_as_the_cells_that_are_not_zero_in_the_order_of_the_classes(tmp_path):
    c = random_confusion(301, 3000)
    path = tmp_path / "confusion_matrix.csv"
    path.write_text(c.text())
    lines = path.read_text().splitlines()
    assert lines[0] == "label,predicted,count"
    assert len(lines) - 1 == np.count_nonzero(c.matrix()) < 3001
    found = read_confusion(path)
    assert found.images.sum() == 3000
    positions = [c.classes.index(name) for name in found.classes]
    assert positions[: len(set(c.labels))] == sorted(set(c.labels))
    assert (found.matrix() == c.matrix()[np.ix_(positions, positions)]).all()
    cells = list(zip(c.labels, c.predicted, strict=True))
    assert cells == sorted(cells)


def test_ten_thousand_classes_are_counted_written_and_read_well_under_a_second(tmp_path):
    path = tmp_path / "confusion_matrix.csv"
    names, (labels, predicted) = (
        list(map(str, range(10_000))),
        np.random.default_rng(0).integers(0, 10_000, (2, 50_000)),
    )
    start = time.process_time()
    text = Confusion.counted(names, labels, predicted).text()
    path.write_text(text)
    found = read_confusion(path)
    assert time.process_time() - start < 1
    assert found.images.sum() == 50_000
    assert len(text) < 3_000_000


@pytest.mark.parametrize(
    "text",
    ["", "x,a,b\na,1,2\n", "x,a\nb,1\n", "x,a\na,one\n", "x,a\na,1,2\n", "x,a\na\n", "x,a\n\n", "x,a\na,-1\n",
     "x,a\na,1", f"x,a\na,{10**30}\n", "label,predicted,count\na,b\n", "label,predicted,count\na,b,0\n",
     "label,predicted,count\na,b,-1\n", "label,predicted,count\na,b,x\n", "label,predicted,count\na,b,1\na,b,2\n",
     "label,predicted,count\na,b,1\na,c,2", f"label,predicted,count\na,b,{10**30}\n", "\n", "\0" * 9],
)  # fmt: skip
def test_a_damaged_one_is_named(tmp_path, text):
    (tmp_path / "confusion_matrix.csv").write_text(text)
    with pytest.raises(UserError, match=r"confusion_matrix\.csv is damaged"):
        read_confusion(tmp_path / "confusion_matrix.csv")


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file; a run writes it when a round is done"):
        read_confusion(tmp_path / "confusion_matrix.csv")


def test_one_that_last_round_json_does_not_describe_is_refused(tmp_path):
    path = tmp_path / "confusion_matrix.csv"
    path.write_text("x,a\na,1\n")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_confusion(path, expected).classes == ["a"]
    path.write_text("x,a\na,2\n")
    with pytest.raises(UserError, match=r"is not the one that last_round\.json describes"):
        read_confusion(path, expected)


def test_classes_of_many_images_and_names_that_are_no_text_stay_apart(tmp_path):
    path = tmp_path / "confusion_matrix.csv"
    path.write_bytes(b"label,predicted,count\n\xff,\xff,2\n\xff,\xfe,3\n\xfe,\xfe,4\n")
    found = read_confusion(path)
    assert found.matrix().tolist() == [[2, 3], [0, 4]]
    assert found.classes == ["\ufffd", "\ufffd"]
