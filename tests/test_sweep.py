"""Many runs: what is started, skipped, resumed, shared, killed and counted. Most use a stand-in for demo.py."""

import fcntl
import itertools
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import small
import test_demo

import demo
import runs as reader
import sweep
from strategies import STRATEGIES
from utils import METRICS, ROUND_COLUMNS

# Writes the files of a run as demo.py does, with its lock and its words, without torch's seconds to start.
STAND_IN = """
import fcntl, json, os, sys, time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS, FAIL, SHY = (os.environ.get(name, "") for name in ("STAND_IN_SECONDS", "STAND_IN_FAIL", "STAND_IN_SHY"))

def log(*words):
    with open(HERE / "log", "a") as f:
        f.write(" ".join(map(str, words)) + "\\n")

def write(path, lines):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(f"{line}\\n" for line in lines))
    os.replace(temporary, path)

def main():
    folder, n_rows, columns = json.loads((HERE / "runs.json").read_text())[" ".join(sys.argv[1:])]
    folder = Path(folder)
    in_use = f"error: {folder} is in use: another process is running this experiment now"
    lock = open(folder / ".lock", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log("refused", folder)
        print(in_use, file=sys.stderr)
        return 2
    log("start", folder, os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
    if SHY and not (HERE / "shy").exists():
        (HERE / "shy").touch()
        print(in_use, file=sys.stderr)
        return 2
    path = folder / "rounds.csv"
    rows = path.read_text().splitlines() if path.exists() else [",".join(columns)]
    for round in range(len(rows) - 1, n_rows):
        time.sleep(float(SECONDS or 0))
        if FAIL and FAIL in str(folder) and round == 1:
            print("a first line\\na second line\\na third line\\nValueError: the fourth line", file=sys.stderr)
            return 3
        n_labeled = 6 + 4 * round
        rows.append(",".join(map(str, [round, n_labeled, *[0.5] * (len(columns) - 2)])))
        picks = (f"{i // 4},{i % 4},{i},{folder.name}/{i},x" for i in range(n_labeled))
        write(folder / "queries.csv", ["round,rank,index,path,label", *picks])
        write(path, rows)
        log("round", folder, round)
    return 0
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("DATA")
    for name in ("Beasts", "Plants"):
        small.image_folder(folder / name, n_train=12, n_test=6)
    return folder


@pytest.fixture
def words(data_dir, tmp_path):
    """The flags that all sweeps of a test share, lists first."""
    common = "--strategy_name RandomSampling MarginSampling --seed 1-2 --dataset_name Beasts --net_name SmallCNN "
    common += "--n_query 4 --n_init_labeled 6 --n_round 2 --img_size 16 --n_epoch 1 --min_steps 4 --batch_size 8 "
    return [*f"{common} --device cpu --data_dir {data_dir} --results_dir {tmp_path / 'results'}".split()]


def resolved(words):
    return sweep.resolved(*sweep.parser().parse_known_args(words))


class StandIn:
    """The stand-in for demo.py in a folder of its own, with the log of what it did."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        (folder / "demo.py").write_text(STAND_IN)
        self.forget()

    def expect(self, words):
        """Tell it where the runs of a sweep write. Returns the runs."""
        runs = resolved(words)
        known = {" ".join(run.flags): [str(run.folder), run.n_rows, ROUND_COLUMNS] for run in runs}
        (self.folder / "runs.json").write_text(json.dumps(known))
        return runs

    def forget(self):
        (self.folder / "log").write_text("")

    def log(self, what):
        lines = (line.split(" ") for line in (self.folder / "log").read_text().splitlines())
        return [words[1:] for words in lines if words[0] == what]

    def pids(self):
        return [int(words[1]) for words in self.log("start")]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    made = StandIn(tmp_path / "stand_in")
    monkeypatch.setattr(sweep, "DEMO", made.folder / "demo.py")
    return made


def parent(words, demo_path, err, environment):
    """A sweep in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    sys.stderr = open(err, "w")  # noqa: SIM115
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sweep.DEMO = demo_path
    sys.exit(sweep.main(words))


@pytest.fixture
def start_parent(tmp_path, monkeypatch):
    """Starts sweeps in processes that fork from one that has torch imported; kills what a failed test leaves."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_sweep"])
    started = []

    def start(words, demo_path=sweep.DEMO):
        process = context.Process(target=parent, args=(words, demo_path, tmp_path / "err", dict(os.environ)))
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server is started with the first process
            process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


