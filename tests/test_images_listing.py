"""Folders of images, good and bad: which files, classes and splits they give."""

import hashlib
import os
import random

import numpy as np
import pytest
from image_folders import SIDE, check, flat, folder, noise, paint, pixels_of

from data import load
from images.listing import list_folder
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_order_does_not_depend_on_the_file_system(beasts, monkeypatch):
    data_dir, pixels = beasts
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)
            random.Random(3).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    expected = list_folder(data_dir / "Beasts")
    monkeypatch.setattr(os, "scandir", Shuffled)
    assert [e.name for e in Shuffled(data_dir / "Beasts/train/ant").entries] != [f"{i}.png" for i in range(5)]
    assert list_folder(data_dir / "Beasts") == expected
    check(load("Beasts", data_dir, SIDE), pixels)


def test_hidden_and_other_files_are_neither_classes_nor_images(beasts):
    data_dir, pixels = beasts
    root = data_dir / "Beasts"
    for path in (".DS_Store", "train/.DS_Store", "train/notes.txt", "train/ant/Thumbs.db", "train/ant/._0.png"):
        (root / path).write_bytes(b"\0\1")
    for path in ("train/ant/README", "train/ant/labels.csv", "train/ant/movie.mpg", "train/ant/paper.pdf"):
        (root / path).write_bytes(b"text")
    (root / "train/.hidden/").mkdir()
    paint(root / "train/ant/.thumbs/a.png", noise(0))
    os.mkfifo(root / "train/ant/pipe.png")  # reading either would wait forever
    os.mkfifo(root / "train/ant/pipe")
    check(load("Beasts", data_dir, SIDE), pixels)


def test_images_are_known_by_suffix_in_any_case_or_by_content(beasts):
    data_dir, pixels = beasts
    kinds = {
        "A.PNG": "PNG",
        "b.Bmp": "BMP",
        "c.tiff": "TIFF",
        "none": "PNG",
        "two.dots.webp": "WEBP",
        "d.png.ppm": "PPM",
    }
    for i, (name, kind) in enumerate(kinds.items()):
        pixels[f"train/bee/{name}"] = noise(100 + i)
        paint(data_dir / "Beasts/train/bee" / name, noise(100 + i), format=kind, lossless=True)
    check(load("Beasts", data_dir, SIDE), pixels)


