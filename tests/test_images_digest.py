"""Statistics and digest of the content, and the digests that are remembered beside the cache."""

import hashlib

import numpy as np
import pytest
from image_folders import SIDE, folder, noise

from data import load


@pytest.mark.parametrize("n", [1, 5, 1024, 2500])
def test_channel_stats_equal_numpy(n):
    x = noise(n, n, 4, 4, 3) // np.array([1, 2, 5], np.uint8)
    mean, std = data.channel_stats(x)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (x / 255).std((0, 1, 2)), rtol=1e-9)


def test_channel_without_contrast_has_a_deviation_that_can_be_divided_by():
    _, std = data.channel_stats(np.full((3, 4, 4, 3), 7, np.uint8))
    assert std == [1 / 255] * 3


def test_statistics_are_those_of_the_training_images(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    train = np.stack([x for p, x in pixels.items() if p.startswith("train")]) / 255
    np.testing.assert_allclose(loaded.mean, train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(loaded.std, train.std((0, 1, 2)), rtol=1e-6)


def test_digest_is_a_hash_of_classes_paths_labels_and_pixels(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    paths = [*loaded.train_paths, *loaded.test_paths]
    labels = [*loaded.train_y, *loaded.test_y]
    plain = b'["ant", "bee", "cat"]'
    plain += b"".join(f"{p}\0{y}\n".encode() for p, y in zip(paths, labels, strict=True))
    plain += b"".join(pixels[p].tobytes() for p in paths)
    assert loaded.digest == hashlib.sha256(plain).hexdigest()[:16]
    assert data.summary(loaded) == {"n_train": 15, "n_test": 9, "n_classes": 3, "data_digest": loaded.digest}


def test_digest_does_not_depend_on_where_and_when_the_files_were_written(tmp_path):
    for name in ("One", "Two"):
        folder(tmp_path / name)
    assert load("One", tmp_path, SIDE).digest == load("Two", tmp_path, SIDE).digest


def test_digest_reads_every_image():
    x = noise(0, 9000, 1, 1, 3)
    one = data.content_digest([], [], x)
    assert one == hashlib.sha256(b"[]" + x.tobytes()).hexdigest()[:16]
    for i in (0, 4095, 4096, 8191, 8192, 8999):
        x[i] ^= 1
        assert data.content_digest([], [], x) != one
        x[i] ^= 1


def test_digest_changes_with_each_part():
    files, x = [data.File("a/0", 0, 1, 1), data.File("b/0", 1, 1, 1)], noise(0, 2, 8, 8, 3)
    others = [
        data.content_digest(["a", "c"], files, x),
        data.content_digest(["a", "b"], [files[0], data.File("b/1", 1, 1, 1)], x),
        data.content_digest(["a", "b"], [files[0], data.File("b/0", 0, 1, 1)], x),
        data.content_digest(["a", "b"], files, x ^ 1),
        data.content_digest(["a", "b"], files, x),
    ]
    assert len(set(others)) == 5
