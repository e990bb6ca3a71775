"""Pipes in the place of files: opening one to read waits for a writer that never comes."""

import os
import signal

import pytest
from fake_results import rising, write_run

import compare
import plot
from files import read_bytes, read_text
from runs.format import CONFIG, CONFUSION, ENVIRONMENT, QUERIES, ROUNDS
from utils import UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")


@pytest.fixture(autouse=True)
def bounded():
    """An error after 20 seconds."""

    def stop(*_):
        raise TimeoutError("waits for ever")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def into_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "file") == read_bytes(tmp_path / "link") == b"content"
    into_pipe(tmp_path / "pipe")
    (tmp_path / "link to pipe").symlink_to("pipe")
    for name in ("pipe", "link to pipe", "/dev/zero"):
        with pytest.raises(UserError, match=r"cannot read .*: not a regular file$"):
            read_text(tmp_path / name)


@pytest.mark.parametrize("name", [CONFIG, ENVIRONMENT, ROUNDS, QUERIES])
def test_reports_name_a_pipe_in_a_run_and_go_on(tmp_path, capsys, name):
    root = tmp_path / "results"
    for seed in (1, 2):
        for strategy in ("RandomSampling", "MarginSampling"):
            folder = write_run(root, strategy, seed, rising(seed), queries=True)
            if strategy == "RandomSampling" and seed == 1:
                into_pipe(folder / name)
                if name == CONFUSION:
                    into_pipe(folder.parent.parent / "MarginSampling" / folder.name / name)
    assert compare.main([str(root), "--out", str(tmp_path / "out")]) == 0
    assert "not a regular file" in "".join(capsys.readouterr())
    code = plot.main([str(root), "--out", str(tmp_path / "plots")])
    assert code == 0 or "not a regular file" in capsys.readouterr().err


def test_a_confusion_matrix_that_is_a_pipe_is_an_error_in_one_line(tmp_path, capsys):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(1), queries=True)
    into_pipe(folder / CONFUSION)
    assert compare.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert plot.main(["--confusion", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: cannot read {folder / CONFUSION}: not a regular file"


def test_a_run_with_a_pipe_is_not_resumed(run, capsys):
    """Its environment.json is no part of the result: it is written anew."""
    code, folder = run(n_round=0)
    assert code == 0
    for name, expected in ((ENVIRONMENT, 0), (ROUNDS, 2), (QUERIES, 2), (CONFIG, 2)):
        content = (folder / name).read_bytes()
        into_pipe(folder / name)
        assert run(n_round=0)[0] == expected, name
        assert "not a regular file" in capsys.readouterr().err or name == ENVIRONMENT
        (folder / name).unlink()
        (folder / name).write_bytes(content)
