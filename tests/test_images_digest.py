"""Statistics and digest of the content, and the digests that are remembered beside the cache."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from image_folders import SIDE, cache_files, count_decodes, folder, noise
from PIL import Image

from data import fingerprint, load
from images import cache, decoding
from images.cache import cached_images
from images.content import channel_stats, content_digest
from images.listing import File, list_folder
from images.records import read_record
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("n", [1, 5, 1024, 2500])
def test_channel_stats_equal_numpy(n):
    x = noise(n, n, 4, 4, 3) // np.array([1, 2, 5], np.uint8)
    mean, std = channel_stats(x)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (x / 255).std((0, 1, 2)), rtol=1e-9)


def test_channel_without_contrast_has_a_deviation_that_can_be_divided_by():
    _, std = channel_stats(np.full((3, 4, 4, 3), 7, np.uint8))
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
    paths = [*loaded.train.paths, *loaded.test.paths]
    labels = [*loaded.train.labels, *loaded.test.labels]
    plain = b'["ant", "bee", "cat"]'
    plain += b"".join(f"{p}\0{y}\n".encode() for p, y in zip(paths, labels, strict=True))
    plain += b"".join(pixels[p].tobytes() for p in paths)
    assert loaded.digest == hashlib.sha256(plain).hexdigest()[:16]
    assert fingerprint(loaded) == {"n_train": 15, "n_test": 9, "n_classes": 3, "data_digest": loaded.digest}


def test_digest_does_not_depend_on_where_and_when_the_files_were_written(tmp_path):
    for name in ("One", "Two"):
        folder(tmp_path / name)
    assert load("One", tmp_path, SIDE).digest == load("Two", tmp_path, SIDE).digest


@pytest.mark.parametrize("n", [9000, 8193])
def test_digest_reads_every_image(n):
    x = noise(0, n, 1, 1, 3)
    one = content_digest([], [], x)
    assert one == hashlib.sha256(b"[]" + x.tobytes()).hexdigest()[:16]
    for i in (0, 4095, 4096, 8191, 8192, n - 1):
        x[i] ^= 1
        assert content_digest([], [], x) != one
        assert content_digest([], [], x[:5000], x[5000:]) == content_digest([], [], x)
        x[i] ^= 1


def test_digest_changes_with_each_part():
    files, x = [File("a/0", 0, 1, 1), File("b/0", 1, 1, 1)], noise(0, 2, 8, 8, 3)
    others = [
        content_digest(["a", "c"], files, x),
        content_digest(["a", "b"], [files[0], File("b/1", 1, 1, 1)], x),
        content_digest(["a", "b"], [files[0], File("b/0", 0, 1, 1)], x),
        content_digest(["a", "b"], files, x ^ 1),
        content_digest(["a", "b"], files, x),
    ]
    assert len(set(others)) == 5


# Remembered digests


def count_digests(monkeypatch):
    """A list that grows whenever this process reads all pixels for a digest from now on."""
    computed = []

    def counted(classes, files, *x):
        digest = content_digest(classes, files, *x)
        computed.append(digest)
        return digest

    monkeypatch.setattr(cache, "content_digest", counted)
    return computed


def relabeled(listing, change):
    """A listing of the same files with other labels."""
    splits = {name: [f._replace(label=change(f.label)) for f in files] for name, files in listing.splits.items()}
    return replace(listing, splits=splits)


def image_file(data_dir):
    """What changes when the file of pixels is written: name, inode, time."""
    (path,) = (data_dir / ".cache").glob("*.u8")
    return path, path.stat().st_ino, path.stat().st_mtime_ns


def plain_digest(listing, pixels):
    """The digest of train and test, from what was painted."""
    files = [*listing.splits["train"], *listing.splits["test"]]
    return content_digest(listing.classes, files, np.stack([pixels[f.path] for f in files]))


@pytest.fixture
def first(beasts):
    """Folder of the data sets, the data set's folder, listing, pixels, and the images after a first start."""
    data_dir, pixels = beasts
    root = data_dir / "Beasts"
    listing = list_folder(root)
    return data_dir, root, listing, pixels, cached_images(root, listing, data_dir, SIDE)


def first_relabeled(listing):
    """A listing whose first training image has another label."""
    file, *others = listing.splits["train"]
    return replace(listing, splits={**listing.splits, "train": [file._replace(label=2), *others]})


LABELS = {
    "one label": first_relabeled,
    "all labels": lambda listing: relabeled(listing, lambda label: 2 - label),
    "no labels": lambda listing: relabeled(listing, lambda _: -1),
    "class names": lambda listing: replace(listing, classes=["x", "y", "z"]),
}


