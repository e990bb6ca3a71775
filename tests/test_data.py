"""Data sets by name, unreadable images, and the Pool."""

import hashlib

import numpy as np
import pytest
import torch
from image_folders import SIDE, check, flat, folder, noise, paint, pixels_of
from PIL import Image
from sklearn.datasets import load_digits

from data import Inputs, Pool, load
from utils import UserError


def test_folder_is_read_as_it_lies_there(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    check(loaded, pixels)
    assert loaded.classes == ["ant", "bee", "cat"]
    assert loaded.train_x.shape == (15, 3, SIDE, SIDE)
    assert loaded.test_x.shape == (9, 3, SIDE, SIDE)
    assert loaded.train_x.dtype == torch.uint8
    assert loaded.train_y.dtype == loaded.test_y.dtype == np.int64
    assert loaded.unreadable == []
    assert loaded.flip


def test_wrong_name_lists_what_is_there(beasts):
    data_dir, _ = beasts
    (data_dir / ".hidden").mkdir()
    (data_dir / "file").write_text("")
    with pytest.raises(
        UserError, match=r"--dataset_name Beast: .*CIFAR10, DaninhasDataset, Digits .* it holds Beasts$"
    ):
        load("Beast", data_dir, SIDE)


def test_missing_or_unreadable_data_folder_is_told(tmp_path):
    for name in ("none", "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=f"a folder in {tmp_path / name}: no such folder"):
            load("Beasts", tmp_path / name, SIDE)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"cannot read .*loop: Too many levels"):
        load("Beasts", tmp_path, SIDE)


def test_missing_named_dataset_says_where_to_put_it(tmp_path):
    with pytest.raises(UserError, match=r"DaninhasDataset is missing; put the images there as train/<class>/\*"):
        load("DaninhasDataset", tmp_path, SIDE)
    folder(tmp_path / "DaninhasDataset")
    assert len(load("DaninhasDataset", tmp_path, SIDE).train_y) == 15


@pytest.mark.parametrize("img_size", [-1, 0, 7, 1025])
def test_image_size_out_of_range_is_refused(beasts, img_size):
    with pytest.raises(UserError, match=f"--img_size {img_size}: must be from 8 to 1024"):
        load("Beasts", beasts[0], img_size)


def damage(root):
    """Spoil some images in every known way. Returns their paths."""
    jpeg = root / "train/ant/whole.jpg"
    paint(jpeg, noise(0, 64, 64, 3))
    whole = jpeg.read_bytes()
    jpeg.unlink()
    contents = {
        "train/ant/0.png": b"a text file",
        "train/ant/3.png": b"",
        "train/ant/cut.jpg": whole[: len(whole) // 2],
        "train/bee/4.png": (root / "train/bee/4.png").read_bytes()[:120],
        "test/ant/0.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        "test/cat/2.png": whole[:3],
    }
    for path, content in contents.items():
        (root / path).write_bytes(content)
    (root / "train/cat/dead.png").symlink_to("nowhere.png")
    (root / "train/cat/dead").symlink_to("nowhere")
    return [*contents, "train/cat/dead.png", "train/cat/dead"]


@pytest.mark.parametrize("again", [False, True])
def test_unreadable_images_stop_the_run_with_the_list_of_their_paths(beasts, again):
    data_dir, _ = beasts
    bad = damage(data_dir / "Beasts")
    for _ in range(1 + again):  # the second time from the cache
        with pytest.raises(UserError, match=r"8 unreadable images \(--skip_unreadable goes on without them\):") as e:
            load("Beasts", data_dir, SIDE)
        lines = str(e.value).split("\n")[1:]
        told = {line.strip().split(": ")[0] for line in lines}
        assert told == {str(data_dir / "Beasts" / path) for path in bad}
        assert all(line.split(": ")[1] for line in lines)  # and why
        assert "train/cat/dead.png: No such file or directory" in str(e.value)


def test_images_on_both_sides_of_a_skipped_one_keep_their_pixels_and_classes(beasts):
    data_dir, pixels = beasts
    bad = damage(data_dir / "Beasts")
    for _ in range(2):
        loaded = load("Beasts", data_dir, SIDE, skip_unreadable=True)
        assert sorted(loaded.unreadable) == sorted(bad)
        check(loaded, {p: x for p, x in pixels.items() if p not in bad})
        train = loaded.train_x.numpy() / 255
        np.testing.assert_allclose(loaded.mean, train.mean((0, 2, 3)), rtol=1e-6)


def test_skipped_images_are_as_good_as_removed(beasts):
    data_dir, _ = beasts
    bad = damage(data_dir / "Beasts")
    skipped = load("Beasts", data_dir, SIDE, skip_unreadable=True)
    for path in bad:
        (data_dir / "Beasts" / path).unlink()
    removed = load("Beasts", data_dir, SIDE)
    assert data.summary(skipped) == data.summary(removed)
    assert torch.equal(skipped.mean, removed.mean)


def test_class_or_dataset_without_one_readable_image_is_told_even_when_skipping(beasts):
    data_dir, _ = beasts
    for path in (data_dir / "Beasts/test/cat").iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match="no test image of cat is readable"):
        load("Beasts", data_dir, SIDE, skip_unreadable=True)
    for path in (data_dir / "Beasts").rglob("*.png"):
        path.write_text("no image at all")
    with pytest.raises(UserError, match="24 unreadable images"):
        load("Beasts", data_dir, SIDE)
    with pytest.raises(UserError, match="no train image of ant, bee, cat is readable"):
        load("Beasts", data_dir, SIDE, skip_unreadable=True)


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ZeroDivisionError, Image.DecompressionBombError])
def test_whatever_pillow_raises_names_the_image(beasts, monkeypatch, error):
    def fail(*_):
        raise error("what is wrong")

    monkeypatch.setattr(data, "to_square", fail)
    with pytest.raises(UserError, match=r"24 unreadable images .*\n.*train/ant/0\.png: what is wrong\n"):
        load("Beasts", beasts[0], SIDE)


