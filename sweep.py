"""Many experiments: every combination of the lists below, each a run of demo.py, on one machine or on a cluster.

Finished runs are skipped, interrupted ones resumed. Several sweeps over one results folder share the work.
"""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

import demo
from data import ImageData, load
from files import Lock
from runs.format import run_path
from runs.job import Ended, Job, claim, is_finished, n_committed
from runs.local import Local, slot_settings, thread_settings
from runs.on_ray import OnRay
from strategies import GROUPS, list_strategies
from utils import Parser, UserError, exit_code, print_error, printable

DEMO = Path(__file__).resolve().parent / "demo.py"
# Seeds vary fastest, so that parallel runs seldom wait for each other: round 0 is shared by the runs of a seed.
LISTS = ("dataset_name", "net_name", "n_init_labeled", "n_query", "strategy_name", "seed")
MAX_SEEDS = 10_000  # in one range; larger ranges are assumed to be typos
POLL_SECONDS = 0.5  # between two updates of the progress
IN_USE = " is in use: another process"  # in the error of demo.py when another process does the same run


def parser() -> argparse.ArgumentParser:
    """The flags of this script; all others are demo.py's."""
    p = Parser(
        description=__doc__,
        epilog="Every other flag is passed on to demo.py; python demo.py --help lists them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    of_demo = demo.parser()
    lists = p.add_argument_group("lists, separated by spaces or commas")
    groups = "names, or all, fast (without queries of minutes), eight (the first eight)"
    lists.add_argument("--strategy_name", nargs="+", default=["all"], help=groups)
    lists.add_argument("--seed", nargs="+", default=["1-5"], help="numbers and ranges, such as 1-5 or 1,3,7")
    for name in ("dataset_name", "net_name", "n_query", "n_init_labeled"):
        lists.add_argument(f"--{name}", nargs="+", default=[str(of_demo.get_default(name))], help="see demo.py --help")
    p.add_argument("--jobs", type=int, help="parallel runs; by default as many as fit on the GPUs, or else the cores")
    p.add_argument("--jobs_per_gpu", type=int, default=1, help="parallel runs on each GPU")
    p.add_argument("--threads", type=int, default=1, help="CPU threads of each run; another number gives other picks")
    p.add_argument("--shard", default="1/1", metavar="I/N", help="do the I-th of N parts, I from 1 to N")
    p.add_argument("--engine", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    p.add_argument("--ray_address", default="auto", help="address of the cluster's head, such as 10.0.0.1:6379")
    p.add_argument("--dry_run", action="store_true", help="print the commands of the unfinished runs and exit")
    return p


# Which jobs


def split(words: Iterable[str]) -> list[str]:
    """The values of a list flag: separated by spaces (by the shell) or commas, duplicates removed."""
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
        if first > last or last - first >= MAX_SEEDS:
            raise UserError(f"--seed {part}: must be numbers and ranges of at most {MAX_SEEDS}, such as 1-5 or 1,3,7")
        numbers += range(first, last + 1)
    return [str(n) for n in dict.fromkeys(numbers)]


def list_values(args: argparse.Namespace) -> list[list[str]]:
    """The values of each of LISTS.

    Raises:
        UserError: a list is empty, or a seed is not a number.
    """
    values = {name: split(getattr(args, name)) for name in LISTS}
    values["seed"] = seeds(args.seed)
    names = values["strategy_name"]
    values["strategy_name"] = list(dict.fromkeys(itertools.chain(*(GROUPS.get(name, [name]) for name in names))))
    for name in LISTS:
        if not values[name]:
            raise UserError(f"--{name} {' '.join(getattr(args, name))}: holds no value")
    return [values[name] for name in LISTS]


def all_jobs(args: argparse.Namespace, rest: Sequence[str]) -> list[Job]:
    """Every job of a sweep, checked as demo.py checks it. Loads each dataset once.

    Args:
        args: the flags of this script.
        rest: the flags that are passed on to demo.py.

    Raises:
        UserError: demo.py would refuse one of them.
    """
    notes, stderr = io.StringIO(), sys.stderr

    @cache
    def load_once(*which: Any) -> ImageData:
        with redirect_stderr(stderr):  # shows the progress while a dataset is read
            return load(*which)

    of_demo = demo.parser()
    jobs: dict[Path, Job] = {}
    with redirect_stderr(notes):
        for values in itertools.product(*list_values(args)):
            flags = [*itertools.chain(*((f"--{name}", v) for name, v in zip(LISTS, values, strict=True))), *rest]
            with redirect_stderr(stderr):
                demo_args = of_demo.parse_args(flags)
            if args.engine == "ray":
                demo_args.device = "cpu"  # the devices of the cluster may be others; the configuration holds none
            e = demo.experiment(demo_args, load_once)
            c, folder = e.config, run_path(e.results_dir, e.config)
            n_full = -(-(c["n_train"] - c["n_init_labeled"]) // c["n_query"])
            jobs.setdefault(folder, Job(tuple(flags), folder, min(e.n_round, n_full) + 1, e.n_round))
    for note in dict.fromkeys(notes.getvalue().splitlines()):
        print_error(note)
    return list(jobs.values())


def shard(jobs: Sequence[Job], i_of_n: str) -> list[Job]:
    """The jobs of one shard "i/n": every n-th, which spreads slow and fast strategies evenly.

    Raises:
        UserError: not of that form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", i_of_n, re.ASCII)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= i <= n:
        raise UserError(f"--shard {i_of_n}: must be I/N with I from 1 to N")
    return list(jobs[i - 1 :: n])


# The sweep


class Progress:
    """One bar over all rounds of all jobs, with the time left; where stderr is no terminal, one line a job instead."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.n_rows = {job: n_committed(job) for job in jobs}
        n_all = sum(job.n_rows for job in jobs)
        initial = sum(self.n_rows.values())
        self.bar = tqdm(total=n_all, initial=initial, unit="round", smoothing=0, disable=None)

    def update(self, jobs: Iterable[Job]) -> None:
        """Count the rounds that these jobs have committed since the last update."""
        for job in jobs:
            self.n_rows[job] = n_committed(job)
        self.bar.update(sum(self.n_rows.values()) - self.bar.n)

    def print_line(self, line: str) -> None:
        """Print a line where there is no bar."""
        if self.bar.disable:
            print(printable(line), flush=True)


@dataclass
class Sweep:
    """The state of a sweep.

    Attributes:
        todo: jobs that are neither running here nor known to be finished.
        claims: the jobs that run here, each with the lock that keeps other sweeps away from it.
        failed: the jobs that failed, each with its exit code and last lines.
    """

    todo: list[Job]
    engine: Local | OnRay
    progress: Progress
    claims: dict[Job, Lock] = field(default_factory=dict)
    failed: dict[Job, Ended] = field(default_factory=dict)

    def work(self) -> None:
        """Run until every job is finished, here or elsewhere, or has failed."""
        waiting = False
        while self.todo or self.claims:
            while self.engine.has_room() and self.start_one():
                waiting = False
            if self.todo and not self.claims and not waiting:
                self.progress.print_line(f"waiting for runs of other processes: {len(self.todo)}")
                waiting = True
            for ended in self.engine.ended(POLL_SECONDS):
                self.end_one(ended)
            self.progress.update(self.claims)
            self.progress.bar.set_postfix_str(f"{len(self.claims)} running, {len(self.failed)} failed")

    def start_one(self) -> bool:
        """Start the first job that no process works on; drop those finished elsewhere. Returns whether one started."""
        for job in list(self.todo):
            lock = claim(job)
            self.progress.update([job])
            if lock is None:
                continue
            self.todo.remove(job)
            if not is_finished(job):
                self.claims[job] = lock
                self.engine.start(job)
                return True
            lock.close()
            self.progress.print_line(f"finished elsewhere: {job.name}")
        return False

    def end_one(self, ended: Ended) -> None:
        """Record how a job ended; one that another process works on after all is tried again later."""
        job = ended.job
        self.claims.pop(job).close()
        self.progress.update([job])
        if ended.code and IN_USE in ended.last_lines:
            self.todo.append(job)
        elif ended.code:
            self.failed[job] = ended
            self.progress.bar.total -= job.n_rows - self.progress.n_rows[job]
            self.progress.print_line(f"failed: {job.name}")
        else:
            self.progress.print_line(f"finished: {job.name}")


def command(job: Job, threads: int) -> str:
    """The shell command that does a job by hand."""
    settings = (f"{name}={value}" for name, value in thread_settings(threads).items())
    return " ".join([*settings, *map(quoted, ["python", "demo.py", *job.flags])])


def quoted(word: str) -> str:
    """A word that the shell reads back as it is, without control characters and bytes that are no text."""
    if printable(word) == word and os.fsencode(word).decode("utf-8", "replace") == word:
        return shlex.quote(word)
    escaped = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


def report(sweep: Sweep, jobs: Sequence[Job], threads: int) -> int:
    """Print the failures of a sweep and its last line. Returns the exit code."""
    failed = dict(sweep.failed)
    for job in jobs:
        if job not in failed and not is_finished(job):
            reason = f"demo.py succeeded, but {job.folder} is incomplete here; do all machines share this folder?"
            failed[job] = Ended(job, 0, reason)
    for job, ended in failed.items():
        last_lines = "".join(f"\n    {printable(line)}" for line in ended.last_lines.splitlines())
        print_error(f"failed (exit code {ended.code}): {command(job, threads)}{last_lines}")
    print(f"# {len(jobs)} runs: {len(jobs) - len(failed)} finished, {len(failed)} failed")
    return 1 if failed else 0


def check(args: argparse.Namespace) -> None:
    """Check the numbers among the flags of this script.

    Raises:
        UserError: a value is not allowed.
    """
    for flag in ("jobs", "jobs_per_gpu", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: must be 1 or more")


def run_sweep(args: argparse.Namespace, rest: Sequence[str], device: str) -> int:
    """Do every job that is not finished. Returns the exit code."""
    check(args)
    jobs = shard(all_jobs(args, rest), args.shard)
    todo = [job for job in jobs if not is_finished(job)]
    if args.dry_run:
        print(*(command(job, args.threads) for job in todo), sep="\n", end="\n" if todo else "")
        return 0
    print(f"# {len(jobs)} runs, {len(jobs) - len(todo)} of them finished already", flush=True)
    on_ray = args.engine == "ray"
    engine = OnRay(DEMO, args, device) if on_ray else Local(DEMO, slot_settings(args, device))
    sweep = Sweep(todo, engine, Progress(jobs))
    try:
        sweep.work()
    finally:
        sweep.progress.bar.close()
        engine.stop()
    return report(sweep, jobs, args.threads)


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    args, rest = parser().parse_known_args(argv)
    demo_args = demo.parser().parse_args(rest)
    if demo_args.list_strategies:
        return exit_code(lambda: print(list_strategies()), "interrupted")
    interrupted = "interrupted; the same command resumes the sweep"
    return exit_code(lambda: run_sweep(args, rest, demo_args.device), interrupted)


if __name__ == "__main__":
    sys.exit(main())
