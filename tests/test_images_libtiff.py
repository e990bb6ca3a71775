"""What libtiff prints by itself does not reach the user, and all else does."""

import os
import subprocess
import sys
import threading

import pytest
from image_folders import SIDE, noise
from PIL import Image, features

from images.decoding import try_decode
from images.libtiff import quiet_libtiff

pytestmark = pytest.mark.skipif(not features.check("libtiff"), reason="this Pillow has no libtiff")


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(noise(0, 40, 40, 3)).save(path, compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    for i in range(40, 60):  # of the compressed pixels
        content[i] ^= 0xFF
    path.write_bytes(content)
    return path


def test_a_damaged_tiff_is_unreadable_without_a_word_on_stderr(damaged, capfd):
    with Image.open(damaged) as image, pytest.raises(OSError, match="decoder error"):
        image.load()
    assert "ZIPDecode" in capfd.readouterr().err  # or the test could not fail
    n_open = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(3):
        assert "decoder error" in try_decode(damaged, SIDE)
    assert capfd.readouterr().err == ""
    assert not n_open or len(os.listdir("/proc/self/fd")) == n_open


def test_stderr_is_back_after_an_error(capfd):
    def print_and_fail():
        os.write(2, b"hidden\n")
        raise ValueError("damage")

    with pytest.raises(ValueError, match="damage"), quiet_libtiff():
        print_and_fail()
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_threads_leave_the_stderr_of_the_process_alone(capfd):
    def work():
        with quiet_libtiff():
            os.write(2, b"shown\n")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert capfd.readouterr().err == "shown\n"


def test_a_start_on_damaged_tiffs_prints_its_own_lines_alone(damaged, tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "DATA/D" / part / name).mkdir(parents=True)
            (tmp_path / "DATA/D" / part / name / "0.tif").write_bytes(damaged.read_bytes())
    script = "import utils, data, sys; sys.exit(utils.exit_code(lambda: data.load('D', 'DATA', 8) and 0, ''))"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    head, *lines = done.stderr.splitlines()
    assert head.startswith("error: 4 unreadable images")
    assert [line.split(": ")[0] for line in lines] == [
        f"  DATA/D/{p}/{c}/0.tif" for p in ("train", "test") for c in "ab"
    ]