def wait_until(true, seconds=60):
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop
        time.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def files(results):
    return {str(p.relative_to(results)): p.read_bytes() for p in results.rglob("*.csv")}


# Which runs


def values_of(runs, *names):
    return [tuple(run.flags[run.flags.index(f"--{name}") + 1] for name in names) for run in runs]


@pytest.mark.parametrize(
    "notation", ["--seed 1-3", "--seed 1,2,3", "--seed 1 2 3", "--seed 1, 2 3", "--seed=1-2,3", "--seed 1-3 2 1-2"]
)
def test_seeds_may_be_ranges_commas_and_spaces(words, notation):
    runs = resolved([*words, *notation.split()])
    both = itertools.product(["RandomSampling", "MarginSampling"], "123")
    assert values_of(runs, "strategy_name", "seed") == list(both)


def test_every_combination_of_all_lists_is_one_run(words):
    lists = {
        "dataset_name": ["Beasts", "Plants"], "net_name": ["SmallCNN", "ResNet18"], "n_init_labeled": ["6", "7"],
        "n_query": ["4", "5"], "strategy_name": ["RandomSampling", "BADGE"], "seed": ["1", "2"],
    }  # fmt: skip
    given = [word for name, values in lists.items() for word in (f"--{name}", ",".join(values))]
    runs = resolved([*words, *given])
    assert sorted(values_of(runs, *lists)) == sorted(itertools.product(*lists.values()))
    assert len({run.folder for run in runs}) == 64


def test_all_is_every_strategy_and_the_default(words):
    runs = resolved([*words, "--strategy_name", "all", "--seed", "1"])
    assert [name for (name,) in values_of(runs, "strategy_name")] == list(STRATEGIES)
    assert sweep.parser().parse_args([]).strategy_name == ["all"]


def test_two_names_of_one_experiment_are_one_run(words):
    assert len(resolved([*words, "--strategy_name", "CoreSet", "KCenterGreedy", "all", "--seed", "1"])) == len(
        STRATEGIES
    )


def test_a_dataset_is_loaded_once(words, monkeypatch):
    loaded, load = [], sweep.load
    monkeypatch.setattr(sweep, "load", lambda *which: loaded.append(which[0]) or load(*which))
    resolved([*words, "--dataset_name", "Beasts,Plants", "--seed", "1-9"])
    assert sorted(loaded) == ["Beasts", "Plants"]


def test_other_flags_reach_demo_unchanged(words):
    (run,) = resolved([*words, "--strategy_name", "BADGE", "--seed", "7", "--lr=0.5", "--no-flip", "--deterministic"])
    assert run.flags[-3:] == ("--lr=0.5", "--no-flip", "--deterministic")
    args = demo.parser().parse_args(run.flags)
    assert (args.strategy_name, args.seed, args.lr, args.flip, args.n_round) == ("BADGE", 7, 0.5, False, 2)


