"""Workers on this machine: what a run finds, what is left of it, which worker does it, and the slots."""

import json
import os
import signal
import time
from argparse import Namespace

import pytest
import torch
from sweeping import OBEDIENT, RECORD, is_alive, wait_until

from runs import local
from runs.job import Job
from runs.local import Local, Worker, thread_settings
from utils import UserError


@pytest.fixture
def worker(obedient, tmp_path):
    made = Worker(obedient, thread_settings(2), str(tmp_path))
    yield made
    made.close()


def wait_for(value):
    """What a function returns once that is not None."""
    values = []
    wait_until(lambda: values.append(value()) or values[-1] is not None)
    return values[-1]


def do(worker, *statements):
    """Run statements. Returns exit code and last lines."""
    worker.start(statements)
    code = wait_for(worker.exit_code)
    return code, worker.last_lines(code)


def test_every_run_is_a_new_process_with_the_state_of_a_new_process(worker, obedient, tmp_path):
    changes = ["os.environ['EXTRA'] = '1'", "random.seed(1)", "sys.path.clear()", "os.chdir('/')"]
    for i in range(3):
        assert do(worker, RECORD.format(tmp_path / f"{i}.json"), *changes) == (0, "")
    first, *others = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(3)]
    assert first["argv"] == [str(obedient), RECORD.format(tmp_path / "0.json"), *changes]
    assert (first["n_runs"], first["threads"], first["extra"], first["cwd"]) == (1, "2", None, str(tmp_path))
    assert (first["stdin"], first["null"]) == ("", os.devnull)
    differ = {key for other in others for key in first if other[key] != first[key]}
    assert differ == {"pid", "random", "argv"}
    assert first["parent"] != os.getpid()


def test_a_run_has_no_files_of_the_sweep(worker, tmp_path):
    claims = [open(tmp_path / f"claim{i}", "a") for i in range(20)]  # noqa: SIM115
    (tmp_path / "code" / "own").mkdir()
    assert do(worker, RECORD.format(tmp_path / "files.json")) == (0, "")
    assert json.loads((tmp_path / "files.json").read_text())["n_files"] <= 6
    for claim in claims:
        claim.close()


@pytest.mark.parametrize(
    ("statement", "code", "last_lines"),
    [
        ("code = 4", 4, ""),
        ("sys.exit(5)", 5, ""),
        ("sys.exit('a message')", 1, "a message"),
        ("print('one\\ntwo\\n\\nthree\\nfour', file=sys.stderr)", 0, "two\nthree\nfour"),
        ("os._exit(6)", 6, ""),
        ("at_exit.append('at exit, by demo'); code = 7", 7, "at exit, by demo"),
        ("atexit.register(print, 'at exit, by the run', file=sys.stderr)", 0, "at exit, by the run"),
        ("import threading; threading.Timer(0.2, print, ['late'], {'file': sys.stderr}).start()", 0, "late"),
        ("sys.stderr.write('no newline')", 0, "no newline"),
        ("os.kill(os.getpid(), 9)", -9, "killed by SIGKILL: is the memory full?"),
        ("os.kill(os.getpid(), 11)", -11, "killed by SIGSEGV"),
        ("os.kill(os.getpid(), 2)", -2, "KeyboardInterrupt\nkilled by SIGINT"),
        ("raise ValueError('no')", 1, "ValueError: no"),
    ],
)
@pytest.mark.parametrize("fork", [True, False])
def test_a_run_ends_as_in_a_process_of_its_own(obedient, tmp_path, monkeypatch, statement, code, last_lines, fork):
    if not fork:
        obedient.write_text("import os; del os.fork" + OBEDIENT)
        monkeypatch.delattr(os, "fork")
    worker = Worker(obedient, {}, str(tmp_path))
    done = do(worker, statement)
    assert done[0] == code
    assert done[1].endswith(last_lines)
    assert last_lines or not done[1]
    if fork:
        assert do(worker, "") == (0, "")  # nothing of the run before
    wait_until(lambda: worker.is_usable() == fork)
    worker.close()


def test_a_run_leaves_the_cleanup_of_its_memory_to_the_system(worker):
    farewell = "type('Farewell', (), {'__del__': lambda self: os.write(2, b'cleaned up')})()"
    assert do(worker, f"sys.modules['farewell'] = {farewell}") == (0, "")
    assert "cleaned up" in do(worker, f"sys.modules['farewell'] = {farewell}", "sys.exit(3)")[1]


