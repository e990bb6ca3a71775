"""Files and folders that the listing of a data set leaves out: each is counted, in one note at every start."""

import os
import socket

import pytest
from image_folders import SIDE, check, flat, folder, noise, paint

from data import load
from images.listing import MOST_KINDS, PassedOver, list_folder
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def hostile(root):
    """Good images under other names, and things that are no images. Returns how many of each kind there are."""
    for name in ("p.heic", "q.HEIC", "p.raw", "p.jpg.1", "p.v2", "p.jpg ", "p."):
        paint(root / "train/ant" / name, noise(1), format="JPEG")
    (root / "test/bee/damaged").write_bytes(b"\xff\xd8\xff\xe0 no more")
    os.mkfifo(root / "train/bee/pipe.png")
    os.mkfifo(root / "train/pipe")
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(root / "train/cat")  # paths of sockets are short
        s.bind("socket.png")
        os.chdir(here)
    paint(root / "loose.png", noise(2))
    paint(root / "train/loose.png", noise(2))
    paint(root / "val/ant/0.png", noise(3))
    (root / "val/readme.txt").write_text("text")
    (root / "test/labels.csv").write_text("text")
    for hidden in (".DS_Store", "train/.hidden", "train/ant/.p.heic"):
        (root / hidden).write_text("hidden")
    (root / ".git").mkdir()
    for extra in ("valid", "extra"):
        paint(root / extra / "ant/0.png", noise(4))
    return {".heic": 2, ".raw": 1, ".1": 1, ".v2": 1, "'.jpg '": 1, "'.'": 1} | {
        "without suffix and no image": 1,
        "no regular file": 3,
        "beside the class folders": 4,
    }


def test_every_file_that_is_left_out_is_counted_by_kind(beasts):
    root = beasts[0] / "Beasts"
    files = list_folder(root).files
    kinds = hostile(root)
    listing = list_folder(root)
    assert listing.passed_over.files == kinds
    assert listing.passed_over.folders == ["extra", "valid"]
    assert [f for f in listing.files if not f.path.startswith("val/")] == files


def test_the_note_is_printed_once_at_every_start(beasts, capsys):
    data_dir, pixels = beasts
    hostile(data_dir / "Beasts")
    pixels["val/ant/0.png"] = noise(3)
    for _ in range(2):  # the second from the cache
        check(load("Beasts", data_dir, SIDE), pixels)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            f"note: passed over in {data_dir}/Beasts: 15 files (beside the class folders 4, no regular"
        )
        for part in ("'.jpg ' 1", ".heic 2", "extra/, valid/ (only train/, val/ and test/ are used)"):
            assert part in line


def test_a_clean_folder_gives_no_note(beasts, capsys):
    load("Beasts", beasts[0], SIDE)
    assert capsys.readouterr().err == ""
    assert str(list_folder(beasts[0] / "Beasts").passed_over) == ""


def test_without_train_and_test_files_beside_the_classes_are_counted(tmp_path):
    flat(tmp_path / "Flat", {"ant": 3, "bee": 3})
    (tmp_path / "Flat/labels.csv").write_text("text")
    (tmp_path / "Flat/ant/notes.txt").write_text("text")
    assert list_folder(tmp_path / "Flat").passed_over == PassedOver({"beside the class folders": 1, ".txt": 1}, [])


def test_a_class_folder_without_images_says_what_it_holds(beasts):
    root = beasts[0] / "Beasts"
    for path in list((root / "train/bee").iterdir()):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"class folder without images.*; passed over: 5 files \(\.heic 5\)$"):
        list_folder(root)


def test_many_kinds_stay_one_line(tmp_path, capsys):
    folder(tmp_path / "Beasts")
    for i in range(50):
        (tmp_path / f"Beasts/train/ant/a.x{i}").write_text("text")
    (tmp_path / "Beasts/train/ant/a.\x1b[31m\nred").write_text("text")
    load("Beasts", tmp_path, SIDE)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"others {51 - MOST_KINDS})")
    assert len(line) < 300


def test_a_name_without_a_dot_is_no_suffix(beasts):
    """A file named png."""
    (beasts[0] / "Beasts/train/ant/png").write_text("text")
    assert list_folder(beasts[0] / "Beasts").passed_over.files == {"without suffix and no image": 1}


def test_an_image_too_large_to_open_is_listed_though_it_has_no_suffix(beasts):
    """It is reported as unreadable, with its path."""
    header = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += (60_000).to_bytes(4, "little") * 2 + b"\x01\0\x08\0" + bytes(24)
    (beasts[0] / "Beasts/train/ant/large").write_bytes(header)
    assert "train/ant/large" in [f.path for f in list_folder(beasts[0] / "Beasts").files]


def test_an_image_that_is_a_link_to_itself_is_unreadable_and_a_circle_of_folders_is_refused(tmp_path):
    root = tmp_path / "DATA" / "Beasts"
    folder(root)
    (root / "train" / "ant" / "self.png").symlink_to("self.png")
    with pytest.raises(UserError, match=r"(?s)^1 unreadable images .*self\.png: Too many levels of symbolic links"):
        load("Beasts", tmp_path / "DATA", 16)
    assert load("Beasts", tmp_path / "DATA", 16, skip_unreadable=True).unreadable == ["train/ant/self.png"]
    (root / "train" / "ant" / "above").symlink_to("..")
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        load("Beasts", tmp_path / "DATA", 16)
