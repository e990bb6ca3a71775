"""Data sets by name, unreadable images, rows, and the Pool."""

import hashlib

import numpy as np
import pytest
import torch
from image_folders import SIDE, check, folder, noise, paint, pixels_of
from PIL import Image
from sklearn.datasets import load_digits

from data import DATASETS, Inputs, Pool, fingerprint, from_arrays, load
from images import decoding
from images.content import channel_stats
from images.listing import folder_of
from utils import UserError

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")


def test_folder_is_read_as_it_is(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    check(loaded, pixels)
    assert loaded.classes == ["ant", "bee", "cat"]
    assert list(loaded.splits) == ["train", "test"]
    assert (loaded.train, loaded.test) == (loaded.splits["train"], loaded.splits["test"])
    for split, n in ((loaded.train, 15), (loaded.test, 9)):
        assert len(split) == len(split.inputs) == len(split.labels) == n
        assert split.inputs.x.shape == (n, 3, SIDE, SIDE)
        assert split.inputs.shape == (3, SIDE, SIDE)
        assert split.inputs.x.dtype == torch.uint8
        assert split.labels.dtype == np.int64
    assert loaded.unreadable == []
    assert loaded.flip


def test_wrong_name_lists_what_is_there(beasts):
    data_dir, _ = beasts
    (data_dir / ".hidden").mkdir()
    (data_dir / "file").write_text("")
    with pytest.raises(UserError, match=rf"--dataset_name Beast: .*{', '.join(DATASETS)} .* it holds Beasts$"):
        load("Beast", data_dir, SIDE)


def test_missing_or_unreadable_data_folder_is_reported(tmp_path):
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
    assert len(load("DaninhasDataset", tmp_path, SIDE).train) == 15


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
        with pytest.raises(UserError, match=r"8 unreadable images \(--skip_unreadable leaves them out\):") as e:
            load("Beasts", data_dir, SIDE)
        lines = str(e.value).split("\n")[1:]
        listed = {line.strip().split(": ")[0] for line in lines}
        assert listed == {str(data_dir / "Beasts" / path) for path in bad}
        assert all(line.split(": ")[1] for line in lines)  # the reason
        assert "train/cat/dead.png: No such file or directory" in str(e.value)


def test_images_on_both_sides_of_a_skipped_one_keep_their_pixels_and_classes(beasts):
    data_dir, pixels = beasts
    bad = damage(data_dir / "Beasts")
    for _ in range(2):
        loaded = load("Beasts", data_dir, SIDE, skip_unreadable=True)
        assert sorted(loaded.unreadable) == sorted(bad)
        check(loaded, {p: x for p, x in pixels.items() if p not in bad})
        train = loaded.train.inputs.x.numpy() / 255
        np.testing.assert_allclose(loaded.mean, train.mean((0, 2, 3)), rtol=1e-6)


def test_skipped_images_are_as_good_as_removed(beasts):
    data_dir, _ = beasts
    bad = damage(data_dir / "Beasts")
    skipped = load("Beasts", data_dir, SIDE, skip_unreadable=True)
    for path in bad:
        (data_dir / "Beasts" / path).unlink()
    removed = load("Beasts", data_dir, SIDE)
    assert fingerprint(skipped) == fingerprint(removed)
    assert torch.equal(skipped.mean, removed.mean)


def test_class_or_data_set_without_a_readable_image_is_an_error_even_when_skipping(beasts):
    data_dir, _ = beasts
    for path in (data_dir / "Beasts/test/cat").iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match="no test image of cat is readable"):
        load("Beasts", data_dir, SIDE, skip_unreadable=True)
    for path in (data_dir / "Beasts/test/cat").iterdir():
        paint(path, noise(0))
    (data_dir / "Beasts/val/bee").mkdir(parents=True)
    (data_dir / "Beasts/val/bee/0.png").write_text("no image")
    with pytest.raises(UserError, match="no val image of bee is readable"):
        load("Beasts", data_dir, SIDE, skip_unreadable=True)
    for path in (data_dir / "Beasts").rglob("*.png"):
        path.write_text("no image at all")
    with pytest.raises(UserError, match="25 unreadable images"):
        load("Beasts", data_dir, SIDE)
    with pytest.raises(UserError, match="no train image of ant, bee, cat is readable"):
        load("Beasts", data_dir, SIDE, skip_unreadable=True)


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ZeroDivisionError, Image.DecompressionBombError])
def test_whatever_pillow_raises_names_the_image(beasts, monkeypatch, error):
    def fail(*_):
        raise error("what is wrong")

    monkeypatch.setattr(decoding, "to_square", fail)
    with pytest.raises(UserError, match=r"24 unreadable images .*\n.*train/ant/0\.png: what is wrong\n"):
        load("Beasts", beasts[0], SIDE)