def job(*statements):
    return Job(statements, "", 1, 0)


@pytest.fixture
def engine(obedient, tmp_path, monkeypatch):
    """One slot of obedient workers."""
    monkeypatch.chdir(tmp_path)
    made = Local(obedient, [thread_settings(1)])
    yield made
    made.stop()


def do_job(engine, *statements):
    """Do one job. Returns exit code and last lines."""
    assert engine.has_room()
    engine.start(job(*statements))
    assert not engine.has_room()
    ((_, code, last_lines),) = wait_for(lambda: engine.ended(1) or None)
    return code, last_lines


def pids(engine, tmp_path):
    """Processes of the next run and of its worker."""
    path = tmp_path / "pids.json"
    path.unlink(missing_ok=True)
    assert do_job(engine, RECORD.format(path)) == (0, "")
    values = json.loads(path.read_text())
    return values["pid"], values["parent"]


def test_a_slot_keeps_its_worker_as_long_as_it_lives_and_the_code_is_unchanged(engine, obedient, tmp_path):
    child, first = pids(engine, tmp_path)
    assert not is_alive(child)
    (tmp_path / "code" / "README.md").write_text("no code")
    assert pids(engine, tmp_path)[1] == first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first))
    _, second = pids(engine, tmp_path)
    assert second != first
    (tmp_path / "code" / "package").mkdir()
    (tmp_path / "code" / "package" / "__init__.py").write_text("")
    _, third = pids(engine, tmp_path)
    assert third != second
    wait_until(lambda: not is_alive(second))
    assert do_job(engine, "code = 3") == (3, "")
    obedient.write_text(OBEDIENT.replace("0)", "7)"))
    assert do_job(engine, "pass") == (7, "")
    engine.stop()
    assert not is_alive(third)


def test_code_that_does_not_import_fails_every_run_until_it_is_mended(engine, obedient):
    good = obedient.read_text()
    obedient.write_text("raise ImportError('broken')")
    for _ in range(2):
        assert do_job(engine, "pass")[0] == 1
    assert do_job(engine, "pass")[1].endswith("ImportError: broken")
    obedient.write_text(good)
    assert do_job(engine, "pass") == (0, "")


def started(engine, path, *before):
    """Start a run without end. Returns its process and that of its worker."""
    engine.start(job(*before, RECORD.format(path), f"os.rename({str(path)!r}, '{path}.whole')", "time.sleep(1000)"))
    whole = path.with_name(f"{path.name}.whole")
    wait_until(whole.exists)
    values = json.loads(whole.read_text())
    whole.unlink()
    return values["pid"], values["parent"]


# What takes the interpreter's lock for good, so that no thread of the run can see that its worker has gone.
HOG = "import ctypes; hog = ctypes.PyDLL(None); hog.usleep.argtypes = [ctypes.c_uint]"


def test_a_killed_worker_takes_its_run_along_and_is_replaced(engine, tmp_path):
    for signal_number in (signal.SIGKILL, signal.SIGTERM):
        child, worker = started(engine, tmp_path / "pids.json")
        os.kill(worker, signal_number)
        ((_, code, last_lines),) = wait_for(lambda: engine.ended(1) or None)
        assert code == -signal_number
        assert last_lines.startswith(f"killed by {signal.Signals(signal_number).name}")
        wait_until(lambda child=child: not is_alive(child), seconds=10)
    assert do_job(engine, "pass") == (0, "")


def test_a_worker_that_dies_before_its_run_starts_is_a_failed_run(obedient, tmp_path):
    worker = Worker(obedient, {}, str(tmp_path))
    assert do(worker, "") == (0, "")
    os.kill(worker._process.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(worker._process.pid))
    code, last_lines = do(worker, "")
    assert (code, last_lines) == (-9, "killed by SIGKILL: is the memory full?")
    worker.close()


def test_ctrl_c_in_a_terminal_does_not_end_a_worker(engine, tmp_path):
    child, worker = started(engine, tmp_path / "pids.json")
    os.kill(worker, signal.SIGINT)
    assert engine.ended(0.1) == []
    os.kill(child, signal.SIGINT)
    assert wait_for(lambda: engine.ended(1) or None)[0].code == -2
    assert pids(engine, tmp_path)[1] == worker


