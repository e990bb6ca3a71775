"""Folders of images, good and bad; the cache; the named datasets; the Pool."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

import data
from data import Images, Pool, load
from utils import UserError, lock_file

ROOT = Path(data.__file__).parent
SIDE = 8  # the smallest size allowed: images of it are not resized


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """No test sees the user's cache; nobody cuts the power here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape or (SIDE, SIDE, 3), np.uint8)


def paint(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def folder(root, classes=("ant", "bee", "cat"), n_train=5, n_test=3):
    """A dataset of noise, different in each image. Returns path -> pixels."""
    pixels = {}
    for part, n in (("train", n_train), ("test", n_test)):
        for name in classes:
            for i in range(n):
                path = f"{part}/{name}/{i}.png"
                pixels[path] = noise(len(pixels))
                paint(root / path, pixels[path])
    return pixels


def pixels_of(loaded):
    """Path -> pixels of a loaded dataset."""
    x = [*loaded.train_x.permute(0, 2, 3, 1).numpy(), *loaded.test_x.permute(0, 2, 3, 1).numpy()]
    return dict(zip([*loaded.train_paths, *loaded.test_paths], x, strict=True))


def check(loaded, pixels):
    """What was loaded is what was painted, in order, with the right classes."""
    for part, paths, y in (("train", loaded.train_paths, loaded.train_y), ("test", loaded.test_paths, loaded.test_y)):
        assert paths == sorted(p for p in pixels if p.startswith(part))
        assert [loaded.classes[i] for i in y] == [p.split("/")[1] for p in paths]
    ours = pixels_of(loaded)
    assert ours.keys() == pixels.keys()
    for path, expected in pixels.items():
        assert (ours[path] == expected).all(), path


@pytest.fixture
def beasts(tmp_path):
    """A good dataset under DATA, and what its images show."""
    return tmp_path / "DATA", folder(tmp_path / "DATA" / "Beasts")


# A good folder


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

    expected = data.list_folder(data_dir / "Beasts")
    monkeypatch.setattr(os, "scandir", Shuffled)
    assert [e.name for e in Shuffled(data_dir / "Beasts/train/ant").entries] != [f"{i}.png" for i in range(5)]
    assert data.list_folder(data_dir / "Beasts") == expected
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
    os.mkfifo(root / "train/ant/pipe.png")  # reading either would wait for ever
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


# A folder without train/ and test/


def flat(root, sizes):
    pixels = {}
    for name, n in sizes.items():
        for i in range(n):
            pixels[f"{name}/{i:03d}.png"] = noise(len(pixels))
            paint(root / f"{name}/{i:03d}.png", pixels[f"{name}/{i:03d}.png"])
    return pixels


def test_folder_of_classes_is_split_in_every_class(tmp_path):
    pixels = flat(tmp_path / "Flat", {"ant": 20, "bee": 2, "cat": 13})
    loaded = load("Flat", tmp_path, SIDE)
    assert np.bincount(loaded.test_y).tolist() == [4, 1, 3]  # a fifth, at least one
    assert np.bincount(loaded.train_y).tolist() == [16, 1, 10]
    ours = pixels_of(loaded)
    assert sorted(ours) == sorted(pixels)
    assert all((ours[p] == pixels[p]).all() for p in pixels)
    assert [loaded.classes[i] for i in loaded.test_y] == [p.split("/")[0] for p in loaded.test_paths]


def test_split_is_by_the_hash_of_the_path_alone(tmp_path):
    flat(tmp_path / "Flat", {"ant": 20, "bee": 10})
    ranked = sorted((f"ant/{i:03d}.png" for i in range(20)), key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    loaded = load("Flat", tmp_path, SIDE)
    assert loaded.test_paths[:4] == sorted(ranked[:4])
    assert loaded.train_paths == sorted(loaded.train_paths)


def test_split_moves_little_when_images_are_added(tmp_path):
    flat(tmp_path / "Flat", {"ant": 50, "bee": 50})
    before = set(load("Flat", tmp_path, SIDE).test_paths)
    flat(tmp_path / "Flat", {"ant": 55, "bee": 50})
    after = set(load("Flat", tmp_path, SIDE).test_paths)
    assert len(after) == len(before) + 1
    assert len(before - after) <= 2


# What is wrong with a folder


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


@pytest.mark.parametrize("how", BROKEN)
def test_broken_layout_is_one_clear_line(beasts, how):
    data_dir, _ = beasts
    do, message = BROKEN[how]
    do(data_dir / "Beasts")
    with pytest.raises(UserError, match=message) as e:
        load("Beasts", data_dir, SIDE)
    assert "\n" not in str(e.value)
    assert not (data_dir / ".cache").exists()


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


# Unreadable images


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


def test_image_that_has_become_readable_is_read(beasts, monkeypatch):
    data_dir, pixels = beasts
    decode = data.decode

    def denied(path, img_size):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied", str(path))
        return decode(path, img_size)

    with monkeypatch.context() as patch:
        patch.setattr(data, "decode", denied)
        with pytest.raises(UserError, match=r"train/ant/2\.png: Permission denied"):
            load("Beasts", data_dir, SIDE)
    check(load("Beasts", data_dir, SIDE), pixels)  # neither size nor time has changed


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ZeroDivisionError, Image.DecompressionBombError])
def test_whatever_pillow_raises_names_the_image(beasts, monkeypatch, error):
    def fail(*_):
        raise error("what is wrong")

    monkeypatch.setattr(data, "to_square", fail)
    with pytest.raises(UserError, match=r"24 unreadable images .*\n.*train/ant/0\.png: what is wrong\n"):
        load("Beasts", beasts[0], SIDE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_random_damage_raises_nothing_but_unreadable(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    rng = random.Random(kind)
    path = tmp_path / "a"
    Image.fromarray(noise(0, 24, 20, 3)).save(path, kind)
    whole = path.read_bytes()
    n_raised = 0
    for _ in range(60):
        content = bytearray(whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice((1, 4, 16)) if content else 0):
            content[min(int(rng.expovariate(1 / 60)), len(content) - 1)] = rng.randrange(256)
        path.write_bytes(content)
        try:
            assert data.decode(path, SIDE).shape == (SIDE, SIDE, 3)
        except data.UNREADABLE:
            n_raised += 1
    assert n_raised


@pytest.mark.parametrize(("side", "message"), [(14_000, "truncated"), (33_000, "exceeds limit of 1073741824 pixels")])
def test_header_that_claims_more_than_a_gigapixel_is_not_believed(tmp_path, side, message):
    """Pillow's own limit of 179 million is too low for stitched photographs; none would fill the memory."""
    header = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += side.to_bytes(4, "little") * 2 + b"\x01\0\x08\0" + bytes(24)
    (tmp_path / "a.bmp").write_bytes(header)
    with pytest.raises(data.UNREADABLE, match=message):
        data.decode(tmp_path / "a.bmp", SIDE)


# One image: what each format shows, worked out without Pillow's conversions


def shown(path, side=SIDE):
    x = data.decode(path, side)
    assert x.shape == (side, side, 3)
    assert x.dtype == np.uint8
    return x


GREY = noise(1, SIDE, SIDE)


def grey3(x):
    return np.repeat(x[:, :, None], 3, 2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "jp2"])
def test_rgb_is_itself(tmp_path, suffix):
    how = {"webp": {"lossless": True}, "jp2": {"irreversible": False}}.get(suffix, {})
    paint(tmp_path / f"a.{suffix}", noise(0), **how)
    assert (shown(tmp_path / f"a.{suffix}") == noise(0)).all()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "pgm", "gif"])
