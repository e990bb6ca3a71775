"""The middle squares of images (--resize crop)."""

import json
import zlib

import numpy as np
import pytest
from experiments import Runner
from image_folders import folder, noise, paint
from PIL import Image

from images import cache
from images.listing import list_folder

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def wide(tmp_path):
    """A data set of images of 44 x 20 pixels."""
    root = tmp_path / "DATA" / "Wide"
    folder(root)
    for path in root.rglob("*.png"):
        paint(path, noise(zlib.crc32(str(path.relative_to(root)).encode()), 20, 44, 3))
    return root


def test_middle_squares_are_cached_beside_squashed_images(wide, tmp_path):
    listing = list_folder(wide)
    squashed, middles = (cache.cached_images(wide, listing, tmp_path / "DATA", 20, crop) for crop in (False, True))
    assert squashed.digest != middles.digest
    for i, file in enumerate(listing.files):
        with Image.open(wide / file.path) as image:
            pixels = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(middles.x[i], pixels[:, 12:32])
        assert not np.array_equal(squashed.x[i], middles.x[i])
    names = {p.name for p in (tmp_path / "DATA" / ".cache").glob("*.json")}
    assert {"Wide-20px.json", "Wide-20px-crop.json"} <= names


def test_a_run_on_middle_squares_is_another_run(wide, tmp_path):
    run = Runner(tmp_path / "DATA", tmp_path)
    configs = {}
    for resize in ("squash", "crop"):
        code, where = run(resize, dataset_name="Wide", n_init_labeled=6, n_query=2, n_round=0, resize=resize)
        assert code == 0
        configs[resize] = json.loads((where / "config.json").read_text())
    assert "resize" not in configs["squash"]
    assert configs["crop"]["resize"] == "crop"
    assert configs["squash"]["data_digest"] != configs["crop"]["data_digest"]
