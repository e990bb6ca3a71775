"""The first second of a script and its surroundings: Ctrl-C while it imports, closed streams, `python -OO`."""

import startup

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import SMALL, same_run
from fake_results import three_strategies

ROOT = Path(startup.__file__).parent
SCRIPTS = [p.name for p in sorted(ROOT.glob("*.py")) if '__name__ == "__main__"' in p.read_text("utf-8")]
EVERY_SCRIPT = pytest.mark.parametrize("script", SCRIPTS)
RUN = {**SMALL, "dataset_name": "Digits", "img_size": 8, "n_round": 1}
FLAGS = [word for name, value in RUN.items() for word in (f"--{name}", str(value))]


def env(**more):
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return {**inherited, "OMP_NUM_THREADS": "1", **more}


def shell(*words, end="", **more):
    """A command in bash, followed by redirections or a pipe."""
    command = 'set -o pipefail; "$@" ' + end
    words = ["bash", "-c", command, "bash", sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=ROOT, env=env(**more), capture_output=True, text=True, timeout=200, check=False)


# Ctrl-C


@EVERY_SCRIPT
def test_a_script_imports_startup_first(script):
    imports = [
        n for n in ast.parse((ROOT / script).read_text("utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    first = next(n for n in imports if getattr(n, "module", "") != "__future__")
    assert ast.unparse(first) == "import startup"


@pytest.mark.parametrize("slow", ["numpy", "tqdm", "torch"])
@EVERY_SCRIPT
def test_ctrl_c_while_a_script_imports_is_one_line(script, slow, tmp_path):
    (tmp_path / f"{slow}.py").write_text("import time; print('importing', flush=True); time.sleep(100)")
    command = [sys.executable, script, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env(PYTHONPATH=str(tmp_path)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        if process.stdout.readline():  # compare.py and plot.py import no torch
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (130, "interrupted\n")
        else:
            assert slow != "numpy"
    finally:
        process.kill()
        process.communicate()


INTERRUPTED = """
import os, signal, startup, sys
sys.modules["__main__"].__file__ = startup.__file__
signal.signal(signal.SIGINT, startup.quit_quietly)
import utils
def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("cleaned up", flush=True)
print(utils.exit_code(work, "the same command goes on"), flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("not reached")
"""


def test_ctrl_c_while_a_script_works_lets_it_clean_up_and_at_its_end_is_one_line():
    done = shell("-c", INTERRUPTED)
    assert (done.stdout, done.stderr) == ("cleaned up\n130\n", "the same command goes on\ninterrupted\n")
    assert done.returncode == 130


def test_importing_a_script_changes_nothing_for_ctrl_c():
    before = signal.getsignal(signal.SIGINT)
    done = shell("-c", "import signal, startup; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    assert done.stdout == "True\n"
    with startup.interruptible():
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_script_that_was_told_to_ignore_ctrl_c_ignores_it():
    done = shell(
        "-c", "import signal, startup; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)", end="&\nwait"
    )
    assert done.stdout == "True\n"


# Streams

CLOSED = [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]
STREAMS = """
import os, startup, subprocess, sys
f = open(sys.argv[1], "w")
assert f.fileno() > 2
print("out"); print("err", file=sys.stderr); print(sys.stdin.read(), end="")
for n in range(3):
    os.fstat(n)
    assert os.get_inheritable(n)
f.write("whole")
"""


@pytest.mark.parametrize("end", CLOSED)
def test_a_closed_stream_becomes_dev_null(end, tmp_path):
    done = shell("-c", STREAMS, tmp_path / "f", end=end if "<" in end else f"{end} </dev/null")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in end.replace("2>&-", "") else "out\n")
    assert done.stderr == ("" if "2>&-" in end else "err\n")
    assert (tmp_path / "f").read_text() == "whole"


def test_a_run_without_streams_is_the_same_run(tmp_path):
    whole = shell("demo.py", *FLAGS, "--results_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    closed = shell("demo.py", *FLAGS, "--results_dir", tmp_path / "closed", end=">&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")
    a, b = (next((tmp_path / name).rglob("rounds.csv")).parent for name in ("whole", "closed"))
    same_run(a, b)


@pytest.mark.parametrize("end", [">&-", "<&- >&- 2>&-"])
def test_reports_without_streams_are_written(end, tmp_path):
    results = three_strategies(tmp_path / "results")
    for words in (["compare.py", results, "--out", tmp_path / "out"], ["plot.py", results, "--out", tmp_path / "fig"]):
        done = shell(*words, end=end)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "compare.html").exists()
    assert (tmp_path / "fig.pdf").exists()


def test_a_sweep_without_streams_does_its_runs(tmp_path):
    words = ["--seed", "1", "--strategy_name", "RandomSampling", "--results_dir", tmp_path, "--jobs", "1"]
    done = shell("sweep.py", *FLAGS, *words, end="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(tmp_path.rglob("rounds.csv"))) == 1


@pytest.mark.parametrize(
    "words", [["demo.py", "--list_strategies"], ["sweep.py", "--list_strategies"], ["plot.py", "-h"]]
)
@pytest.mark.parametrize("end", ["| head -n1", "| true"])
def test_a_reader_that_leaves_early_gets_no_traceback(words, end):
    done = shell(*words, end=end)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


# Without docstrings


@EVERY_SCRIPT
def test_a_script_runs_without_docstrings(script):
    done = shell("-OO", script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script}")


def test_the_list_of_strategies_is_the_same_without_docstrings():
    assert shell("-OO", "demo.py", "--list_strategies").stdout == shell("demo.py", "--list_strategies").stdout != ""


def test_a_run_without_docstrings_and_assertions_is_the_same_run(tmp_path):
    for flags, name in (([], "a"), (["-OO"], "b")):
        done = shell(*flags, "demo.py", *FLAGS, "--results_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    a, b = (next((tmp_path / name).rglob("rounds.csv")).parent for name in "ab")
    same_run(a, b)