def test_the_folder_of_a_data_set_is_the_one_that_is_read(tmp_path):
    folder(tmp_path / "weeds", classes=("a", "b"))
    folder(tmp_path / "DATA_weeds", classes=("c", "d"))
    assert load("weeds", tmp_path, SIDE).classes == ["a", "b"]
    assert folder_of("weeds", tmp_path) == tmp_path / "weeds"
    assert folder_of("none", tmp_path) is None


def test_digits_are_those_of_scikit_learn_each_once(tmp_path):
    loaded = load("Digits", tmp_path / "none", SIDE)
    bunch = load_digits()
    assert loaded.classes == [str(i) for i in range(10)]
    assert not loaded.flip
    assert len(loaded.train) + len(loaded.test) == 1797
    found = pixels_of(loaded)
    labels = {p: y for split in loaded.splits.values() for p, y in zip(split.paths, split.labels, strict=True)}
    for i, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        path = f"{label}/{i:04d}"
        assert (found[path] == np.rint(image * 255 / 16).astype(np.uint8)[:, :, None]).all()
        assert labels[path] == label
    assert not (tmp_path / "none").exists()


def test_digits_are_split_in_every_class_the_same_each_time():
    loaded, again = load("Digits", ".", SIDE), load("Digits", ".", SIDE)
    total = np.bincount(load_digits().target)
    assert np.bincount(loaded.test.labels).tolist() == [round(0.2 * n) for n in total]
    assert loaded.test.paths == again.test.paths
    assert loaded.digest == again.digest == load("Digits", "/", SIDE).digest
    zeros = [p for p in (*loaded.train.paths, *loaded.test.paths) if p[0] == "0"]
    ranked = sorted(zeros, key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    assert [p for p in loaded.test.paths if p[0] == "0"] == sorted(ranked[: round(0.2 * total[0])])


def test_digits_can_be_of_another_size():
    loaded = load("Digits", ".", 16)
    assert loaded.train.inputs.shape == (3, 16, 16)
    train = loaded.train.inputs.x.numpy() / 255
    np.testing.assert_allclose(loaded.mean, train.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(loaded.std, train.std((0, 2, 3)), rtol=1e-6)


def test_arrays_become_a_data_set_with_a_test_set_of_a_fifth_of_each_class():
    images = noise(13, 30, SIDE, SIDE, 3)
    labels = np.array([0] * 20 + [1] * 10)
    paths = [f"{label}/{i:03d}" for i, label in enumerate(labels)]
    loaded = from_arrays(images, labels, paths, ["zero", "one"])
    ranked = sorted(paths, key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    of_class = ([p for p in ranked if p.startswith(label)] for label in ("0", "1"))
    assert loaded.test.paths == sorted([p for own in of_class for p in own[: len(own) // 5]])
    assert loaded.train.paths == [p for p in paths if p not in loaded.test.paths]
    found = pixels_of(loaded)
    assert all((found[p] == image).all() for p, image in zip(paths, images, strict=True))
    for split in loaded.splits.values():
        assert split.labels.tolist() == [int(p[0]) for p in split.paths]
    mean, std = channel_stats(np.stack([found[p] for p in loaded.train.paths]))
    assert torch.equal(loaded.mean, torch.tensor(mean))
    assert torch.equal(loaded.std, torch.tensor(std))
    assert loaded.flip
    assert loaded.digest != from_arrays(images, labels, paths, ["zero", "two"]).digest


# Inputs and Pool


@pytest.fixture
def x():
    return torch.from_numpy(noise(11, 20, 5, 5, 3)).permute(0, 3, 1, 2)


def test_inputs_are_rows_of_one_array_in_the_requested_order(x):
    inputs = Inputs(x)
    assert len(inputs) == 20
    assert inputs.shape == (3, 5, 5)
    some = inputs[np.array([7, 3, 3, 19])]
    assert len(some) == 4
    assert torch.equal(some.batch(0, 4, CPU), x[[7, 3, 3, 19]])
    assert torch.equal(some[np.array([3, 0])].batch(0, 9, CPU), x[[19, 7]])
    batch = inputs.batch(18, 25, CPU)
    assert torch.equal(batch, x[18:])
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("start", "size"), [(0, 20), (0, 7), (3, 5), (19, 4), (20, 4)])
def test_batches_are_all_rows_from_the_requested_one_on(x, start, size):
    inputs = Inputs(x)[np.arange(20)[::-1].copy()]
    batches = list(inputs.batches(start, size, CPU))
    assert torch.equal(torch.cat([x[:0], *batches]), x.flip(0)[start:])
    assert all(len(b) == size for b in batches[:-1])
    elsewhere = inputs.batches(start, size, torch.device("meta"))  # gathered in advance, as for a GPU
    assert [len(b) for b in elsewhere] == [len(b) for b in batches]


def test_inputs_stay_where_they_are_on_the_cpu(x):
    inputs = Inputs(x)
    assert inputs.to(CPU) is inputs


@pytest.fixture
def pool(x):
    pool = Pool(Inputs(x[:6]), 3)
    pool.label(np.array([4, 1]), np.array([0, 2]))
    return pool


def test_labels_are_those_that_were_given(pool):
    assert pool.n_classes == 3
    assert pool.labels.tolist() == [-1, 2, -1, -1, 0, -1]
    assert pool.labeled.tolist() == [1, 4]
    assert pool.unlabeled.tolist() == [0, 2, 3, 5]
    pool.label(np.array([5, 0]), np.array([1, 2]))
    assert pool.labels.tolist() == [2, 2, -1, -1, 0, 1]
    assert pool.labeled.tolist() == [0, 1, 4, 5]
    assert pool.labeled.dtype == pool.unlabeled.dtype == pool.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("idxs", "labels", "message"),
    [
        ([0, 2, 0], [1, 1, 1], "repeated"),
        ([0, 6], [1, 1], "index 6 is not in the pool of 6 images"),
        ([0, -1], [1, 1], "index -1 is not in the pool"),
        ([0, 4], [1, 1], "index 4 is labeled already"),
        ([0.0, 2.0], [1, 1], "indices must be integers"),
        ([True, False], [1, 1], "indices must be integers"),
        ([[0, 2]], [[1, 1]], "shape"),
        (0, 1, "shape"),
        ([], [], "indices must be integers"),
        ([0, 2], [1, 3], "label 3 is not one of the 3 classes"),
        ([0, 2], [1, -1], "label -1 is not one of the 3 classes"),
        ([0, 2], [1.0, 1.0], "labels must be integers"),
        ([0, 2], [True, False], "labels must be integers"),
        ([0, 2], [1], "2 indices, 1 labels"),
        ([0, 2], 1, "labels must be integers of shape"),
    ],
)
def test_refused_labels_change_nothing(pool, idxs, labels, message):
    with pytest.raises(ValueError, match=message):
        pool.label(np.array(idxs), np.array(labels))
    assert pool.labels.tolist() == [-1, 2, -1, -1, 0, -1]


def test_labeling_nothing_is_allowed(pool):
    pool.label(np.empty(0, np.int64), np.empty(0, np.int64))
    assert len(pool.labeled) == 2


def test_labels_cannot_be_written_from_outside(pool):
    with pytest.raises(ValueError, match="read-only"):
        pool.labels[0] = 1
    pool.labeled[:] = 0
    assert pool.labels.tolist() == [-1, 2, -1, -1, 0, -1]


def test_pool_keeps_its_own_labels(x):
    pool, labels = Pool(Inputs(x[:6]), 3), np.array([2, 0, 1, 1, 0, 2])
    pool.label(np.arange(6), labels)
    labels[:] = 1
    assert pool.labels.tolist() == [2, 0, 1, 1, 0, 2]


def test_pool_holds_no_label_that_it_was_not_given(pool):
    assert vars(pool).keys() == {"inputs", "n_classes", "_labels"}
    assert vars(pool.inputs).keys() == {"x", "idxs"}