@pytest.mark.parametrize("case", LABELS)
def test_other_labels_decode_nothing_and_write_no_pixels(first, monkeypatch, case):
    data_dir, root, listing, pixels, images = first
    changed = LABELS[case](listing)
    written, manifest = image_file(data_dir), (data_dir / ".cache/Beasts-8px.json").read_bytes()
    decoded, computed = count_decodes(monkeypatch), count_digests(monkeypatch)
    for _ in range(2):
        again = cached_images(root, changed, data_dir, SIDE)
        assert again.digest == plain_digest(changed, pixels) != images.digest
        assert (again.x == images.x).all()
        assert again[1:4] == images[1:4]
    assert computed == [again.digest]  # once
    assert cached_images(root, listing, data_dir, SIDE).digest == images.digest
    assert computed == [again.digest]
    assert decoded == []
    assert image_file(data_dir) == written
    assert (data_dir / ".cache/Beasts-8px.json").read_bytes() == manifest
    assert len(cache_files(data_dir)) == 4


def test_digest_is_of_train_and_test_alone(first, tmp_path, monkeypatch):
    """Runs of a folder that had no val/ are found again when it has one."""
    _, _, _, _, without = first
    root = tmp_path / "With"
    pixels = folder(root, n_val=2)
    listing = list_folder(root)
    images = cached_images(root, listing, tmp_path, SIDE)
    assert images.digest == without.digest == plain_digest(listing, pixels)
    assert (images.mean, images.std) == (without.mean, without.std)
    assert [x.tobytes() for x in images.x] == [pixels[f.path].tobytes() for f in listing.files]
    computed = count_digests(monkeypatch)
    val = [f._replace(label=-1) for f in listing.splits["val"]]
    changed = replace(listing, splits={**listing.splits, "val": val})
    assert cached_images(root, changed, tmp_path, SIDE).digest == images.digest
    assert computed == []


def test_digest_leaves_out_unreadable_images_of_every_split(tmp_path):
    pixels = folder(tmp_path / "Beasts", n_val=2)
    bad = ["train/bee/4.png", "val/ant/1.png", "val/cat/0.png", "test/ant/2.png"]
    for path in bad:
        (tmp_path / "Beasts" / path).write_text("no image")
    listing = list_folder(tmp_path / "Beasts")
    images = cached_images(tmp_path / "Beasts", listing, tmp_path, SIDE)
    assert [listing.files[i].path for i, _ in images.unreadable] == bad
    good = {name: [f for f in files if f.path not in bad] for name, files in listing.splits.items()}
    assert images.digest == plain_digest(replace(listing, splits=good), pixels)


def test_other_splits_of_the_same_files_have_other_statistics(first):
    data_dir, root, listing, pixels, images = first
    splits = {"train": listing.files[:10], "test": listing.files[10:]}
    changed = cached_images(root, replace(listing, splits=splits), data_dir, SIDE)
    train = np.stack([pixels[f.path] for f in listing.files[:10]])
    assert (changed.mean, changed.std) == channel_stats(train) != (images.mean, images.std)
    assert changed.digest == images.digest


@pytest.fixture
def coarse_times(monkeypatch):
    """A file system on which all files of pixels have the same time."""
    replace_file = os.replace

    def coarse(source, target):
        replace_file(source, target)
        os.utime(target, ns=(0, 0))

    monkeypatch.setattr(os, "replace", coarse)


def test_digest_follows_an_image_that_has_become_readable(coarse_times, first, monkeypatch):
    """Neither the key nor the labels change then; the pixels do."""
    data_dir, root, listing, pixels, images = first
    decode = decoding.decode

    def denied(path, img_size, *more):
        if path == root / "train/bee/1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return decode(path, img_size, *more)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", denied)
        (data_dir / ".cache/Beasts-8px.json").unlink()
        without = cached_images(root, listing, data_dir, SIDE)
    assert [listing.files[i].path for i, _ in without.unreadable] == ["train/bee/1.png"]
    assert without.digest == plain_digest(listing.without({6}), pixels) != images.digest
    assert cached_images(root, listing, data_dir, SIDE).digest == images.digest


def test_digest_follows_a_changed_file(coarse_times, first):
    data_dir, root, _, pixels, _ = first
    Image.fromarray(noise(101)).save(root / "train/ant/0.png")
    os.utime(root / "train/ant/0.png", ns=(0, 0))
    listing = list_folder(root)
    changed = cached_images(root, listing, data_dir, SIDE)
    assert changed.digest == plain_digest(listing, {**pixels, "train/ant/0.png": noise(101)})


def test_digest_follows_pixels_that_changed_under_the_same_size_and_time(first):
    data_dir, root, listing, pixels, _ = first
    path = root / "train/ant/0.png"
    time = path.stat().st_mtime_ns
    Image.fromarray(noise(77)).save(path)
    assert path.stat().st_size == listing.files[0].size
    os.utime(path, ns=(time, time))
    (data_dir / ".cache/Beasts-8px.json").unlink()  # built again under the same key
    changed = cached_images(root, listing, data_dir, SIDE)
    assert changed.digest == plain_digest(listing, {**pixels, "train/ant/0.png": noise(77)})