NAMES = ["a b", "com,ma", "new\nline", "carriage\rreturn", 'quo"te', "ünïcödé 日本", "bytes\udcff\udcfe", "%s{0}"]
NAMES += ["[a]*?", "#hash", "'", "back\\slash"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_a_class_or_a_dataset_works(tmp_path, name):
    pixels = folder(tmp_path / name, classes=(name, "zebra"), n_train=2, n_test=1)
    pixels[f"train/zebra/{name}.png"] = noise(99)
    paint(tmp_path / name / f"train/zebra/{name}.png", noise(99))
    for _ in range(2):
        check(load(name, tmp_path, SIDE), pixels)
    (tmp_path / name / "train/zebra/0.png").unlink()
    del pixels["train/zebra/0.png"]
    check(load(name, tmp_path, SIDE), pixels)
    assert len(list((tmp_path / ".cache").glob("*.u8"))) == 1  # the old images are gone


def test_class_without_test_images_leaves_the_others_their_labels(beasts):
    data_dir, pixels = beasts
    (data_dir / "Beasts/test/ant").rename(data_dir / ".ant")
    check(load("Beasts", data_dir, SIDE), {p: x for p, x in pixels.items() if not p.startswith("test/ant")})


def test_splits_are_in_the_order_train_val_test(tmp_path):
    pixels = folder(tmp_path / "Beasts", n_train=3, n_test=2, n_val=4)
    listing = list_folder(tmp_path / "Beasts")
    assert list(listing.splits) == ["train", "val", "test"]
    paths = [p for part in ("train", "val", "test") for p in sorted(pixels) if p.startswith(part)]
    assert [f.path for f in listing.files] == paths
    assert listing.files == [*listing.splits["train"], *listing.splits["val"], *listing.splits["test"]]
    for name, n in (("train", 3), ("val", 4), ("test", 2)):
        assert [f.label for f in listing.splits[name]] == [label for label in range(3) for _ in range(n)]
    loaded = load("Beasts", tmp_path, SIDE)
    assert list(loaded.splits) == ["train", "val", "test"]
    check(loaded, pixels)


def test_folder_without_val_has_no_such_split(beasts):
    data_dir, _ = beasts
    assert list(list_folder(data_dir / "Beasts").splits) == ["train", "test"]
    (data_dir / "Beasts/val").write_text("a file")
    assert list(list_folder(data_dir / "Beasts").splits) == ["train", "test"]


def test_val_may_lack_a_class(tmp_path):
    pixels = folder(tmp_path / "Beasts", n_val=2)
    (tmp_path / "Beasts/val/ant").rename(tmp_path / ".ant")
    loaded = load("Beasts", tmp_path, SIDE)
    check(loaded, {p: x for p, x in pixels.items() if not p.startswith("val/ant")})
    assert loaded.splits["val"].labels.tolist() == [1, 1, 2, 2]


def test_val_among_class_folders_is_a_class(tmp_path):
    flat(tmp_path / "Flat", {"ant": 5, "val": 5})
    listing = list_folder(tmp_path / "Flat")
    assert listing.classes == ["ant", "val"]
    assert list(listing.splits) == ["train", "test"]


def test_files_carry_their_size_and_time(beasts):
    data_dir, _ = beasts
    (data_dir / "Beasts/train/ant/5.png").symlink_to("nowhere")
    *whole, dead = list_folder(data_dir / "Beasts").splits["train"][:6]
    for file in whole:
        stat = (data_dir / "Beasts" / file.path).stat()
        assert (file.size, file.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert dead == ("train/ant/5.png", 0, -1, -1)


def test_links_and_nested_folders_are_followed(beasts, tmp_path):
    data_dir, pixels = beasts
    root = data_dir / "Beasts"
    paint(tmp_path / "elsewhere/x.png", noise(50))
    (root / "train/ant/link.png").symlink_to("0.png")
    (root / "train/bee/deep").symlink_to(tmp_path / "elsewhere")
    paint(root / "train/cat/a/b/c.png", noise(51))
    (data_dir / "Linked").symlink_to(root)
    pixels["train/ant/link.png"] = pixels["train/ant/0.png"]
    pixels["train/bee/deep/x.png"] = noise(50)
    pixels["train/cat/a/b/c.png"] = noise(51)
    check(load("Linked", data_dir, SIDE), pixels)


@pytest.mark.parametrize("place", ["train", "val", "test", "."])
def test_broken_link_to_a_class_is_an_error(beasts, place):
    data_dir, _ = beasts
    paint(data_dir / "Beasts/val/ant/0.png", noise(0))
    (data_dir / "Beasts" / place / "yak").symlink_to("/unmounted/yak")
    with pytest.raises(UserError, match="yak is a link to /unmounted/yak, which does not exist"):
        load("Beasts", data_dir, SIDE)


def test_broken_links_beside_a_data_set_or_to_other_files_do_not_matter(beasts):
    data_dir, pixels = beasts
    (data_dir / "Other").symlink_to("/unmounted/other")
    (data_dir / "Beasts" / "notes.txt").symlink_to("/unmounted/notes.txt")
    check(load("Beasts", data_dir, SIDE), pixels)


def test_folder_of_classes_is_split_in_every_class(tmp_path):
    pixels = flat(tmp_path / "Flat", {"ant": 20, "bee": 2, "cat": 13})
    loaded = load("Flat", tmp_path, SIDE)
    assert list(loaded.splits) == ["train", "test"]
    assert np.bincount(loaded.test.labels).tolist() == [4, 1, 3]  # a fifth, at least one
    assert np.bincount(loaded.train.labels).tolist() == [16, 1, 10]
    found = pixels_of(loaded)
    assert sorted(found) == sorted(pixels)
    assert all((found[p] == pixels[p]).all() for p in pixels)
    for split in loaded.splits.values():
        assert [loaded.classes[i] for i in split.labels] == [p.split("/")[0] for p in split.paths]


def test_split_is_by_the_hash_of_the_path_alone(tmp_path):
    flat(tmp_path / "Flat", {"ant": 20, "bee": 10})
    ranked = sorted((f"ant/{i:03d}.png" for i in range(20)), key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    loaded = load("Flat", tmp_path, SIDE)
    assert loaded.test.paths[:4] == sorted(ranked[:4])
    assert loaded.train.paths == sorted(loaded.train.paths)


def test_split_moves_little_when_images_are_added(tmp_path):
    flat(tmp_path / "Flat", {"ant": 50, "bee": 50})
    before = set(load("Flat", tmp_path, SIDE).test.paths)
    flat(tmp_path / "Flat", {"ant": 55, "bee": 50})
    after = set(load("Flat", tmp_path, SIDE).test.paths)
    assert len(after) == len(before) + 1
    assert len(before - after) <= 2


def break_emptied(root):
    for path in (root / "train/bee").iterdir():
        path.unlink()


def break_test_class(root):
    paint(root / "test/dog/0.png", noise(0))
    paint(root / "test/eel/0.png", noise(0))


def break_only_hidden(root):
    for path in (root / "train/bee").iterdir():
        path.rename(path.with_name("." + path.name))


def remove(root, part):
    (root / part).rename(root.parent / f".{part}")


def single_class(root):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (root / part / name).rename(root.parent / f".{part}{name}")


def empty(root, *parts):
    root.rename(root.parent / ".old")
    for part in parts or (".",):
        (root / part).mkdir(parents=True)


BROKEN = {
    "class without images": (break_emptied, "/train/bee is a class folder without images"),
    "class of hidden files": (break_only_hidden, "/train/bee is a class folder without images"),
    "empty test class": (
        lambda r: [p.unlink() for p in (r / "test/ant").iterdir()],
        "/test/ant is a class folder with",
    ),
    "test classes unknown": (break_test_class, "/test has classes that train does not have: dog, eel"),
    "val class unknown": (
        lambda r: paint(r / "val/dog/0.png", noise(0)),
        "/val has classes that train does not have: dog",
    ),
    "empty val": (lambda r: (r / "val").mkdir(), r"/val has no class folders; expected val/<class>/<image>"),
    "empty val class": (lambda r: (r / "val/bee").mkdir(parents=True), "/val/bee is a class folder without images"),
    "val instead of test": (lambda r: (r / "test").rename(r / "val"), "has no test/ folder; expected train/<class>"),
    "no test": (lambda r: remove(r, "test"), "has no test/ folder; expected train/<class>"),
    "no train": (lambda r: remove(r, "train"), "has no train/ folder; expected train/<class>"),
    "single class": (single_class, "/train has a single class, 'cat'; two or more"),
    "empty folder": (empty, "Beasts has no class folders"),
    "empty parts": (lambda r: empty(r, "train", "test"), "/train has no class folders"),
    "empty test": (lambda r: (remove(r, "test"), (r / "test").mkdir()), "/test has no class folders"),
    "other names": (
        lambda r: ((r / "train").rename(r / "Training"), (r / "test").rename(r / "Valid")),
        "holds Training, Valid; the two parts must be named train and test",
    ),
    "images without classes": (lambda r: (empty(r), paint(r / "0.png", noise(0))), "has no class folders"),
    "class of one": (lambda r: (empty(r), flat(r, {"ant": 5, "bee": 1})), "bee has a single image; two are needed"),
    "loop of links": (lambda r: (r / "train/bee/up").symlink_to(".."), "cannot read .*: Too many levels"),
    "link to itself": (lambda r: (r / "train/bee/x").symlink_to("x"), "cannot read .*: Too many levels"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layout_is_one_clear_line(beasts, case):
    data_dir, _ = beasts
    damage, message = BROKEN[case]
    damage(data_dir / "Beasts")
    with pytest.raises(UserError, match=message) as e:
        load("Beasts", data_dir, SIDE)
    assert "\n" not in str(e.value)
    assert not (data_dir / ".cache").exists()