def test_grey_is_the_same_in_all_channels(tmp_path, suffix):
    paint(tmp_path / f"a.{suffix}", GREY)
    assert (shown(tmp_path / f"a.{suffix}") == grey3(GREY)).all()


def test_transparency_is_dropped(tmp_path):
    rgba = noise(2, SIDE, SIDE, 4)
    paint(tmp_path / "rgba.png", rgba)
    assert (shown(tmp_path / "rgba.png") == rgba[:, :, :3]).all()
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(noise(3, SIDE, SIDE))]).save(tmp_path / "la.png")
    assert (shown(tmp_path / "la.png") == grey3(GREY)).all()


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 240, 16))])
def test_palette_is_looked_up(tmp_path, transparency):
    palette, index = noise(4, 16, 3), noise(5, SIDE, SIDE) % 16
    image = Image.frombytes("P", (SIDE, SIDE), index.tobytes())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert (shown(tmp_path / "a.png") == palette[index]).all()


def test_cmyk_is_ink_on_white(tmp_path):
    cmyk = noise(6, SIDE, SIDE, 4)
    Image.frombytes("CMYK", (SIDE, SIDE), cmyk.tobytes()).save(tmp_path / "a.tif")
    ink = 255.0 - cmyk
    expected = ink[:, :, :3] * ink[:, :, 3:] / 255
    assert np.abs(shown(tmp_path / "a.tif") - expected).max() <= 1
    flat_ink = np.broadcast_to(np.array([0, 255, 255, 40], np.uint8), (64, 64, 4))
    Image.frombytes("CMYK", (64, 64), flat_ink.tobytes()).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(shown(tmp_path / "a.jpg").astype(int) - [215, 0, 0]).max() <= 4


