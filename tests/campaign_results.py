"""Damage one file of finished runs, then plot, compare and resume; and what must hold whatever was damaged."""

import contextlib
import csv
import io
import math
import os
import re
import shutil
from functools import cache
from pathlib import Path

import crash_everywhere
import damage
import torch
from children import content_at, in_child, snapshot

import compare
import demo
import images.digits
import plot
import utils
from runs.format import CONFUSION, KEY_COLUMNS, MODEL, PREDICTIONS, QUERIES, ROUNDS, SECONDS
from runs.metrics import METRICS

FLAGS = {
    "dataset_name": "Digits", "img_size": 8, "net_name": "SmallCNN", "n_epoch": 1, "min_steps": 12, "lr": 0.1,
    "n_init_labeled": 20, "n_query": 5, "device": "cpu",
}  # fmt: skip
VICTIM = "MarginSampling"  # its run of seed 1 is damaged
N_ROUND, FEWER, MORE = 3, 2, 4
# How often each is damaged; those of a run that are not named, once. "." is the folder itself.
WEIGHTS = {"rounds.csv": 8, "queries.csv": 4, "config.json": 2, "environment.json": 2, "last_round.json": 3, ".": 1}
WEIGHTS |= {"predictions.csv": 2, "confusion_matrix.csv": 3, "model.pt": 2, "*.pt": 4}
# Columns of rounds.csv by what they can hold.
KINDS = {m.name: "share" if m.share else "number" for m in METRICS.values()}
COLUMNS = (*KEY_COLUMNS, *METRICS)
KINDS |= {"round": "count", "n_labeled": "count"} | {s: "number" for s in SECONDS}


def words(n_round=N_ROUND, strategy=VICTIM, seed=1):
    """A command line of demo.py."""
    flags = {**FLAGS, "n_round": n_round, "strategy_name": strategy, "seed": seed}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run_folder(results, strategy=VICTIM, seed=1):
    """The folder of a run below a folder of results."""
    (folder,) = (results / "Digits" / strategy).glob(f"seed{seed}-*")
    return folder


