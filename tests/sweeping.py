"""What the tests of many runs share: quick stand-ins for demo.py, and sweeps in processes of their own."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
import small

from runs import local
from runs.format import round_columns

# Writes the files of a run as demo.py does, with its lock and its messages, without torch's seconds to start.
STAND_IN = """
import fcntl, json, os, sys, time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS, FAIL, REFUSE = (os.environ.get(f"STAND_IN_{name}", "") for name in ("SECONDS", "FAIL", "REFUSE"))
time.sleep(float(os.environ.get("STAND_IN_IMPORT_SECONDS", 0)))
if os.environ.get("STAND_IN_NO_FORK"):
    del os.fork

def log(*words):
    with open(HERE / "log", "a") as f:
        f.write(" ".join(map(str, words)) + "\\n")

log("import", os.getpid())

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
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    log("start", folder, os.getpid(), os.getppid(), os.environ["OMP_NUM_THREADS"], gpu)
    if REFUSE and not (HERE / "refused").exists():
        (HERE / "refused").touch()
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
        values = {**dict.fromkeys(columns, 0.5), "round": round, "n_labeled": n_labeled}
        rows.append(",".join(map(str, values.values())))
        picks = (f"{i // 4},{i % 4},{i},{folder.name}/{i},x" for i in range(n_labeled))
        write(folder / "queries.csv", ["round,rank,index,path,label", *picks])
        write(path, rows)
        log("round", folder, round)
    return 0
"""


# A demo.py that does what its flags tell it: Python statements.
OBEDIENT = """
import atexit, json, os, random, sys, time
print("to stdout, at import")
n_runs, at_exit = 0, []
atexit.register(lambda: at_exit and print(*at_exit, file=sys.stderr))

def record(path, **values):
    with open(path, "w") as f:
        json.dump(values, f)

def main():
    global n_runs
    n_runs += 1
    print("to stdout", flush=True)
    scope = dict(globals())
    for statement in sys.argv[1:]:
        exec(statement, scope)
    return scope.get("code", 0)
"""
# Such a statement: writes what a run finds to a file.
RECORD = "record('{}', pid=os.getpid(), parent=os.getppid(), n_runs=n_runs, argv=sys.argv, cwd=os.getcwd(), "
RECORD += "threads=os.environ['OMP_NUM_THREADS'], extra=os.environ.get('EXTRA'), random=random.random(), "
RECORD += "stdin=sys.stdin.read(), null=os.readlink('/proc/self/fd/1'), n_files=len(os.listdir('/proc/self/fd')))"


def all_jobs(words):
    """The jobs of a sweep with these flags."""
    import sweep

    return sweep.all_jobs(*sweep.parser().parse_known_args(words))


class StandIn:
    """The stand-in for demo.py in a folder of its own, with the log of what it did."""

    def __init__(self, folder):
        self.folder = folder
        self.demo = folder / "demo.py"
        folder.mkdir()
        self.demo.write_text(STAND_IN)
        self.forget()

    def expect(self, words):
        """Let it know where the runs of a sweep write. Returns the jobs."""
        jobs = all_jobs(words)
        known = {" ".join(job.flags): [str(job.folder), job.n_rows, round_columns()] for job in jobs}
        (self.folder / "runs.json").write_text(json.dumps(known))
        return jobs

    def forget(self):
        (self.folder / "log").write_text("")

    def log(self, what):
        lines = (line.split(" ") for line in (self.folder / "log").read_text().splitlines())
        return [words[1:] for words in lines if words[0] == what]

    def started(self):
        """Folders of the runs that started, in order."""
        return [words[0] for words in self.log("start")]

    def pids(self):
        """Processes of the runs that started, in order."""
        return [int(words[1]) for words in self.log("start")]

    def workers(self):
        """Processes that imported it."""
        return [int(words[0]) for words in self.log("import")]


@pytest.fixture(scope="session")
def two_datasets(tmp_path_factory):
    """A folder of data sets that holds two small ones, Beasts and Plants."""
    folder = tmp_path_factory.mktemp("DATA")
    for name in ("Beasts", "Plants"):
        small.image_folder(folder / name, n_train=12, n_test=6)
    return folder


@pytest.fixture
def words(two_datasets, tmp_path):
    """The flags that all sweeps of a test share, lists first."""
    common = "--strategy_name RandomSampling MarginSampling --seed 1-2 --dataset_name Beasts --net_name SmallCNN "
    common += "--n_query 4 --n_init_labeled 6 --n_round 2 --img_size 16 --n_epoch 1 --min_steps 4 --batch_size 8 "
    return [*f"{common} --device cpu --data_dir {two_datasets} --results_dir {tmp_path / 'results'}".split()]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes sweeps run the stand-in."""
    import sweep

    made = StandIn(tmp_path / "stand_in")
    monkeypatch.setattr(sweep, "DEMO", made.demo)
    monkeypatch.setattr(local, "IMPORTED_LATE", ())
    return made


@pytest.fixture
def obedient(tmp_path, monkeypatch):
    """The path of such a demo.py."""
    monkeypatch.setattr(local, "IMPORTED_LATE", ())
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "code").mkdir()
    path = tmp_path / "code" / "demo.py"
    path.write_text(OBEDIENT)
    return path


@pytest.fixture
def undisturbed(tmp_path):
    """Does the jobs of a sweep one after the other in this process, elsewhere. Returns them."""
    import demo

    def results(words):
        jobs = all_jobs([*words, "--results_dir", str(tmp_path / "undisturbed")])
        for job in jobs:
            assert demo.main(list(job.flags)) == 0
        return jobs

    return results


def in_own_process(words, demo, imported_late, err, environment):
    """A sweep in a process of its own."""
    import sweep

    os.setpgid(0, 0)  # a job of its own, as a shell makes it
    os.environ.clear()
    os.environ.update(environment)
    sys.stderr = open(err, "w")  # noqa: SIM115
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sweep.DEMO, local.IMPORTED_LATE = demo, imported_late
    sys.exit(sweep.main(words))


@pytest.fixture
def start_sweep(tmp_path, monkeypatch):
    """Starts sweeps in processes that fork from one that has torch imported; kills what a failed test leaves."""
    import sweep

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweeping", "sweep"])
    started = []

    def start(words):
        arguments = (words, sweep.DEMO, local.IMPORTED_LATE, tmp_path / "err", dict(os.environ))
        process = context.Process(target=in_own_process, args=arguments)
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
    except (FileNotFoundError, ProcessLookupError):
        return False


def csv_files(results):
    return {str(p.relative_to(results)): p.read_bytes() for p in results.rglob("*.csv")}
