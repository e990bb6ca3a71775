"""Many images decoded by several processes or threads."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from image_folders import SIDE, cache_files, check, many

import data
from data import load
from files import lock_file
from images import decoding, workers
from utils import UserError

ROOT = Path(data.__file__).parent
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("missing", [None, "fork", "sched_getaffinity"])
def test_workers_read_what_one_process_reads(tmp_path, monkeypatch, missing):
    """Several processes; threads where processes cannot fork; all cores where none are assigned."""
    pixels = many(tmp_path / "Many")
    bad = ["train/ant/0.png", "train/bee/x0700.png", "train/bee/x0064.png", "test/cat/2.png"]
    for path in bad:
        (tmp_path / "Many" / path).unlink()
        (tmp_path / "Many" / path).write_text("no image")
    decode, threads, filters, alone = decoding.decode, set(), set(), []
    filters_before = warnings.filters[:]

    def first_last(path, img_size, *more):
        if threading.current_thread() is threading.main_thread():
            alone.append(path.relative_to(tmp_path / "Many").as_posix())
        else:
            threads.add(threading.current_thread())
            filters.add(warnings.filters[0])
        if path.name == "0.png" and path.parts[-3:-1] == ("train", "ant"):
            time.sleep(0.5)  # the other worker has finished the rest by then
        return decode(path, img_size, *more)

    monkeypatch.setattr(decoding, "decode", first_last)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    if missing:
        monkeypatch.delattr(os, missing)
    with pytest.raises(UserError, match="4 unreadable images") as e:
        load("Many", tmp_path, SIDE)
    if missing == "fork":
        assert len(threads) == 2
        assert filters == {("ignore", None, Warning, None, 0)}
    else:
        assert threads == set()  # other processes decoded
    assert sorted(alone) == sorted(bad)  # tried again, with all the memory
    assert warnings.filters == filters_before
    expected = sorted(bad, key=lambda p: (p.startswith("test"), p))
    assert [line.split("/Many/")[1].split(":")[0] for line in str(e.value).split("\n")[1:]] == expected
    loaded = load("Many", tmp_path, SIDE, skip_unreadable=True)
    assert loaded.unreadable == expected
    check(loaded, {p: x for p, x in pixels.items() if p not in bad})


def test_killed_worker_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    many(tmp_path / "Many")
    monkeypatch.setattr(decoding, "decode", lambda *_: os._exit(1))
    with pytest.raises(UserError, match="was killed; is the memory full"):
        load("Many", tmp_path, SIDE)
    assert cache_files(tmp_path) == {"Many-8px.lock"}


BUILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import data
from images import decoding
decode = decoding.decode
def slow(path, img_size, *more):
    time.sleep(0.02)
    return decode(path, img_size, *more)
decoding.decode = slow
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


def test_few_images_are_decoded_without_workers(beasts, monkeypatch):
    data_dir, pixels = beasts
    monkeypatch.setattr(workers, "workers", None)  # a call would fail
    check(load("Beasts", data_dir, SIDE), pixels)


INTERRUPTED_WHILE_FORKING = """
import os, signal
from images.workers import workers
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    with workers() as executor:
        print(executor.submit(pow, 2, 3).result())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_ctrl_c_while_processes_fork_is_not_lost():
    command = [sys.executable, "-c", INTERRUPTED_WHILE_FORKING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
