"""The end of a script, random streams, the device, the environment; and that importing utils costs little."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import utils
from utils import UserError, stream

ROOT = Path(utils.__file__).parent

# The end of a script


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("--lr 0: must be above 0"), 2, "error: --lr 0: must be above 0\n"),
        (PermissionError(13, "Permission denied", "locked/DATA"), 2, "error: locked/DATA: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (MemoryError(), 2, "error: not enough memory\n"),
        (MemoryError("Unable to allocate 3 GiB"), 2, "error: not enough memory (Unable to allocate 3 GiB)\n"),
        (RuntimeError("[x] DefaultCPUAllocator: needs 8 bytes"), 2, "error: not enough memory (needs 8 bytes)\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_failure_outside_the_program_is_one_line(capsys, monkeypatch, error, code, message):
    monkeypatch.setattr(utils, "discard_buffered_output", lambda: None)
    assert utils.exit_code(lambda: fail(error), "stopped") == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        utils.exit_code(lambda: fail(error), "stopped")


@pytest.mark.parametrize("lines", ["['x' * 5]", "['x' * 10**6]", "['x' * 99] * 10**4"])  # at the end, or at once
@pytest.mark.parametrize(("shell", "code"), [("| head -c1", 0), ("| true", 0), ("> /dev/full", 2)])
def test_output_that_cannot_be_written_is_no_traceback(shell, code, lines):
    wait = "time.sleep(0.5)" if "true" in shell else "0"  # until the reader has left
    script = f"import sys, time, utils; {wait}; sys.exit(utils.exit_code(lambda: print(*{lines}, sep=chr(10)), ''))"
    command = f'{sys.executable} -c "{script}" {shell}'
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# Names in a terminal

EVIL = "a\x1b[2J\nerror: b\r\u2028\x9b1m\u202e\x7f\té"
HARMLESS = r"a\x1b[2J\nerror: b\r\u2028\x9b1m\u202e\x7f\té"


def test_names_end_no_line_and_move_no_cursor():
    assert utils.printable(EVIL) == HARMLESS == utils.printable(HARMLESS)
    assert utils.printable("Zoë 猫 \U0001f408") == "Zoë 猫 \U0001f408"


@pytest.mark.parametrize("error", [UserError(f"{EVIL} is missing"), OSError(2, "is missing", EVIL)])
def test_errors_and_notes_show_names_in_one_line(capsys, error):
    utils.exit_code(lambda: fail(error), "")
    utils.warn(EVIL)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {HARMLESS}")
    assert second == f"note: {HARMLESS}"


def test_details_of_an_error_are_a_line_each(capsys):
    utils.exit_code(lambda: fail(UserError("2 images:", EVIL, "b")), "")
    assert capsys.readouterr().err == f"error: 2 images:\n  {HARMLESS}\n  b\n"


def test_wrong_flags_are_shown_in_one_line(capsys):
    with pytest.raises(SystemExit) as e:
        utils.Parser().parse_args([EVIL])
    assert e.value.code == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: {HARMLESS}; see --help\n"


# Randomness


def test_stream_gives_the_same_numbers_for_the_same_keys():
    assert (stream(1, "query", 3).integers(0, 2**62, 100) == stream(1, "query", 3).integers(0, 2**62, 100)).all()


def test_stream_is_the_same_on_every_machine_and_version():
    assert stream(1, "initial").choice(1000, 5, replace=False).tolist() == [975, 359, 720, 602, 86]


def test_streams_of_different_keys_share_no_numbers():
    keys = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1, "a", "1"), (1, "a1"), (1, "a", 1, 0), (11,)]
    drawn = [set(stream(*k).integers(0, 2**62, 200).tolist()) for k in keys]
    assert len(set.union(*drawn)) == 200 * len(keys)


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    x = np.stack([stream(s, "init").standard_normal(2000) for s in range(30)])
    r = np.corrcoef(x)[~np.eye(30, dtype=bool)]
    assert np.abs(r).max() < 5 / math.sqrt(2000)


def test_stream_does_not_see_what_was_drawn_before():
    first = stream(7, "train", 0).random(4)
    torch.manual_seed(3)
    stream(7, "query", 0).random(1000)
    assert (stream(7, "train", 0).random(4) == first).all()


# Device


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cpu:1", "meta", "xpu", "cuda:-1", "cuda:x", "cuda: 0", "hpu:0"])
def test_device_of_another_kind_is_refused_by_name(name):
    with pytest.raises(UserError, match="must be auto, cpu, cuda, cuda:<number> or mps") as e:
        utils.pick_device(name)
    assert f"--device {name}:" in str(e.value)


def test_cpu_is_the_cpu():
    assert utils.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("there", "picked"), [(True, "cuda:0"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, there, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert utils.pick_device("auto") == torch.device(picked)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--device cuda:1: .* sees no CUDA device here; use --device cpu"):
        utils.pick_device("cuda:1")


def test_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert utils.pick_device("cuda:1") == torch.device("cuda:1")
    assert utils.pick_device("cuda") == torch.device("cuda:0")
    with pytest.raises(UserError, match="there are 2 CUDA devices, cuda:0 to cuda:1"):
        utils.pick_device("cuda:2")


def test_mps_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps"):
        utils.pick_device("mps")


def test_environment_names_versions_and_device():
    found = utils.environment(torch.device("cpu"))
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["device"] == "cpu"
    assert None not in found.values()
    assert json.loads(json.dumps(found)) == found


def test_environment_tells_the_cpu_and_whether_bfloat16_is_used(monkeypatch):
    found = utils.environment(torch.device("cpu"))
    assert found["cpu"] == utils.cpu_model() != ""
    assert found["threads"] == torch.get_num_threads()
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False)
        assert utils.has_fast_bf16(torch.device("cpu")) is fast
        assert utils.environment(torch.device("cpu"))["bfloat16"] is fast


def test_the_cpu_has_a_name_where_the_system_tells_none(monkeypatch):
    for content in ("processor : 0\nCPU part : 0xd40\n", None):

        def read(*_, content=content):
            if content is None:
                raise FileNotFoundError
            return content

        monkeypatch.setattr(Path, "read_text", read)
        monkeypatch.setattr(utils.platform, "processor", lambda: "")
        assert utils.cpu_model() == utils.platform.machine()


def test_package_under_another_name_is_unknown():
    assert utils.package_version("no-such-package-here") == "unknown"


def git(folder, *words):
    who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", folder, *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_is_the_whole_hash_and_marks_changed_files(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    assert utils.git_commit() == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "utils.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "m")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")  # a tag can move, the hash cannot
    assert utils.git_commit() == git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "utils.py").write_text("2")
    assert utils.git_commit() == git(tmp_path, "rev-parse", "HEAD") + "+dirty"


# Importing


def test_importing_utils_imports_no_torch():
    script = "import sys, utils; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# People


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 seconds"), (89.4, "89 seconds"), (90, "1.5 minutes"), (5399, "90.0 minutes"),
                          (5400, "1.5 hours"), (90000, "25.0 hours")]
)  # fmt: skip
def test_duration_has_a_fitting_unit(seconds, text):
    assert utils.duration(seconds) == text


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert utils.n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert utils.n_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert utils.n_cores() == 1