def test_the_folder_of_a_dataset_is_the_one_that_is_read(tmp_path):
    folder(tmp_path / "weeds", classes=("a", "b"))
    folder(tmp_path / "DATA_weeds", classes=("c", "d"))
    assert load("weeds", tmp_path, SIDE).classes == ["a", "b"]
    assert data.folder_of("weeds", tmp_path) == tmp_path / "weeds"
    assert data.folder_of("none", tmp_path) is None


def test_digits_are_those_of_scikit_learn_each_once(tmp_path):
    loaded = load("Digits", tmp_path / "none", SIDE)
    bunch = load_digits()
    assert loaded.classes == [str(i) for i in range(10)]
    assert not loaded.flip
    assert len(loaded.train_y) + len(loaded.test_y) == 1797
    ours = pixels_of(loaded)
    y = dict(zip([*loaded.train_paths, *loaded.test_paths], [*loaded.train_y, *loaded.test_y], strict=True))
    for i, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        path = f"{label}/{i:04d}"
        assert (ours[path] == grey3(np.rint(image * 255 / 16).astype(np.uint8))).all()
        assert y[path] == label
    assert not (tmp_path / "none").exists()


def test_digits_are_split_in_every_class_the_same_each_time():
    loaded, again = load("Digits", ".", SIDE), load("Digits", ".", SIDE)
    total = np.bincount(load_digits().target)
    assert np.bincount(loaded.test_y).tolist() == [round(0.2 * n) for n in total]
    assert loaded.test_paths == again.test_paths
    assert loaded.digest == again.digest == load("Digits", "/", SIDE).digest
    zeros = [p for p in (*loaded.train_paths, *loaded.test_paths) if p[0] == "0"]
    ranked = sorted(zeros, key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    assert [p for p in loaded.test_paths if p[0] == "0"] == sorted(ranked[: round(0.2 * total[0])])


def test_digits_can_be_of_another_size():
    loaded = load("Digits", ".", 16)
    assert loaded.train_x.shape[1:] == (3, 16, 16)
    train = loaded.train_x.numpy() / 255
    np.testing.assert_allclose(loaded.mean, train.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(loaded.std, train.std((0, 2, 3)), rtol=1e-6)


@pytest.fixture
def x():
    return torch.from_numpy(noise(11, 20, 5, 5, 3)).permute(0, 3, 1, 2)


def test_images_are_rows_of_one_array_in_the_order_asked_for(x):
    images = Images(x)
    assert len(images) == 20
    assert images.img_size == 5
    some = images[np.array([7, 3, 3, 19])]
    assert len(some) == 4
    assert torch.equal(some.batch(0, 4, torch.device("cpu")), x[[7, 3, 3, 19]])
    assert torch.equal(some[np.array([3, 0])].batch(0, 9, torch.device("cpu")), x[[19, 7]])
    batch = images.batch(18, 25, torch.device("cpu"))
    assert torch.equal(batch, x[18:])
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("start", "size"), [(0, 20), (0, 7), (3, 5), (19, 4), (20, 4)])
def test_batches_are_all_rows_from_the_first_asked_for(x, start, size):
    images, cpu = Images(x)[np.arange(20)[::-1].copy()], torch.device("cpu")
    batches = list(images.batches(start, size, cpu))
    assert torch.equal(torch.cat([x[:0], *batches]), x.flip(0)[start:])
    assert all(len(b) == size for b in batches[:-1])
    elsewhere = images.batches(start, size, torch.device("meta"))  # gathered in advance, as for a GPU
    assert [len(b) for b in elsewhere] == [len(b) for b in batches]


def test_images_stay_where_they_are_on_the_cpu(x):
    images = Images(x)
    assert images.to(torch.device("cpu")) is images


TARGETS = np.array([2, 0, 1, 1, 0, 2])


@pytest.fixture
def pool(x):
    pool = Pool(Images(x[:6]), TARGETS, 3)
    pool.label(np.array([4, 1]))
    return pool


def test_labels_are_revealed_by_buying_alone(pool):
    assert pool.labels.tolist() == [-1, 0, -1, -1, 0, -1]
    assert pool.labeled.tolist() == [1, 4]
    assert pool.unlabeled.tolist() == [0, 2, 3, 5]
    pool.label(np.array([5, 0]))
    assert pool.labels.tolist() == [2, 0, -1, -1, 0, 2]
    assert pool.labeled.tolist() == [0, 1, 4, 5]
    assert pool.labeled.dtype == pool.unlabeled.dtype == pool.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("idxs", "message"),
    [
        ([0, 2, 0], "repeated"),
        ([0, 6], "index 6 is not in the pool of 6 images"),
        ([0, -1], "index -1 is not in the pool"),
        ([0, 4], "index 4 is labeled already"),
        ([0.0, 2.0], "must be integers"),
        ([True, False], "must be integers"),
        ([[0, 2]], "shape"),
        (0, "shape"),
        ([], "must be integers"),
    ],
)
def test_refused_labels_change_nothing(pool, idxs, message):
    with pytest.raises(ValueError, match=message):
        pool.label(np.array(idxs))
    assert pool.labels.tolist() == [-1, 0, -1, -1, 0, -1]


def test_buying_nothing_is_allowed(pool):
    pool.label(np.empty(0, np.int64))
    assert len(pool.labeled) == 2


def test_labels_cannot_be_written_from_outside(pool):
    with pytest.raises(ValueError, match="read-only"):
        pool.labels[0] = 1
    pool.labeled[:] = 0
    assert pool.labels.tolist() == [-1, 0, -1, -1, 0, -1]


def test_pool_keeps_its_own_targets(x):
    targets = TARGETS.copy()
    pool = Pool(Images(x[:6]), targets, 3)
    targets[:] = 1
    pool.label(np.arange(6))
    assert pool.labels.tolist() == TARGETS.tolist()


def test_pool_of_other_length_than_its_targets_is_refused(x):
    with pytest.raises(ValueError, match="20 images, 6 targets"):
        Pool(Images(x), TARGETS, 3)