def test_one_bit_is_black_and_white(tmp_path):
    bits = GREY > 127
    for suffix in ("png", "tif", "pbm"):
        paint(tmp_path / f"a.{suffix}", bits)
        assert (shown(tmp_path / f"a.{suffix}") == grey3(bits * np.uint8(255))).all(), suffix


DEEP = np.random.default_rng(7).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
DEEP[0, :6] = [0, 128, 129, 65406, 65407, 65535]


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "32-bit tif", "pgm"])
def test_sixteen_bits_become_eight_by_rounding(tmp_path, kind):
    image = Image.fromarray(DEEP)
    if kind == "big-endian tif":
        image = Image.frombytes("I;16B", (SIDE, SIDE), DEEP.astype(">u2").tobytes())
    if kind == "32-bit tif":
        image = Image.fromarray(DEEP.astype(np.int32))
    path = tmp_path / f"a.{kind[-3:]}"
    image.save(path)
    assert (shown(path) == grey3(np.rint(DEEP / 257).astype(np.uint8))).all()


def test_float_is_scaled_from_one_or_taken_as_it_is(tmp_path):
    x = np.random.default_rng(8).random((SIDE, SIDE)).astype(np.float32)
    x[0, :3] = [0, 1, np.nan]
    paint(tmp_path / "unit.tif", x)
    assert (shown(tmp_path / "unit.tif") == grey3(np.rint(np.nan_to_num(x) * 255).astype(np.uint8))).all()
    x = x * 300 - 20
    paint(tmp_path / "bytes.tif", x)
    assert (shown(tmp_path / "bytes.tif") == grey3(np.rint(np.nan_to_num(x).clip(0, 255)).astype(np.uint8))).all()


