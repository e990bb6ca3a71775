"""Many experiments: every combination of the lists below, each a run of demo.py, on one machine or on a cluster.

Finished runs are skipped, broken ones resumed. Several sweeps over one results folder share the work.
"""

from __future__ import annotations

import argparse
import io
import itertools
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from tqdm import tqdm

import demo
from data import ImageData, load
from strategies import STRATEGIES
from utils import Parser, UserError, exit_code, lock_file, read_environment, read_rounds, run_path, warn, writing

DEMO = Path(__file__).resolve().parent / "demo.py"
# Seeds vary fastest, so that runs at a time seldom wait for each other: round 0 is shared by the runs of a seed.
LISTS = ("dataset_name", "net_name", "n_init_labeled", "n_query", "strategy_name", "seed")
MOST_SEEDS = 10_000  # of a range; more is a slip
POLL_SECONDS = 0.5  # between two looks at the runs
IN_USE = " is in use: another process"  # what demo.py says of a run that is being done elsewhere

# What `python -c` runs: demo.py, ended at once when whoever started it is gone and its end of the pipe closes.
ATTACHED = """
import os, sys, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(130), daemon=True).start()
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
import demo
sys.exit(demo.main())
"""


def parser() -> argparse.ArgumentParser:
    """The flags of this script; all others are demo.py's."""
    p = Parser(
        description=__doc__,
        epilog="Every other flag is passed on to demo.py; python demo.py --help lists them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    of_demo = demo.parser()
    lists = p.add_argument_group("lists, separated by spaces or commas")
    lists.add_argument("--strategy_name", nargs="+", default=["all"], help="names; all stands for every one")
    lists.add_argument("--seed", nargs="+", default=["1-5"], help="numbers and ranges, such as 1-5 or 1,3,7")
    for name in ("dataset_name", "net_name", "n_query", "n_init_labeled"):
        lists.add_argument(f"--{name}", nargs="+", default=[str(of_demo.get_default(name))], help="as of demo.py")
    p.add_argument("--jobs", type=int, help="runs at a time; as many as the GPUs, or else the cores, have room for")
    p.add_argument("--jobs_per_gpu", type=int, default=1, help="runs at a time on each GPU")
    p.add_argument("--threads", type=int, default=1, help="CPU threads of each run; its last digits depend on them")
    p.add_argument("--shard", default="1/1", metavar="I/N", help="do the I-th of N parts, I from 1 to N")
    p.add_argument("--engine", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    p.add_argument("--ray_address", default="auto", help="of the cluster's head, such as 10.0.0.1:6379")
    p.add_argument("--dry_run", action="store_true", help="print the commands of what is not finished and leave")
    return p


# What to run


@dataclass(frozen=True)
class Run:
    """One experiment: its flags for demo.py, its folder, the rows that rounds.csv has at its end, and --n_round."""

    flags: tuple[str, ...]
    folder: Path
    n_rows: int
    n_round: int

    @property
    def name(self) -> str:
        """Dataset, strategy, seed and hash, for a reader."""
        return "/".join(self.folder.parts[-3:])


def split(words: Iterable[str]) -> list[str]:
    """What a list flag was given, at spaces (by the shell) and commas, none twice."""
    return list(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))


def seeds(words: Iterable[str]) -> list[str]:
    """The numbers that "1-3 7" stands for.

    Raises:
        UserError: a part is neither a number nor a rising range.
    """
    numbers: list[int] = []
    for part in split(words):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first >= MOST_SEEDS:
            raise UserError(f"--seed {part}: must be numbers and ranges of at most {MOST_SEEDS}, such as 1-5 or 1,3,7")
        numbers += range(first, last + 1)
    return [str(n) for n in dict.fromkeys(numbers)]


def lists(args: argparse.Namespace) -> list[list[str]]:
    """The values of each of LISTS.

    Raises:
        UserError: one of them is empty, or not a list of what it should be.
    """
    values = {name: split(getattr(args, name)) for name in LISTS}
    values["seed"] = seeds(args.seed)
    names = values["strategy_name"]
    values["strategy_name"] = list(itertools.chain(*([*STRATEGIES] if name == "all" else [name] for name in names)))
    for name in LISTS:
        if not values[name]:
            raise UserError(f"--{name} {' '.join(getattr(args, name))}: names nothing")
    return [values[name] for name in LISTS]


def resolved(args: argparse.Namespace, rest: Sequence[str]) -> list[Run]:
    """All runs of a sweep, checked as demo.py checks them, each dataset loaded once.

    Raises:
        UserError: demo.py would refuse one of them.
    """
    notes, stderr = io.StringIO(), sys.stderr

    @cache
    def load_once(*which: Any) -> ImageData:
        with redirect_stderr(stderr):  # shows the progress of long readings
            return load(*which)

    of_demo = demo.parser()
    runs: dict[Path, Run] = {}
    with redirect_stderr(notes):
        for values in itertools.product(*lists(args)):
            flags = [*itertools.chain(*((f"--{name}", v) for name, v in zip(LISTS, values, strict=True))), *rest]
            with redirect_stderr(stderr):
                given = of_demo.parse_args(flags)
            if args.engine == "ray":
                given.device = "cpu"  # this machine may have another, and the configuration does not hold it
            e = demo.experiment(given, load_once)
            c, folder = e.config, run_path(e.results_dir, e.config)
            n_full = -(-(c["n_train"] - c["n_init_labeled"]) // c["n_query"])
            runs.setdefault(folder, Run(tuple(flags), folder, min(e.n_round, n_full) + 1, e.n_round))
    for note in dict.fromkeys(notes.getvalue().splitlines()):
        print(note, file=stderr)
    return list(runs.values())


def part(runs: Sequence[Run], shard: str) -> list[Run]:
    """The runs of one shard "i/n": every n-th, so that dear and cheap strategies are dealt out alike.

    Raises:
        UserError: not of that form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard, re.ASCII)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= i <= n:
        raise UserError(f"--shard {shard}: must be I/N with I from 1 to N")
    return list(runs[i - 1 :: n])


def n_committed(run: Run) -> int:
    """Rounds that stand, of those asked for; none in a damaged folder, of which demo.py will say what is wrong."""
    try:
        rounds = read_rounds(run.folder / "rounds.csv")[: run.n_rows]
        n_lines = (run.folder / "queries.csv").read_bytes().count(b"\n") if rounds else 0
    except (UserError, OSError):
        return 0
    return len(rounds) if rounds and n_lines > rounds[-1].n_labeled else 0


def is_finished(run: Run) -> bool:
    """Whether demo.py would say so and change nothing, without the seconds that it takes to start."""
    return n_committed(run) == run.n_rows and read_environment(run.folder).get("n_round", run.n_round) == run.n_round


def claim(run: Run) -> IO[str] | None:
    """Hold a run for this sweep until the returned file is closed; None when another process is at it.

    A sweep holds .claim from before demo.py starts until it ends; demo.py itself, started by whomever, holds .lock.
    """
    with writing(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
    mine = lock_file(run.folder / ".claim", wait=False)
    if mine is None:
        return None
    lock = lock_file(run.folder / ".lock", wait=False)
    if lock is None:
        mine.close()
        return None
    lock.close()
    return mine


# Where to run it


class Ended(NamedTuple):
    """A run that ended: exit code of demo.py and the last lines that it wrote on stderr."""

    run: Run
    code: int
    last_lines: str


def thread_settings(threads: int) -> dict[str, str]:
    """Environment variables that give a process so many CPU threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def start_demo(
    flags: Sequence[str], settings: dict[str, str], stderr: IO[bytes], folder: str
) -> subprocess.Popen[bytes]:
    """Start demo.py in a process that ends with this one, however this one ends."""
    command = [sys.executable, "-c", ATTACHED, str(DEMO), *flags]
    environment = {**os.environ, **settings}
    out = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=stderr, env=environment, cwd=folder)


def said_last(stderr: IO[bytes], code: int) -> str:
    """The last three lines of a process's stderr; for one that was killed, by what."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 5000))
    lines = [line for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code < 0:
        lines.append(f"killed by {signal.Signals(-code).name}" + (": is the memory full?" if code == -9 else ""))
    return "\n".join(lines[-3:])


class Local:
    """Runs demo.py in processes of this machine, one in each slot.

    Args:
        slots: environment variables of each slot.
    """

    def __init__(self, slots: Sequence[dict[str, str]]) -> None:
        self._idle = list(slots)[::-1]
        self._active: dict[Run, tuple[subprocess.Popen[bytes], IO[bytes], dict[str, str]]] = {}

    def has_room(self) -> bool:
        """Whether one more may start now."""
        return bool(self._idle)

    def start(self, run: Run) -> None:
        """Start a run in an idle slot."""
        stderr = tempfile.TemporaryFile()  # noqa: SIM115
        slot = self._idle.pop()
        self._active[run] = start_demo(run.flags, slot, stderr, os.getcwd()), stderr, slot

    def ended(self, seconds: float) -> list[Ended]:
        """The runs that ended, after waiting at most so long for one."""
        stop = time.monotonic() + seconds
        while not (over := [r for r, (p, _, _) in self._active.items() if p.poll() is not None]):
            if time.monotonic() > stop:
                break
            time.sleep(min(0.05, seconds))
        return [self._take(run) for run in over]

    def _take(self, run: Run) -> Ended:
        process, stderr, slot = self._active.pop(run)
        self._idle.append(slot)
        with process, stderr:
            return Ended(run, process.returncode, said_last(stderr, process.returncode))

    def stop(self) -> None:
        """End what is still running; a run can be ended at any moment."""
        for process, _, _ in self._active.values():
            process.kill()
        for process, stderr, _ in self._active.values():
            with process, stderr:
                process.wait()


def visible_gpus() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES allows, as it names them."""
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names[:n]] if names[0].strip() else [str(i) for i in range(n)]


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_slots(args: argparse.Namespace, device: str) -> list[dict[str, str]]:
    """What the runs at a time get of this machine: each its share of a GPU where there is one, and its threads.

    Raises:
        UserError: more jobs than the GPUs have room for.
    """
    gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in visible_gpus()] if device in ("auto", "cuda") else []
    if not gpus and device.startswith(("cuda:", "mps")):
        gpus = [{}]
    slots: list[dict[str, str]] = gpus * args.jobs_per_gpu or [{}] * (args.jobs or max(1, n_cores() // args.threads))
    jobs = args.jobs or len(slots)
    if jobs > len(slots):
        raise UserError(f"--jobs {jobs}: the GPUs have room for {len(slots)}; a larger --jobs_per_gpu makes more")
    if not gpus and jobs * args.threads > n_cores():
        warn(f"{jobs} runs of {args.threads} threads are more than the {n_cores()} cores here and slow each other down")
    return [{**thread_settings(args.threads), **slot} for slot in slots[:jobs]]


def run_demo(flags: Sequence[str], settings: dict[str, str], folder: str) -> tuple[int, str]:
    """Run demo.py to its end. Returns its exit code and its last lines."""
    with tempfile.TemporaryFile() as stderr, start_demo(flags, settings, stderr, folder) as process:
        code = process.wait()
        return code, said_last(stderr, code)


class OnRay:
    """Runs demo.py on the machines of a Ray cluster, which must share the code, the data and the results.

    Args:
        args: the flags of this script.
        device: the --device of the runs.

    Raises:
        UserError: Ray is not installed, the cluster does not answer or does not have such a device.
    """

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        try:
            import ray
        except ImportError as e:
            raise UserError(f"--engine ray needs Ray: pip install -r requirements-ray.txt ({e})") from e
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {device}: with --engine ray it must be auto, cpu or cuda; Ray picks which GPU")
        try:
            ray.init(address=args.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as e:
            why = " ".join(str(e).split())
            raise UserError(f"--ray_address {args.ray_address}: no Ray cluster ({why}); see docs/clusters.md") from e
        self._ray, self._args = ray, args
        self._on_gpu = device != "cpu" and self._total("GPU") > 0
        if device == "cuda" and not self._on_gpu:
            raise UserError("--device cuda: the Ray cluster has no GPU; use --device cpu")
        if not any(node["Resources"].get("CPU", 0) >= args.threads for node in ray.nodes() if node["Alive"]):
            warn(f"no machine of the Ray cluster has {args.threads} cores; the runs wait until one joins")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers need not import this file
        share = 1 / args.jobs_per_gpu if self._on_gpu else 0
        self._run = ray.remote(num_gpus=share, num_cpus=args.threads, max_retries=2, max_calls=1)(run_demo)
        self._active: dict[Any, Run] = {}

    def _total(self, resource: str) -> float:
        return self._ray.cluster_resources().get(resource, 0)

    def has_room(self) -> bool:
        """Whether one more may be handed in: twice as many as run at a time keep every machine busy."""
        a = self._args
        at_a_time = self._total("GPU") * a.jobs_per_gpu if self._on_gpu else self._total("CPU") // a.threads
        return len(self._active) < (a.jobs or max(1, 2 * at_a_time))

    def start(self, run: Run) -> None:
        """Hand a run to the cluster."""
        ref = self._run.remote(run.flags, thread_settings(self._args.threads), os.getcwd())
        self._active[ref] = run

    def ended(self, seconds: float) -> list[Ended]:
        """The runs that ended, after waiting at most so long for one."""
        if not self._active:
            time.sleep(seconds)
            return []
        over, _ = self._ray.wait(list(self._active), num_returns=1, timeout=seconds)
        return [self._take(ref) for ref in over]

    def _take(self, ref: Any) -> Ended:
        run = self._active.pop(ref)
        try:
            return Ended(run, *self._ray.get(ref))
        except self._ray.exceptions.RayError as e:  # its machine was lost more often than max_retries
            return Ended(run, 1, "\n".join(str(e).strip().splitlines()[:3]))

    def stop(self) -> None:
        """End what is still running."""
        for ref in self._active:
            self._ray.cancel(ref, force=True)
        self._ray.shutdown()


# The sweep


class Progress:
    """One bar over all rounds of all runs, with the time left; one line a run where stderr is no terminal."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.n_rows = {run: n_committed(run) for run in runs}
        n_all = sum(run.n_rows for run in runs)
        initial = sum(self.n_rows.values())
        self.bar = tqdm(total=n_all, initial=initial, unit="round", smoothing=0, disable=None)

    def look(self, runs: Iterable[Run]) -> None:
        """Count what these runs have committed since the last look."""
        for run in runs:
            self.n_rows[run] = n_committed(run)
        self.bar.update(sum(self.n_rows.values()) - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line where there is no bar."""
        if self.bar.disable:
            print(line, flush=True)


@dataclass
class Sweep:
    """The state of a sweep.

    Attributes:
        todo: runs that are not finished, as far as known, and not running here.
        claims: the runs that run here, each with what keeps other sweeps from it.
        failed: the runs that failed, each with its exit code and last lines.
    """

    todo: list[Run]
    engine: Local | OnRay
    progress: Progress
    claims: dict[Run, IO[str]] = field(default_factory=dict)
    failed: dict[Run, Ended] = field(default_factory=dict)

    def work(self) -> None:
        """Run what is to do until all of it is finished, here or elsewhere, or has failed."""
        waiting = False
        while self.todo or self.claims:
            while self.engine.has_room() and self.start_one():
                waiting = False
            if self.todo and not self.claims and not waiting:
                self.progress.say(f"waiting for runs that other processes are at: {len(self.todo)}")
                waiting = True
            for ended in self.engine.ended(POLL_SECONDS):
                self.end_one(ended)
            self.progress.look(self.claims)
            self.progress.bar.set_postfix_str(f"{len(self.claims)} running, {len(self.failed)} failed")

    def start_one(self) -> bool:
        """Start the first run that nobody is at, dropping those finished elsewhere. Returns whether there is one."""
        for run in list(self.todo):
            mine = claim(run)
            self.progress.look([run])
            if mine is None:
                continue
            self.todo.remove(run)
            if not is_finished(run):
                self.claims[run] = mine
                self.engine.start(run)
                return True
            mine.close()
            self.progress.say(f"finished elsewhere: {run.name}")
        return False

    def end_one(self, ended: Ended) -> None:
        """Take note of how a run ended; one that another process is at after all is tried again later."""
        run = ended.run
        self.claims.pop(run).close()
        self.progress.look([run])
        if ended.code and IN_USE in ended.last_lines:
            self.todo.append(run)
        elif ended.code:
            self.failed[run] = ended
            self.progress.bar.total -= run.n_rows - self.progress.n_rows[run]
            self.progress.say(f"failed: {run.name}")
        else:
            self.progress.say(f"finished: {run.name}")


def command(run: Run, threads: int) -> str:
    """What does a run by hand, in a shell."""
    settings = (f"{name}={value}" for name, value in thread_settings(threads).items())
    return " ".join([*settings, shlex.join(["python", "demo.py", *run.flags])])


def report(sweep: Sweep, runs: Sequence[Run], threads: int) -> int:
    """Say how a sweep ended and list its failures. Returns the exit code."""
    failed = dict(sweep.failed)
    for run in runs:
        if run not in failed and not is_finished(run):
            why = f"demo.py ended well, but {run.folder} is not whole here; do all machines share this folder?"
            failed[run] = Ended(run, 0, why)
    for run, ended in failed.items():
        last_lines = "".join(f"\n    {line}" for line in ended.last_lines.splitlines())
        print(f"failed (exit code {ended.code}): {command(run, threads)}{last_lines}", file=sys.stderr)
    print(f"# {len(runs)} runs: {len(runs) - len(failed)} finished, {len(failed)} failed")
    return 1 if failed else 0


def check(args: argparse.Namespace) -> None:
    """Check the flags that are this script's own and no list.

    Raises:
        UserError: a value is not allowed.
    """
    for flag in ("jobs", "jobs_per_gpu", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: must be 1 or more")


def run_sweep(args: argparse.Namespace, rest: Sequence[str], device: str) -> int:
    """Do all that is to do. Returns the exit code."""
    check(args)
    runs = part(resolved(args, rest), args.shard)
    todo = [run for run in runs if not is_finished(run)]
    if args.dry_run:
        print(*(command(run, args.threads) for run in todo), sep="\n", end="\n" if todo else "")
        return 0
    print(f"# {len(runs)} runs, {len(runs) - len(todo)} of them finished already", flush=True)
    engine = OnRay(args, device) if args.engine == "ray" else Local(local_slots(args, device))
    sweep = Sweep(todo, engine, Progress(runs))
    try:
        sweep.work()
    finally:
        sweep.progress.bar.close()
        engine.stop()
    return report(sweep, runs, args.threads)


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    args, rest = parser().parse_known_args(argv)
    of_demo = demo.parser().parse_args(rest)
    if of_demo.list_strategies:
        print(demo.list_strategies())
        return 0
    return exit_code(lambda: run_sweep(args, rest, of_demo.device), "interrupted; the same command resumes the sweep")


if __name__ == "__main__":
    sys.exit(main())