class Results:
    """Finished runs, and what they must hold after each round.

    Args:
        base: gets two strategies of two seeds in `results`, and the victim after 2, 3 and 4 rounds in `2`, `3`, `4`.
        rng: decides on the order in which files are damaged.
    """

    def __init__(self, base, rng):
        self.base = base
        utils.git_commit = cache(utils.git_commit)  # the same for all commands
        images.digits.digit_images = cache(images.digits.digit_images)
        for seed in (1, 2):
            for strategy in (VICTIM, "RandomSampling"):
                self.setup(demo.main, [*words(strategy=strategy, seed=seed), "--results_dir", str(base / "results")])
        for n_round in (FEWER, N_ROUND, MORE):
            folder = base / str(n_round)
            self.setup(demo.main, [*words(n_round), "--results_dir", str(base / "resumed")])
            shutil.copytree(run_folder(base / "resumed"), folder)
        self.text = self.setup(compare.main, [str(base / "results"), "--out", str(base / "report")])
        self.setup(plot.main, [str(base / "results"), "--out", str(base / "curves")])
        self.setup(plot.main, ["--confusion", str(run_folder(base / "results")), "--out", str(base / "matrix")])
        self.compared = compared(base / "report")
        self.rows = rows(self.base / str(MORE))
        self.text_of_rows = (self.base / str(MORE) / ROUNDS).read_bytes()
        self.picks = (self.base / str(MORE) / QUERIES).read_bytes()
        victim = run_folder(base / "results")
        own = [victim / name for name in [*os.listdir(victim), "."]]
        shared = [p for p in (base / "results" / ".round0").iterdir()] + [base / "results" / ".round0"]
        targets = [
            p.relative_to(base / "results")
            for p in sorted(own) + sorted(shared)
            for _ in range(WEIGHTS.get(p.name, WEIGHTS.get(f"*{p.suffix}", 1) if p.parent.name == ".round0" else 1))
        ]
        self.targets = [targets[k] for k in rng.permutation(len(targets))]

    def setup(self, main, argv):
        """Run a script in this process, which then has imported what its children need. Returns what it printed."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(argv) == 0
        return out.getvalue()

    @cache  # noqa: B019  # one object lives as long as the process
    def outputs(self, n_round):
        """What the files of the last round hold after a number of rounds."""
        return outputs(self.base / str(n_round))

    def case(self, i, rng, folder):
        """Damage a file and run the scripts. Yields what was done, then every command with its ending and faults."""
        results, outside = folder / "results", folder / "outside"
        outside.mkdir()
        (outside / "innocent").write_text("unchanged")
        shutil.copytree(self.base / "results", results)
        target = self.targets[i % len(self.targets)]
        path, shared = results / target, target.parts[0] == ".round0"
        victim = run_folder(results)
        done, noticed = damaged(path, other_of(results, target), rng, outside)
        yield f"{target}: {done}"
        around = {"outside": snapshot(outside), "other": snapshot(run_folder(results, seed=2))}
        if "swapped" in done:
            around.pop("other")
        if shared:
            shutil.rmtree(victim)  # so that round 0 is needed again
        yield from self.look(results, victim, folder, rng, target, noticed)
        yield self.resume(results, victim, folder, rng, noticed)
        changed = [name for name, before in around.items() if snapshot(places(folder)[name]) != before]
        stray = os.listdir(folder / "cwd")
        yield "all of them", None, [f"changed outside of the run: {c}" for c in [*changed, *stray]]

    def look(self, results, victim, folder, rng, target, noticed):
        """Plot and compare."""
        argv = [str(results), "--out", str(folder / "report")]
        ending = in_child(lambda: compare.main(argv), folder)
        yield f"compare.py {' '.join(argv)}", ending, ending.faults() + self.compare_faults(ending, folder, noticed)
        plots = []
        if target.name in (CONFUSION, "."):
            plots.append(["--confusion", str(victim)])
        if target.name in (ROUNDS, "config.json", "environment.json") and rng.integers(3) == 0:
            plots.append([str(results)])
        for argv in plots:
            argv = [*argv, "--out", str(folder / "figure")]
            ending = in_child(lambda argv=argv: plot.main(argv), folder)
            faults = ending.faults()
            found = content_at(os.path.realpath(victim / ROUNDS)) or b""
            if ending.code == 0 and not ending.err and n_intact(found, self.text_of_rows) < found.count(b"\n") - 1:
                faults.append("silent: plotted damaged rows")
            yield f"plot.py {' '.join(argv)}", ending, faults

    def compare_faults(self, ending, folder, noticed):
        """Values out of range, or other values than before without a word."""
        if ending.code != 0:
            return []
        found, faults = compared(folder / "report"), []
        for strategy, row in found.items():
            faults += [f"out of range: {c} of {strategy} is {row[c]}" for c in impossible(row)]
        about = re.compile("left out|unfinished|not finished|damaged|rounds")
        told = ending.err or any(about.search(line) and line not in self.text for line in ending.out.splitlines())
        if not told and noticed and values(found) != values(self.compared):
            faults.append("silent: compare.csv has other values than before the damage")
        return faults

    def resume(self, results, victim, folder, rng, noticed):
        """Run demo.py again with the same, a larger or a smaller number of rounds."""
        n_round = int(rng.choice([N_ROUND, N_ROUND, MORE, FEWER]))
        before = {name: content_at(victim / name) for name in (ROUNDS, QUERIES)}
        intact = n_intact(before[ROUNDS], self.text_of_rows)
        argv = [*words(n_round), "--results_dir", str(results)]
        ending = in_child(lambda: demo.main(argv), folder)
        faults = ending.faults()
        if ending.code == 2:
            after = {name: content_at(victim / name) for name in before}
            grown = intact > N_ROUND and n_intact(after[ROUNDS], self.text_of_rows) >= intact  # by another round
            lost = [name for name, was in before.items() if was is not None and after[name] != was]
            faults += [f"refused, and changed {name}" for name in lost if not grown]
        elif ending.code == 0:
            faults += self.end_faults(victim, n_round, intact, told=bool(ending.err))
        return f"demo.py {' '.join(argv)}", ending, faults

    def end_faults(self, victim, n_round, intact, told):
        """How a run that ended well differs from one that was never damaged."""
        how = "in spite of a note" if told else "silent"
        try:
            found, picks = rows(victim), (victim / QUERIES).read_bytes()
            seconds = [float(r.get(s) or 0) for r in records(victim / ROUNDS) for s in SECONDS]
        except (OSError, ValueError, KeyError) as e:
            return [f"{how}: ended with code 0, but {type(e).__name__} in its files"]
        faults = []
        if found != self.rows[: len(found)]:
            faults.append(f"{how}: {ROUNDS} differs from that of an undamaged run")
        if len(found) < n_round + 1:
            faults.append(f"{how}: {len(found)} rounds instead of {n_round + 1}")
        if len(found) < intact and not told:
            faults.append(f"silent: {intact} rounds were intact, {len(found)} are left")
        if not self.picks.startswith(picks):
            faults.append(f"{how}: {QUERIES} differs from that of an undamaged run")
        if not all(0 <= s < 1e9 for s in seconds):
            faults.append(f"{how}: seconds out of range")
        shown, last = outputs(victim), len(found) - 1
        expected = [self.outputs(r) for r in {last, min(last, n_round)} if FEWER <= r <= MORE]
        if expected and shown not in expected:
            wrong = [name for name in shown if all(shown[name] != of[name] for of in expected)]
            faults.append(f"{how}: {', '.join(wrong) or 'mixed files'} not of the last round")
        return faults


def damaged(path, other, rng, outside):
    """Damage a file. Returns what was done, and whether a silent change of values would be a fault."""
    if not path.is_file() or not path.stat().st_size or rng.integers(4) == 0:
        return damage.place(path, rng, outside, other), path.name == ROUNDS
    data = path.read_bytes()
    ways = [damage.bytes_of]
    if path.suffix == ".csv":
        ways += [damage.lines_of, damage.cells_of]
    if path.suffix == ".json":
        ways += [damage.values_of] * 2
    if path.suffix == ".pt":
        ways += [damage.weights_of] * 2
    if path.name == ROUNDS:
        ways += [damage.cells_of, lambda data, rng: damage.impossible_of(data, rng, KINDS)]
    data, done = damage.pick(rng, ways)(data, rng)
    path.write_bytes(data)
    return done, path.name == ROUNDS


def other_of(results, target):
    """The same file of another run."""
    if target.parts[0] == ".round0":
        of_seeds = sorted((results / target).parent.glob("*.pt")) if target.suffix == ".pt" else []
        return next((p for p in of_seeds if p.name != target.name), None)
    return run_folder(results, "RandomSampling") / target.relative_to(run_folder(results).relative_to(results))


def places(folder):
    """What no script may change: the folder outside of the results, and another run."""
    return {"outside": folder / "outside", "other": run_folder(folder / "results", seed=2)}


def records(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as f:
        return list(csv.DictReader(f))


def rows(folder):
    """What the columns of a run's rounds.csv say that are known and the same in equal runs."""
    return [{c: row[c] for c in COLUMNS} for row in records(folder / ROUNDS)]