def read_only(monkeypatch, *folders):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(folders) and access(path, mode))


def content(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_digest_of_a_colleagues_cache_is_remembered_at_home(first, tmp_path, monkeypatch):
    data_dir, root, listing, pixels, images = first
    read_only(monkeypatch, str(data_dir))
    before = content(data_dir / ".cache")
    computed = count_digests(monkeypatch)
    assert cached_images(root, listing, data_dir, SIDE).digest == images.digest
    assert computed == []
    changed = relabeled(listing, lambda label: 2 - label)
    assert cached_images(root, changed, data_dir, SIDE).digest == plain_digest(changed, pixels)
    monkeypatch.setattr(cache, "alone", None)  # the second start waits for nobody
    assert cached_images(root, changed, data_dir, SIDE).digest == plain_digest(changed, pixels)
    assert len(computed) == 1
    assert content(data_dir / ".cache") == before
    assert "Beasts-8px.digests.json" in {p.name for p in (tmp_path / "home/dalmax").iterdir()}


def test_digest_is_remembered_beside_the_pixels_where_possible(first, tmp_path):
    """Here the pixels were cached at home, while the folder of the data could not be written."""
    data_dir, root, listing, _, _ = first
    (tmp_path / "home").mkdir()
    (data_dir / ".cache").rename(tmp_path / "home/dalmax")
    cached_images(root, relabeled(listing, lambda _: -1), data_dir, SIDE)
    assert not (data_dir / ".cache").exists()


def no_writable_folder(monkeypatch, tmp_path):
    read_only(monkeypatch, str(tmp_path))


def full_disk(monkeypatch, tmp_path):
    def fail(*_):
        raise UserError("cannot write: No space left on device")

    monkeypatch.setattr(cache, "write_record", fail)


def no_lock(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache, "alone", fail)


@pytest.mark.parametrize("trouble", [no_writable_folder, full_disk, no_lock])
def test_digest_that_cannot_be_remembered_is_computed_each_time(first, tmp_path, monkeypatch, trouble):
    data_dir, root, listing, pixels, _ = first
    before = content(data_dir / ".cache")
    changed = relabeled(listing, lambda label: 2 - label)
    trouble(monkeypatch, tmp_path)
    computed = count_digests(monkeypatch)
    for n in (1, 2):
        assert cached_images(root, changed, data_dir, SIDE).digest == plain_digest(changed, pixels)
        assert len(computed) == n
    assert content(data_dir / ".cache") == before


DAMAGED = {
    "nothing": b"",
    "no text": b"\xff\xfe\0",
    "a list": b"[1, 2]",
    "a number": b"5",
    "too deep": b"[" * 200_000,
    "digests of another kind": lambda text: text.replace('": "', '": ["').replace('"}', '"]}'),
    "digests too short": lambda text: text.replace('"}', "").strip()[:-3] + '"}',
    "other names": lambda text: text.replace('{"', '{"x'),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_of_digests_is_replaced(first, monkeypatch, case):
    data_dir, root, listing, _, images = first
    path = data_dir / ".cache/Beasts-8px.digests.json"
    whole = path.read_text()
    damaged = DAMAGED[case] if isinstance(DAMAGED[case], bytes) else DAMAGED[case](whole).encode()
    assert damaged != whole.encode()
    path.write_bytes(damaged)
    computed = count_digests(monkeypatch)
    for _ in range(2):
        assert cached_images(root, listing, data_dir, SIDE).digest == images.digest
    assert len(computed) == 1
    assert set(json.loads(whole).items()) <= set(json.loads(path.read_text()).items())


def test_file_of_digests_cut_at_any_byte_gives_no_wrong_digest(first):
    data_dir, root, listing, _, images = first
    path = data_dir / ".cache/Beasts-8px.digests.json"
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert cached_images(root, listing, data_dir, SIDE).digest == images.digest
        assert path.read_bytes() == whole


def test_only_the_latest_digests_are_remembered(first, monkeypatch):
    data_dir, root, listing, _, _ = first
    computed = count_digests(monkeypatch)
    others = [replace(listing, classes=["ant", "bee", f"cat {i}"]) for i in range(cache.N_DIGESTS)]
    digests = [cached_images(root, other, data_dir, SIDE).digest for other in others]
    assert len(computed) == len(set(digests)) == cache.N_DIGESTS
    assert list(read_record(data_dir / ".cache/Beasts-8px.digests.json").values()) == digests
    assert [cached_images(root, other, data_dir, SIDE).digest for other in others] == digests
    assert len(computed) == cache.N_DIGESTS
    cached_images(root, listing, data_dir, SIDE)
    assert len(computed) == cache.N_DIGESTS + 1