def test_animation_shows_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((SIDE, SIDE), v, np.uint8)) for v in (200, 10, 90)]
    for suffix in ("gif", "png", "webp", "tif"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert np.abs(shown(tmp_path / f"a.{suffix}").astype(int) - 200).max() <= 1, suffix


# EXIF 2.3, tag 274: how the stored rows and columns must be turned to be upright.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_exif_rotation_is_undone(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    blocks = noise(9, 2, 2, 3) if suffix != "jpg" else np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [0, 0, 0]]])
    stored = blocks.astype(np.uint8).repeat(4, 0).repeat(4, 1)
    how = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    paint(tmp_path / f"a.{suffix}", stored, exif=exif, **how)
    expected = UPRIGHT[orientation](stored).astype(int)
    assert np.abs(shown(tmp_path / f"a.{suffix}") - expected).max() <= (8 if suffix == "jpg" else 0)


def test_exif_rotation_is_undone_in_sixteen_bits_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    paint(tmp_path / "a.png", DEEP, exif=exif)
    assert (shown(tmp_path / "a.png") == np.rot90(grey3(np.rint(DEEP / 257).astype(np.uint8)), -1)).all()


def resized(x, side):
    """Bilinear with antialiasing along the first axis: a triangle as wide as one new pixel, or one old one."""
    scale = len(x) / side
    width = max(scale, 1)
    rows = []
    for i in range(side):
        distance = np.abs(np.arange(len(x)) + 0.5 - (i + 0.5) * scale) / width
        weights = np.maximum(1 - distance, 0)
        rows.append(np.tensordot(weights / weights.sum(), x.astype(float), 1))
    return np.stack(rows)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 13), (5, 31), (1, 1), (8, 9)])
def test_other_sizes_are_squashed_with_antialiasing(tmp_path, height, width):
    x = noise(10, height, width, 3)
    paint(tmp_path / "a.png", x)
    expected = resized(resized(x, SIDE).swapaxes(0, 1), SIDE).swapaxes(0, 1)
    assert np.abs(shown(tmp_path / "a.png") - expected).max() <= 1.01