def test_a_note_on_many_runs_is_printed_once(words, capsys):
    resolved([*words, "--n_round", "99"])
    assert capsys.readouterr().err.count("the run stops after") == 1


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 20])
def test_shards_cover_every_run_exactly_once(words, n):
    runs = resolved([*words, "--seed", "1-4"])
    shards = [sweep.part(runs, f"{i}/{n}") for i in range(1, n + 1)]
    assert Counter(itertools.chain(*shards)) == Counter(runs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_dry_run_prints_commands_that_do_the_runs_and_starts_nothing(words, tmp_path, capsys):
    assert sweep.main([*words, "--seed", "3", "--threads", "2", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "results").exists()
    assert len(lines) == 2
    for line, run in zip(lines, resolved([*words, "--seed", "3"]), strict=True):
        settings, command = line.split(" python demo.py ")
        assert settings == "OMP_NUM_THREADS=2 MKL_NUM_THREADS=2"
        assert tuple(shlex.split(command)) == run.flags
        assert demo.main(shlex.split(command)) == 0
        assert sweep.is_finished(run)
    capsys.readouterr()
    assert sweep.main([*words, "--seed", "3", "--dry_run"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--n_rou 3", "unrecognized arguments: --n_rou"),
        ("--n_round many", "invalid int value: 'many'"),
        ("--n_query 4,many", "invalid int value: 'many'"),
        ("--n_query 4,100", "--n_query 100: only 30 of 36"),
        ("--n_query 0", "--n_query 0: must be 1 or more"),
        ("--strategy_name RandomSampling,Nonsense", "--strategy_name Nonsense: must be one of"),
        ("--strategy_name ,", "--strategy_name ,: names nothing"),
        ("--strategy_name all --strategy_args n_drop=3", "RandomSampling takes no arguments"),
        ("--net_name SmallCNN Nonsense", "--net_name Nonsense"),
        ("--dataset_name Beasts Nonsense", "it holds Beasts, Plants"),
        ("--seed 1-x", "--seed 1-x: must be numbers and ranges"),
        ("--seed 3-1", "--seed 3-1: must be"),
        ("--seed -1", "--seed -1: must be"),
        ("--shard 0/3", "--shard 0/3: must be I/N"),
        ("--shard 4/3", "--shard 4/3"),
        ("--shard 1", "--shard 1:"),
        ("--jobs 0", "--jobs 0: must be 1 or more"),
        ("--threads 0", "--threads 0"),
        ("--jobs_per_gpu -1", "--jobs_per_gpu -1"),
        ("--engine nonsense", "invalid choice: 'nonsense'"),
        ("--lr 0", "--lr 0.0: must be above 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(words, more, message, tmp_path, capsys):
    try:
        code = sweep.main([*words, *more.split()])
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "results").exists()


# What is finished


@pytest.mark.parametrize("n_query", ["4", "16"])  # 16: the pool of 36 is empty after two rounds
def test_finished_is_what_demo_calls_finished(words, n_query, capsys):
    words = [*words, "--strategy_name", "RandomSampling", "--seed", "1", "--n_query", n_query]
    for n_round in (0, 1, 3):
        (run,) = resolved([*words, "--n_round", str(n_round)])
        assert not sweep.is_finished(run)
        assert demo.main(list(run.flags)) == 0
        assert sweep.is_finished(run)
        assert "finished already" not in capsys.readouterr().out
    demo.main(list(run.flags))
    assert "finished already" in capsys.readouterr().out
    (less,) = resolved([*words, "--n_round", "1"])
    assert not sweep.is_finished(less)  # environment.json has yet to learn that one round counts
    demo.main(list(less.flags))
    assert "finished already" in capsys.readouterr().out
    assert sweep.is_finished(less)
    assert len(reader.read_run(run.folder).rounds) == 2
    assert not sweep.is_finished(run)
    demo.main(list(run.flags))
    assert sweep.is_finished(run)
    assert len(reader.read_run(run.folder).rounds) == min(4, 1 + -(-30 // int(n_query)))


@pytest.mark.parametrize("damage", ["torn", "row", "empty", "gone", "picks", "picks gone", "bytes"])
def test_a_damaged_run_is_not_finished(words, damage):
    (run,) = resolved([*words, "--strategy_name", "RandomSampling", "--seed", "1"])
    demo.main(list(run.flags))
    rounds, queries = run.folder / "rounds.csv", run.folder / "queries.csv"
    text = rounds.read_text()
    if damage == "torn":
        rounds.write_text(text[:-30])
    elif damage == "row":
        rounds.write_text("".join(text.splitlines(keepends=True)[:-1]))
    elif damage == "empty":
        rounds.write_text("")
    elif damage == "gone":
        rounds.unlink()
    elif damage == "picks":
        queries.write_text("".join(queries.read_text().splitlines(keepends=True)[:-1]))
    elif damage == "picks gone":
        queries.unlink()
    elif damage == "bytes":
        rounds.write_bytes(os.urandom(200))
    assert not sweep.is_finished(run)


def test_finished_runs_are_skipped(words, stand_in, capsys):
    runs = stand_in.expect(words)
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert sorted(name for name, *_ in stand_in.log("start")) == sorted(str(run.folder) for run in runs)
    out = capsys.readouterr().out
    assert out.count("\nfinished: Beasts/") == 4
    assert out.endswith("# 4 runs: 4 finished, 0 failed\n")
    stand_in.forget()
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert stand_in.log("start") == []
    assert "# 4 runs, 4 of them finished already\n" in capsys.readouterr().out


def test_broken_runs_are_resumed(words, stand_in):
    runs = stand_in.expect(words)
    sweep.main(words)
    before = files(runs[0].folder.parents[1])
    rows = (runs[2].folder / "rounds.csv").read_text().splitlines(keepends=True)
    (runs[2].folder / "rounds.csv").write_text("".join(rows[:2]))
    stand_in.forget()
    assert sweep.main(words) == 0
    assert stand_in.log("round") == [[str(runs[2].folder), "1"], [str(runs[2].folder), "2"]]
    assert files(runs[0].folder.parents[1]) == before


# Failures


def test_a_failure_is_listed_with_its_last_lines_and_stops_nothing(words, stand_in, monkeypatch, capsys):
    runs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_FAIL", "RandomSampling/seed1")
    assert sweep.main([*words, "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert [sweep.is_finished(run) for run in runs] == [False, True, True, True]
    assert f"failed: {runs[0].name}\n" in out
    assert out.endswith("# 4 runs: 3 finished, 1 failed\n")
    head, *lines = err.splitlines()
    assert head == f"failed (exit code 3): {sweep.command(runs[0], 1)}"
    assert lines == ["    a second line", "    a third line", "    ValueError: the fourth line"]
    monkeypatch.delenv("STAND_IN_FAIL")
    assert sweep.main(words) == 0


def test_a_killed_child_is_a_failure_that_the_next_sweep_mends(words, stand_in, monkeypatch, capsys):
    runs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")

    def killer():
        wait_until(stand_in.pids)
        os.kill(stand_in.pids()[0], signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    assert sweep.main([*words, "--jobs", "2"]) == 1
    thread.join()
    assert "killed by SIGKILL: is the memory full?" in capsys.readouterr().err
    assert [sweep.is_finished(run) for run in runs].count(False) == 1
    monkeypatch.delenv("STAND_IN_SECONDS")
    assert sweep.main(words) == 0


def test_a_run_that_ends_well_without_its_files_is_a_failure(words, stand_in, capsys):
    (stand_in.folder / "demo.py").write_text("def main(): return 0")
    assert sweep.main([*words, "--seed", "1"]) == 1
    assert capsys.readouterr().err.count("is not whole here; do all machines share this folder?") == 2


# Several at once


def test_two_sweeps_share_the_work_and_do_nothing_twice(words, stand_in, monkeypatch, capsys):
    words = [*words, "--seed", "1-5"]
    runs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "0.02")
    settings = sweep.thread_settings(1)
    sweeps = [sweep.Sweep(list(runs), sweep.Local([settings, settings]), sweep.Progress(runs)) for _ in range(2)]
    threads = [threading.Thread(target=s.work) for s in sweeps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.failed for s in sweeps] == [{}, {}]
    assert all(sweep.is_finished(run) for run in runs)
    assert Counter(name for name, *_ in stand_in.log("start")) == Counter(str(run.folder) for run in runs)
    assert stand_in.log("refused") == []
    out = capsys.readouterr().out
    assert out.count("finished: ") == 10
    assert out.count("finished: ") + out.count("finished elsewhere: ") == 20


def test_a_run_that_another_process_holds_is_waited_for(words, stand_in, capsys):
    runs = stand_in.expect([*words, "--seed", "1"])
    runs[0].folder.mkdir(parents=True)
    lock = open(runs[0].folder / ".lock", "a")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)

    def release():
        wait_until(lambda: sweep.is_finished(runs[1]))
        time.sleep(2 * sweep.POLL_SECONDS)
        lock.close()

    thread = threading.Thread(target=release)
    thread.start()
    assert sweep.main([*words, "--seed", "1", "--jobs", "2"]) == 0
    thread.join()
    assert [name for name, *_ in stand_in.log("start")] == [str(runs[1].folder), str(runs[0].folder)]
    assert stand_in.log("refused") == []  # nobody started demo.py in vain
    assert "waiting for runs that other processes are at: 1\n" in capsys.readouterr().out


def test_a_run_taken_between_the_look_and_the_start_is_tried_again(words, stand_in, monkeypatch):
    runs = stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SHY", "1")
    assert sweep.main([*words, "--jobs", "1"]) == 0
    assert len(stand_in.log("start")) == 5
    assert all(sweep.is_finished(run) for run in runs)


def test_every_run_gets_the_threads_asked_for(words, stand_in):
    stand_in.expect(words)
    sweep.main([*words, "--threads", "2", "--jobs", "1"])
    assert [line[2:] for line in stand_in.log("start")] == [["2", os.environ.get("CUDA_VISIBLE_DEVICES", "None")]] * 4


def slots(monkeypatch, more, device="auto", gpus=(), n_cores=8):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: list(gpus))
    monkeypatch.setattr(sweep, "n_cores", lambda: n_cores)
    return sweep.local_slots(sweep.parser().parse_args(more.split()), device)


def test_jobs_times_threads_are_the_cores(monkeypatch, capsys):
    assert len(slots(monkeypatch, "")) == 8
    assert [s["OMP_NUM_THREADS"] for s in slots(monkeypatch, "--threads 3")] == ["3", "3"]
    assert len(slots(monkeypatch, "--threads 9")) == 1
    assert len(slots(monkeypatch, "--jobs 2")) == 2
    assert capsys.readouterr().err.count("are more than the 8 cores here") == 1  # --threads 9
    assert len(slots(monkeypatch, "--jobs 9")) == 9
    assert "9 runs of 1 threads are more than the 8 cores here" in capsys.readouterr().err


def test_jobs_are_spread_over_the_visible_gpus(monkeypatch):
    def given(more, **where):
        return [s.get("CUDA_VISIBLE_DEVICES") for s in slots(monkeypatch, more, **where)]

    assert given("", gpus="25") == ["2", "5"]
    assert given("--jobs_per_gpu 2", gpus="25") == ["2", "5", "2", "5"]
    assert given("--jobs_per_gpu 2 --jobs 3", gpus="25") == ["2", "5", "2"]
    assert given("--jobs 1", gpus="25", device="cuda") == ["2"]
    assert given("--jobs_per_gpu 2", gpus="25", device="cuda:1") == [None, None]
    assert given("--jobs 3", gpus="25", device="cpu") == [None] * 3
    with pytest.raises(sweep.UserError, match="--jobs 3: the GPUs have room for 2"):
        given("--jobs 3", gpus="25")


def test_gpus_are_named_as_cuda_visible_devices_names_them(monkeypatch):
    monkeypatch.setattr(sweep.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: 2)
    for value, names in ((None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-ab, GPU-cd", ["GPU-ab", "GPU-cd"])):
        if value is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert sweep.visible_gpus() == names


def test_a_terminal_gets_one_bar_over_all_rounds(words, stand_in, monkeypatch, capsys):
    stand_in.expect(words)
    sweep.main([*words, "--seed", "2"])
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("STAND_IN_FAIL", "RandomSampling/seed1")
    assert sweep.main([*words, "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["# 4 runs, 2 of them finished already", "# 4 runs: 3 finished, 1 failed"]
    bars = re.findall(
        r"(\d+)/(\d+)", "".join(line for line in re.split("[\r\n]", err) if "round" in line and "|" in line)
    )
    assert bars[0] == ("6", "12")
    assert bars[-1] == ("10", "10")  # of the failed run only its one row counts


# Ended from outside


def test_ctrl_c_ends_the_children_with_one_line(words, stand_in, monkeypatch, start_parent, tmp_path):
    stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "1000")
    process = start_parent([*words, "--jobs", "2"], stand_in.folder / "demo.py")
    wait_until(lambda: len(stand_in.pids()) == 2)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert not any(map(is_alive, stand_in.pids()))
    assert (tmp_path / "err").read_text() == "interrupted; the same command resumes the sweep\n"


def test_children_end_when_their_parent_is_killed(words, stand_in, monkeypatch, start_parent):
    stand_in.expect(words)
    monkeypatch.setenv("STAND_IN_SECONDS", "1000")
    process = start_parent([*words, "--jobs", "2"], stand_in.folder / "demo.py")
    wait_until(lambda: len(stand_in.pids()) == 2)
    process.kill()
    wait_until(lambda: not any(map(is_alive, stand_in.pids())), seconds=10)


@pytest.mark.parametrize("whom", ["parent", "child", "both"])
def test_killed_at_random_moments_a_sweep_ends_with_the_same_files(words, stand_in, start_parent, tmp_path, whom):
    whole = [*words, "--results_dir", str(tmp_path / "whole")]
    stand_in.expect(whole)
    sweep.main(whole)
    runs = stand_in.expect(words)
    rng = random.Random(whom)
    for _ in range(6):
        stand_in.forget()
        process = start_parent([*words, "--jobs", "2"], stand_in.folder / "demo.py")
        wait_until(lambda process=process: stand_in.pids() or not process.is_alive())
        time.sleep(rng.uniform(0, 0.2))
        if whom != "parent":
            for pid in stand_in.pids()[-2:]:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        if whom != "child":
            process.kill()
        process.join(60)
        assert process.exitcode in ((0, 1) if whom == "child" else (0, -9))
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert files(tmp_path / "results") == files(tmp_path / "whole")
    assert all(sweep.is_finished(run) for run in runs)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """The results of the real demo.py, one run after the other in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def results(words):
        runs = resolved([*words, "--results_dir", str(folder)])
        for run in runs:
            assert demo.main(list(run.flags)) == 0
        return runs

    return results


def test_the_real_demo_killed_and_resumed_gives_the_same_bytes(words, undisturbed, start_parent):
    words = [*words, "--strategy_name", "MarginSampling", "--seed", "1", "--n_round", "5", "--min_steps", "60"]
    wholes = undisturbed(words)
    runs = resolved(words)
    process = start_parent(words)
    wait_until(lambda: any(sweep.n_committed(run) for run in runs))
    process.kill()
    process.join()
    assert not all(sweep.is_finished(run) for run in runs)
    process = start_parent(words)  # at once: a child may still be dying with its lock
    process.join()
    assert process.exitcode == 0
    for run, whole in zip(runs, wholes, strict=True):
        test_demo.same_run(run.folder, whole.folder)
        assert json.loads((run.folder / "environment.json").read_text())["threads"] == 1


# A Ray cluster


def test_ray_that_is_missing_is_told(words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep.main([*words, "--engine", "ray"]) == 2
    assert "--engine ray needs Ray: pip install -r requirements-ray.txt" in capsys.readouterr().err


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two machines with one core each, both of them this one; and the second of them."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    yield made, made.add_node(**size)
    made.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's own,
@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")  # the last one up to 2.5x
def test_ray_gives_the_same_bytes_when_a_machine_is_lost(words, undisturbed, cluster, capsys):
    made, second = cluster
    words = [*words, "--strategy_name", "MarginSampling", "--n_round", "6", "--min_steps", "100"]
    wholes = undisturbed(words)
    runs = resolved(words)

    def lose():
        wait_until(lambda: sum(0 < sweep.n_committed(run) < run.n_rows for run in runs) == 2)
        made.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    code = sweep.main([*words, "--engine", "ray", "--ray_address", made.address])
    thread.join()
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.endswith("# 2 runs: 2 finished, 0 failed\n")
    for run, whole in zip(runs, wholes, strict=True):
        test_demo.same_run(run.folder, whole.folder)
    starts = [json.loads((run.folder / "environment.json").read_text()) for run in runs]
    assert [len(start["earlier"]) for start in starts].count(1) == 1  # the one that ran on the lost machine


def test_a_ray_cluster_that_is_not_there_is_told(words, capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    assert sweep.main([*words, "--engine", "ray"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --ray_address auto: no Ray cluster (")
    assert err.count("\n") == 1


def test_the_columns_that_the_stand_in_writes_are_those_of_a_run():
    assert ROUND_COLUMNS[:2] == ("round", "n_labeled")
    assert len(ROUND_COLUMNS) == 2 + len(METRICS) + 3