def n_intact(content, expected):
    """The rounds at the beginning of a rounds.csv that the damage left as they were, seconds aside."""
    if not isinstance(content, bytes):
        return 0
    (header, *found), (columns, *wanted) = (
        [line.split(",") for line in text.decode("latin-1").split("\n")] for text in (content, expected)
    )
    kept = [i for i, c in enumerate(columns) if c not in SECONDS]
    same = [all(a[i : i + 1] == b[i : i + 1] for i in kept) for a, b in zip(found, wanted, strict=False) if b != [""]]
    return 0 if header != columns else [*same, False].index(False)


def outputs(folder):
    """The files that show the last round; None for one that is missing or damaged."""
    shown = {name: content_at(folder / name) for name in (PREDICTIONS, CONFUSION)}
    try:
        state = torch.load(folder / MODEL, weights_only=True)["state_dict"]
        shown[MODEL] = {k: v.numpy().tobytes() for k, v in state.items()}
    except Exception:
        shown[MODEL] = None
    return shown


def compared(report):
    """The rows of a compare.csv by strategy."""
    return {f"{r['table']} {r['strategy_name']}": r for r in records(report / "compare.csv")}


def values(compared):
    """What must not change without a word: all but seconds."""
    return {k: {c: v for c, v in row.items() if not c.endswith("_seconds")} for k, row in compared.items()}


def impossible(row):
    """The columns of a row of compare.csv that hold what cannot be."""
    bounds = {c: (0, 1) for c in ("aubc", "final", "p", "p_holm")} | {c: (-1, 1) for c in ("gain", "final_gain")}
    bounds |= {"query_seconds": (0, 1e9), "final_sd": (0, 1)}
    return [c for c, (low, high) in bounds.items() if row[c] and not low <= number(row[c]) <= high]


def number(cell):
    try:
        return float(cell)
    except ValueError:
        return math.nan


class Crashes:
    """A run that is killed at one of the steps that change the disk.

    Args:
        base: gets the undisturbed run.
        rng: decides on the order of the steps.
    """

    def __init__(self, base, rng):
        self.results = base / "whole"
        code, self.n_steps = crash_everywhere.run(words(FEWER), self.results)
        assert code == 0
        self.whole = crash_everywhere.content(self.results)
        self.steps = 1 + rng.permutation(self.n_steps)

    def case(self, i, rng, folder):
        """Kill a run, compare what is there, resume the run. Yields as `Results.case` does."""
        del rng
        deadly = int(self.steps[i % self.n_steps])
        yield f"killed at step {deadly} of {self.n_steps}"
        results = folder / "results"
        argv = [*words(FEWER), "--results_dir", str(results)]

        def dying():
            crash_everywhere.watch(crash_everywhere.Steps(deadly))
            return demo.main(argv)

        ending = in_child(dying, folder)
        yield f"demo.py {' '.join(argv)}", ending, ending.faults(codes=(-9,))
        if Path(results).is_dir():
            ending = in_child(lambda: compare.main([str(results), "--out", str(folder / "report")]), folder)
            yield f"compare.py {results}", ending, ending.faults()
        ending = in_child(lambda: demo.main(argv), folder)
        faults = ending.faults(codes=(0,))
        if ending.code == 0 and crash_everywhere.content(results) != self.whole:
            faults.append("ended otherwise than the undisturbed run")
        yield f"demo.py {' '.join(argv)}", ending, faults