def test_a_killed_run_leaves_its_worker(engine, tmp_path):
    child, worker = started(engine, tmp_path / "pids.json")
    os.kill(child, signal.SIGKILL)
    assert wait_for(lambda: engine.ended(1) or None)[0].code == -9
    assert pids(engine, tmp_path)[1] == worker


@pytest.mark.parametrize("hogging", [False, True])
def test_stopping_ends_a_run_whatever_it_does(engine, tmp_path, hogging):
    path = tmp_path / "pids.json"
    child, worker = started(engine, path)
    engine.stop()
    assert not is_alive(worker)
    assert not is_alive(child)
    if hogging:
        again = Local(tmp_path / "code" / "demo.py", [thread_settings(1)])
        again.start(job(HOG, RECORD.format(path), f"os.rename({str(path)!r}, '{path}.whole')", "hog.usleep(10**9)"))
        whole = path.with_name(f"{path.name}.whole")
        wait_until(whole.exists)
        child = json.loads(whole.read_text())["pid"]
        time.sleep(0.1)
        again.stop()
        assert not is_alive(child)


def test_stopping_does_not_wait_for_a_slow_import_and_starts_no_run(obedient, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "STOP_SECONDS", 0.3)
    obedient.write_text(f"open({str(tmp_path / 'importing')!r}, 'w').write(str(os.getpid()))\ntime.sleep(1)" + OBEDIENT)
    obedient.write_text("import os, time\n" + obedient.read_text())
    for seconds in (0.3, 30):
        monkeypatch.setattr(local, "STOP_SECONDS", seconds)
        engine = Local(obedient, [{}])
        engine.start(job(f"open({str(tmp_path / 'started')!r}, 'w')"))
        wait_until(lambda: (tmp_path / "importing").exists() and (tmp_path / "importing").read_text())
        start = time.monotonic()
        engine.stop()
        assert time.monotonic() - start < seconds + 2
        assert not is_alive(int((tmp_path / "importing").read_text()))
        (tmp_path / "importing").unlink()
    assert not (tmp_path / "started").exists()


def slots(monkeypatch, device="auto", gpus=(), n_cores=8, **flags):
    monkeypatch.setattr(local, "visible_gpus", lambda: list(gpus))
    monkeypatch.setattr(local, "n_cores", lambda: n_cores)
    return local.slot_settings(Namespace(**{"jobs": None, "jobs_per_gpu": 1, "threads": 1, **flags}), device)


def test_jobs_times_threads_are_the_cores(monkeypatch, capsys):
    assert len(slots(monkeypatch)) == 8
    assert [s["OMP_NUM_THREADS"] for s in slots(monkeypatch, threads=3)] == ["3", "3"]
    assert len(slots(monkeypatch, threads=9)) == 1
    assert len(slots(monkeypatch, jobs=2)) == 2
    assert capsys.readouterr().err.count("are more than the 8 cores here") == 1  # threads=9
    assert len(slots(monkeypatch, jobs=9)) == 9
    assert "9 runs of 1 threads are more than the 8 cores here" in capsys.readouterr().err


def test_jobs_are_spread_over_the_visible_gpus(monkeypatch):
    def gpus_of(**given):
        return [s.get("CUDA_VISIBLE_DEVICES") for s in slots(monkeypatch, **{"gpus": "25", **given})]

    assert gpus_of() == ["2", "5"]
    assert gpus_of(jobs_per_gpu=2) == ["2", "5", "2", "5"]
    assert gpus_of(jobs_per_gpu=2, jobs=3) == ["2", "5", "2"]
    assert gpus_of(jobs=1, device="cuda") == ["2"]
    assert gpus_of(jobs_per_gpu=2, device="cuda:1") == [None, None]
    assert gpus_of(jobs=3, device="cpu") == [None] * 3
    with pytest.raises(UserError, match="--jobs 3: the GPUs have room for 2"):
        gpus_of(jobs=3)


def test_gpus_are_named_as_cuda_visible_devices_names_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for value, names in ((None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-ab, GPU-cd", ["GPU-ab", "GPU-cd"])):
        if value is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert local.visible_gpus() == names