def test_large_photograph_looks_the_same_drafted_as_in_full(tmp_path):
    y, x = np.mgrid[:600, :800]
    photo = np.stack([x * 255 // 800, y * 255 // 600, (x + y) % 400 * 255 // 400], 2).astype(np.uint8)
    paint(tmp_path / "a.jpg", photo, quality=95)
    paint(tmp_path / "a.png", photo)
    assert np.abs(shown(tmp_path / "a.jpg", 32).astype(int) - shown(tmp_path / "a.png", 32)).mean() < 3


# The cache


def count_decodes(monkeypatch):
    decode, paths = data.decode, []

    def counted(path, img_size):
        paths.append(path)
        return decode(path, img_size)

    monkeypatch.setattr(data, "decode", counted)
    return paths


def cache_files(data_dir):
    return {p.name for p in (data_dir / ".cache").iterdir()}


def test_second_start_decodes_nothing(beasts, monkeypatch):
    data_dir, pixels = beasts
    first = load("Beasts", data_dir, SIDE)
    decoded = count_decodes(monkeypatch)
    second = load("Beasts", data_dir, SIDE)
    check(second, pixels)
    assert decoded == []
    assert (second.mean == first.mean).all()
    assert (second.std == first.std).all()
    assert second.digest == first.digest


def test_pixels_can_be_changed_by_the_reader_without_spoiling_the_cache(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    loaded.train_x.add_(1)
    check(load("Beasts", data_dir, SIDE), pixels)


def change_added(root, pixels):
    pixels["train/bee/new.png"] = noise(77)
    paint(root / "train/bee/new.png", noise(77))


def change_removed(root, pixels):
    del pixels["test/ant/1.png"]
    (root / "test/ant/1.png").unlink()


def change_content(root, pixels):
    """Other pixels in a file of the same size."""
    path = root / "train/ant/0.bmp"
    before = path.stat()
    pixels["train/ant/0.bmp"] = noise(78)
    paint(path, noise(78))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def change_class(root, pixels):
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "zebra")
    for path in [p for p in pixels if "/bee/" in p]:
        pixels[path.replace("bee", "zebra")] = pixels.pop(path)


def change_name(root, pixels):
    """A file keeps its place in the order: nothing changes but its path."""
    (root / "train/ant/4.png").rename(root / "train/ant/9.png")
    pixels["train/ant/9.png"] = pixels.pop("train/ant/4.png")


def change_moved(root, pixels):
    """The same files, two of them in each other's place."""
    a, b, c = (root / f"train/ant/{name}" for name in ("1.png", "2.png", "c.png"))
    for old, new in ((a, c), (b, a), (c, b)):
        old.rename(new)
    pixels["train/ant/1.png"], pixels["train/ant/2.png"] = pixels["train/ant/2.png"], pixels["train/ant/1.png"]


CHANGES = [change_added, change_removed, change_content, change_class, change_name, change_moved]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_folder_is_read_anew(beasts, change):
    data_dir, pixels = beasts
    root = data_dir / "Beasts"
    pixels["train/ant/0.bmp"] = noise(76)
    paint(root / "train/ant/0.bmp", noise(76))
    before = load("Beasts", data_dir, SIDE)
    files = cache_files(data_dir)
    change(root, pixels)
    after = load("Beasts", data_dir, SIDE)
    check(after, pixels)
    assert after.digest != before.digest
    assert len(cache_files(data_dir)) == len(files) == 3  # the old images are gone
    assert cache_files(data_dir) != files


def test_each_image_size_and_each_dataset_has_its_own_cache(beasts, monkeypatch):
    data_dir, pixels = beasts
    others = folder(data_dir / "Beasts-8px-more", classes=("x", "y"))
    load("Beasts", data_dir, SIDE)
    load("Beasts", data_dir, 16)
    load("Beasts-8px-more", data_dir, SIDE)
    load("Beasts", data_dir, SIDE, skip_unreadable=True)
    (data_dir / "Beasts/train/ant/4.png").unlink()
    del pixels["train/ant/4.png"]
    check(load("Beasts", data_dir, SIDE), pixels)  # removes what was cached of it, and nothing else
    decoded = count_decodes(monkeypatch)
    check(load("Beasts-8px-more", data_dir, SIDE), others)
    assert decoded == []


def test_new_pillow_or_rule_reads_anew(beasts, monkeypatch):
    data_dir, _ = beasts
    load("Beasts", data_dir, SIDE)
    decoded = count_decodes(monkeypatch)
    monkeypatch.setattr(data.PIL, "__version__", "99")
    load("Beasts", data_dir, SIDE)
    monkeypatch.setattr(data, "RESIZE_RULE", "another")
    load("Beasts", data_dir, SIDE)
    assert len(decoded) == 48


def spoil_manifest(content):
    def spoil(folder):
        next(folder.glob("*.json")).write_bytes(content)

    return spoil


def spoil_field(name, value):
    def spoil(folder):
        path = next(folder.glob("*.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return spoil


def spoil_images(change):
    def spoil(folder):
        path = next(folder.glob("*.u8"))
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return spoil


SPOILED = {
    "empty manifest": spoil_manifest(b""),
    "manifest of another kind": spoil_manifest(b"[1, 2]"),
    "manifest of no kind": spoil_manifest(b"\xff\xfe\0"),
    "no manifest": lambda folder: next(folder.glob("*.json")).unlink(),
    "another key": spoil_field("key", "0123456789abcdef"),
    "an image too few": spoil_field("unreadable", [[0, "why"]]),
    "unreadable of another kind": spoil_field("unreadable", 5),
    "a mean of nothing": spoil_field("mean", None),
    "a mean too short": spoil_field("mean", [0.5]),
    "a deviation of 0": spoil_field("std", [0.2, 0.0, 0.2]),
    "a deviation of NaN": spoil_field("std", [0.2, float("nan"), 0.2]),
    "a manifest without end": spoil_manifest(b"[" * 200_000),
    "other images": spoil_images(lambda x: x[::-1]),
    "no images": spoil_images(lambda _: None),
    "images cut to nothing": spoil_images(lambda _: b""),
    "images cut by a byte": spoil_images(lambda x: x[:-1]),
    "images cut in half": spoil_images(lambda x: x[: len(x) // 2]),
    "a byte too many": spoil_images(lambda x: x + b"\0"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_damaged_cache_is_built_anew(beasts, how, monkeypatch):
    data_dir, pixels = beasts
    load("Beasts", data_dir, SIDE)
    SPOILED[how](data_dir / ".cache")
    decoded = count_decodes(monkeypatch)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert len(decoded) >= 24
    decoded.clear()
    check(load("Beasts", data_dir, SIDE), pixels)
    assert decoded == []


def test_manifest_cut_at_any_byte_counts_for_nothing(beasts):
    data_dir, _ = beasts
    load("Beasts", data_dir, SIDE)
    manifest = next((data_dir / ".cache").glob("*.json"))
    whole = manifest.read_bytes()
    key = json.loads(whole)["key"]
    assert data._open_cache(data_dir / ".cache", "Beasts-8px", key, 24, SIDE) is not None
    for n in range(len(whole)):
        manifest.write_bytes(whole[:n])
        assert data._open_cache(data_dir / ".cache", "Beasts-8px", key, 24, SIDE) is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_build_that_fails_leaves_nothing_and_the_next_one_works(beasts, monkeypatch, error):
    data_dir, pixels = beasts

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(data, "_close_gaps", fail)
        with pytest.raises((UserError, KeyboardInterrupt)) as e:
            load("Beasts", data_dir, SIDE)
    if isinstance(error, OSError):
        assert "cannot write" in str(e.value)
        assert "No space left on device" in str(e.value)
    assert cache_files(data_dir) == {"Beasts-8px.lock"}
    check(load("Beasts", data_dir, SIDE), pixels)


@pytest.mark.parametrize("writable", [True, False])
def test_data_that_cannot_be_written_is_cached_at_home(beasts, monkeypatch, tmp_path, writable):
    data_dir, pixels = beasts
    if writable:
        access = os.access
        monkeypatch.setattr(os, "access", lambda p, mode: not str(p).startswith(str(data_dir)) and access(p, mode))
    else:
        (data_dir / ".cache").write_text("in the way")
    check(load("Beasts", data_dir, SIDE), pixels)
    assert len(list((tmp_path / "home/dalmax").iterdir())) == 3
    decoded = count_decodes(monkeypatch)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert decoded == []


def test_no_folder_for_the_cache_is_told(beasts, monkeypatch, tmp_path):
    (beasts[0] / ".cache").write_text("in the way")
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(UserError, match=r"no folder for the image cache can be written: tried .*DATA/\.cache, .*home"):
        load("Beasts", beasts[0], SIDE)


def test_user_without_a_home_has_the_cache_beside_the_data(beasts, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert data._cache_folders(beasts[0]) == [beasts[0] / ".cache"]
    check(load("Beasts", beasts[0], SIDE), beasts[1])


def test_two_starts_at_once_read_every_image_once(beasts, monkeypatch, capsys):
    data_dir, pixels = beasts
    decode, decoded, ready, loaded = data.decode, [], threading.Barrier(2, timeout=20), []

    def slow(path, img_size):
        decoded.append(path)
        time.sleep(0.01)
        return decode(path, img_size)

    listed = data._first_writable

    def together(folders):
        ready.wait()
        return listed(folders)

    monkeypatch.setattr(data, "decode", slow)
    monkeypatch.setattr(data, "_first_writable", together)
    threads = [threading.Thread(target=lambda: loaded.append(load("Beasts", data_dir, SIDE))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(decoded) == 24
    assert len(loaded) == 2
    for one in loaded:
        check(one, pixels)
    assert "another process is reading" in capsys.readouterr().err
    assert len(cache_files(data_dir)) == 3


def many(root, n=1100):
    """A dataset that is large enough for a pool of processes: links to few files."""
    pixels = folder(root, n_train=7)
    for i in range(n):
        source = f"train/bee/{i % 7}.png"
        os.link(root / source, root / f"train/bee/x{i:04d}.png")
        pixels[f"train/bee/x{i:04d}.png"] = pixels[source]
    return pixels


def test_pool_of_processes_reads_what_one_process_reads(tmp_path, monkeypatch):
    pixels = many(tmp_path / "Many")
    bad = ["train/ant/0.png", "train/bee/x0700.png", "train/bee/x0064.png", "test/cat/2.png"]
    for path in bad:
        (tmp_path / "Many" / path).unlink()
        (tmp_path / "Many" / path).write_text("no image")
    decode = data.decode

    def first_last(path, img_size):
        if path.name == "0.png" and path.parts[-3:-1] == ("train", "ant"):
            time.sleep(0.5)  # the other process is done with the rest by then
        return decode(path, img_size)

    monkeypatch.setattr(data, "decode", first_last)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(UserError, match="4 unreadable images") as e:
        load("Many", tmp_path, SIDE)
    expected = sorted(bad, key=lambda p: (p.startswith("test"), p))
    assert [line.split("/Many/")[1].split(":")[0] for line in str(e.value).split("\n")[1:]] == expected
    loaded = load("Many", tmp_path, SIDE, skip_unreadable=True)
    assert loaded.unreadable == expected
    check(loaded, {p: x for p, x in pixels.items() if p not in bad})


def test_killed_worker_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    many(tmp_path / "Many")
    monkeypatch.setattr(data, "decode", lambda *_: os._exit(1))
    with pytest.raises(UserError, match="was killed; is the memory full"):
        load("Many", tmp_path, SIDE)
    assert cache_files(tmp_path) == {"Many-8px.lock"}


BUILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import data
decode = data.decode
def slow(path, img_size):
    time.sleep(0.02)
    return decode(path, img_size)
data.decode = slow
print("starts", flush=True)
data.load("Many", sys.argv[2], 8)
"""


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes in /proc")
def test_build_killed_leaves_no_processes_and_the_next_start_works(tmp_path):
    pixels = many(tmp_path / "Many")
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"starts\n"
        end = time.monotonic() + 30
        while not list((tmp_path / ".cache").glob("*.tmp")) or not children(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        workers = children(process.pid)
        assert lock_file(tmp_path / ".cache/Many-8px.lock", wait=False) is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert list((tmp_path / ".cache").glob("*.tmp"))
    check(load("Many", tmp_path, SIDE), pixels)
    assert {p.rpartition(".")[2] for p in cache_files(tmp_path)} == {"lock", "json", "u8"}


# Arithmetic on all pixels


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


# CIFAR-10 and the digits


@pytest.mark.parametrize("name", ["DATA_CIFAR10", "CIFAR10"])
def test_cifar10_is_read_from_either_folder(tmp_path, name):
    pixels = folder(tmp_path / name)
    check(load("CIFAR10", tmp_path, SIDE), pixels)


def test_users_cifar10_comes_before_a_downloaded_one(tmp_path):
    folder(tmp_path / "CIFAR10", classes=("a", "b"))
    folder(tmp_path / "DATA_CIFAR10", classes=("c", "d"))
    assert load("CIFAR10", tmp_path, SIDE).classes == ["c", "d"]
    assert data.folder_of("CIFAR10", tmp_path) == tmp_path / "DATA_CIFAR10"


def test_the_folder_of_a_dataset_is_the_one_that_is_read(tmp_path):
    folder(tmp_path / "weeds", classes=("a", "b"))
    folder(tmp_path / "DATA_weeds", classes=("c", "d"))
    assert load("weeds", tmp_path, SIDE).classes == ["a", "b"]
    assert data.folder_of("weeds", tmp_path) == tmp_path / "weeds"
    assert data.folder_of("none", tmp_path) is None


class FakeCIFAR10:
    """torchvision's dataset as it looks from outside: two files in the root, arrays, targets, class names."""

    classes = ("plane", "car", "bird")

    def __init__(self, root, train, download):
        assert download
        root = Path(root)
        (root / "cifar-10-batches-py").mkdir(parents=True, exist_ok=True)
        (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
        (root / "cifar-10-python.tar.gz").write_bytes(b"x")
        n = 30 if train else 12
        self.data = noise(n, n, SIDE, SIDE, 3)
        self.targets = [i * 7 % 3 for i in range(n)]


def test_cifar10_is_downloaded_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    loaded = load("CIFAR10", tmp_path / "DATA", SIDE)
    assert "downloading it into" in capsys.readouterr().err
    assert loaded.classes == ["bird", "car", "plane"]
    pixels = {}
    for part in ("train", "test"):
        source = FakeCIFAR10(tmp_path, part == "train", True)
        for i, y in enumerate(source.targets):
            pixels[f"{part}/{FakeCIFAR10.classes[y]}/{i:05d}.png"] = source.data[i]
    check(loaded, pixels)
    assert {p.name for p in (tmp_path / "DATA").iterdir()} == {".cache", "CIFAR10"}
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)
    assert load("CIFAR10", tmp_path / "DATA", SIDE).digest == loaded.digest


def fail_at_once(root, train, download):
    raise OSError("<urlopen error no route to host>")


def fail_half_way(root, train, download):
    Path(root).mkdir(exist_ok=True)
    (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"half")
    raise RuntimeError("File not found or corrupted.")


def fail_in_the_answer(root, train, download):
    raise data.http.client.IncompleteRead(b"half")


def fail_in_the_test_part(root, train, download):
    if not train:
        raise OSError(28, "No space left on device")
    return FakeCIFAR10(root, train, download)


def interrupted(root, train, download):
    fail_in_the_test_part(root, True, download)
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [fail_at_once, fail_half_way, fail_in_the_answer, fail_in_the_test_part, interrupted])
def test_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, fail):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as e:
        load("CIFAR10", tmp_path / "DATA", SIDE)
    if fail is not interrupted:
        assert "CIFAR-10 could not be downloaded (" in str(e.value)
        assert "place its images as" in str(e.value)
        assert "DATA_CIFAR10/train/<class>/*" in str(e.value)
    assert [p.name for p in (tmp_path / "DATA").rglob("*")] == [".cache", "CIFAR10.lock"]
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    assert len(load("CIFAR10", tmp_path / "DATA", SIDE).train_y) == 30


def test_what_torchvision_had_downloaded_before_stays(tmp_path, monkeypatch):
    FakeCIFAR10(tmp_path, True, True)
    (tmp_path / ".CIFAR10.1.tmp/train").mkdir(parents=True)  # of a process that was killed
    for make in (fail_half_way, FakeCIFAR10):
        monkeypatch.setattr(torchvision.datasets, "CIFAR10", make)
        with contextlib.suppress(UserError):
            load("CIFAR10", tmp_path, SIDE)
        assert (tmp_path / "cifar-10-python.tar.gz").exists()
        assert (tmp_path / "cifar-10-batches-py/data_batch_1").exists()
    assert {p.name for p in tmp_path.glob("[!c]*")} == {".cache", "CIFAR10"}


def test_download_by_another_process_is_waited_for_and_used(tmp_path, monkeypatch):
    lock_folder = tmp_path / ".cache"
    lock_folder.mkdir()
    lock = lock_file(lock_folder / "CIFAR10.lock", wait=False)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)  # a second download would fail
    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(load("CIFAR10", tmp_path, SIDE)))
    thread.start()
    time.sleep(0.1)
    pixels = folder(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "CIFAR10")
    lock.close()
    thread.join(20)
    check(loaded[0], pixels)


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


# Images and Pool


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


@pytest.mark.parametrize("place", ["train", "test", "."])
def test_a_link_to_a_class_that_is_not_there_is_no_missing_class(beasts, place):
    data_dir, _ = beasts
    (data_dir / "Beasts" / place / "yak").symlink_to("/unmounted/yak")
    with pytest.raises(UserError, match="yak is a link to /unmounted/yak, which is not there"):
        load("Beasts", data_dir, SIDE)


def test_lost_links_beside_a_dataset_and_files_of_notes_do_not_matter(beasts):
    data_dir, pixels = beasts
    (data_dir / "Other").symlink_to("/unmounted/other")
    (data_dir / "Beasts" / "notes.txt").symlink_to("/unmounted/notes.txt")
    check(load("Beasts", data_dir, SIDE), pixels)
