"""Pictures in reports: results of others may name any path, and a report must not show what lies elsewhere."""

import os

import pytest
from image_folders import noise, paint

from report.pictures import MAX_SIDE, MIN_SIDE, image_reader, jpeg_of


@pytest.fixture
def data_dir(tmp_path):
    """One data set, and images beside it, above it, hidden in it and linked from it."""
    paint(tmp_path / "DATA/Beasts/train/ant/0.png", noise(0))
    paint(tmp_path / "DATA/Beasts/.hidden/0.png", noise(0))
    paint(tmp_path / "DATA/Other/secret.png", noise(1))
    paint(tmp_path / "secret.png", noise(2))
    paint(tmp_path / "disk/cat/0.png", noise(3))
    (tmp_path / "DATA/Beasts/train/cat").symlink_to(tmp_path / "disk/cat")
    (tmp_path / "DATA/Linked").symlink_to(tmp_path / "DATA/Beasts")
    os.mkfifo(tmp_path / "DATA/Beasts/train/ant/pipe.png")
    return tmp_path / "DATA"


def picture(data_dir, name, path):
    read_image = image_reader({"dataset_name": name}, data_dir)
    return read_image and jpeg_of(path, read_image)


@pytest.mark.parametrize("path", ["train/ant/0.png", "train/cat/0.png"])
@pytest.mark.parametrize("name", ["Beasts", "Linked"])
def test_images_of_the_data_set_are_shown_through_links_of_its_folders_too(data_dir, name, path):
    assert picture(data_dir, name, path).startswith(b"\xff\xd8")


PATHS = ["../../secret.png", "../Other/secret.png", "train/../../Other/secret.png", "{top}/secret.png", ".hidden/0.png"]
PATHS += [
    "train/ant/pipe.png",
    "train/ant",
    "",
    ".",
    "..",
    "/",
    "train//ant/0.png",
    "train/ant/0.png/",
    "a\0b",
    "x" * 5000,
]


@pytest.mark.parametrize("path", PATHS)
def test_no_other_file_is_shown(data_dir, path):
    assert picture(data_dir, "Beasts", path.format(top=data_dir.parent)) is None


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../DATA/Beasts", "{top}/DATA/Beasts", "Beasts/train", ".hidden", "a\0b"]
)
def test_a_name_that_is_a_path_is_no_data_set(data_dir, name):
    assert image_reader({"dataset_name": name.format(top=data_dir.parent)}, data_dir) is None


def test_pictures_of_digits_are_found_by_name_alone(tmp_path):
    read_image = image_reader({"dataset_name": "Digits", "img_size": 10**400}, tmp_path)
    assert read_image("3/0003").shape == (MAX_SIDE, MAX_SIDE, 3)
    assert jpeg_of("../../secret.png", read_image) is None
    assert image_reader({"dataset_name": "Digits", "img_size": -1}, tmp_path)("3/0003").shape[0] == MIN_SIDE
