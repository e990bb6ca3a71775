"""Damage results and images in hundreds of ways, crash runs, and look for what must never happen.

Usage:
    python tests/campaign.py --seed 1 --seconds 120
    python tests/campaign.py --seed 1 --case results:17     # one case again, with all that was printed

Prints counts; the exit code is 1 if there was any fault: a traceback, a hang, an undocumented exit code, a committed
round that is lost or a value out of range that is believed without a word, a changed file outside of the results, an
unreadable image that is not named, too much memory, stray lines on stderr.
"""

import argparse
import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from campaign_images import N_IN_FOLDER, DamagedImages
from campaign_results import Crashes, Results

ROOMS = {"results": Results, "images": DamagedImages, "crashes": Crashes}
COUNTED = {"images": N_IN_FOLDER}  # what a case damages, where it is not one
N_LANES = 2  # processes that work on cases
SPARE = 3  # seconds that the last cases may take beyond the time limit


def run_case(room, name, i, seed, work):
    """One case in an empty folder. Returns what was done, and every command with its ending and faults."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    rng = np.random.default_rng([seed, list(ROOMS).index(name), i])
    done, *commands = room.case(i, rng, work)
    return done, commands


def lane(rooms, cases, seed, work, end, log):
    """Work on some cases until the time is up, and write a line of JSON on each."""
    for name, i in cases:
        if time.monotonic() > end:
            break
        done, commands = run_case(rooms[name], name, i, seed, work)
        faults = [[command, fault] for command, _, found in commands for fault in found]
        log.write(json.dumps([name, i, done, len([c for c in commands if c[1]]), faults]) + "\n")
        log.flush()


def run_lanes(rooms, cases, seed, folder, end):
    """Work on all cases in forked processes. Returns a list for each case done."""
    gc.collect()
    gc.freeze()  # the children's garbage collector leaves alone what they share with this process
    children = []
    for k in range(N_LANES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with open(folder / f"lane{k}.json", "w") as log:
                    lane(rooms, cases[k::N_LANES], seed, folder / f"lane{k}", end, log)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * N_LANES, "the campaign itself failed"
    texts = [(folder / f"lane{k}.json").read_text() for k in range(N_LANES)]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def report(found, planned):
    """Print counts and distinct faults. Returns the exit code."""
    for name, n in planned.items():
        of = [f for f in found if f[0] == name]
        commands = sum(f[3] for f in of)
        faulty = sum(bool(f[4]) for f in of)
        per = COUNTED.get(name, 1)
        print(f"{name}: {per * len(of)} of {per * n} cases, {commands} commands, {faulty} with faults")
    distinct = Counter()
    examples = {}
    for name, i, done, _, faults in found:
        for command, fault in faults:
            script = command.split()[0]
            what = done.partition(":")[0] if name == "results" else ""
            key = name, what, script, re.sub(r"/\S+|\d+|'[^']*'", "*", fault)
            distinct[key] += 1
            examples.setdefault(key, (f"{name}:{i}", done, fault))
    for key, n in distinct.most_common():
        case, done, fault = examples[key]
        print(f"{n} x {key[2]}: {fault[:200]}\n    as in --case {case}: {done[:300]}")
    return 1 if distinct else 0


def main():
    """Run the campaign. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="time limit; what is not reached is left out")
    parser.add_argument("--results", type=int, default=300, help="damaged results")
    parser.add_argument("--images", type=int, default=500, help="damaged images")
    parser.add_argument("--crashes", type=int, default=40, help="killed runs")
    parser.add_argument("--case", help="do one case again, such as results:17, and show everything")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds - SPARE
    torch.set_num_threads(1)  # no other threads, so that a child of this process can compute
    planned = {"results": args.results, "images": -(-args.images // N_IN_FOLDER), "crashes": args.crashes}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.case:
            name, _, i = args.case.partition(":")
            return show_case(name, int(i), args.seed, folder)
        rooms = {}
        for name, n in planned.items():
            (folder / name).mkdir()
            if n:
                rooms[name] = ROOMS[name](folder / name, np.random.default_rng(args.seed))
        cases = sorted((i / n, name, i) for name, n in planned.items() for i in range(n))
        start = time.monotonic()
        found = run_lanes(rooms, [(name, i) for _, name, i in cases], args.seed, folder, end)
        print(f"seed {args.seed}: {time.monotonic() - start:.0f} s")
        return report(found, planned)


def show_case(name, i, seed, folder):
    """Do one case and print everything. Returns the exit code."""
    (folder / name).mkdir()
    done, commands = run_case(ROOMS[name](folder / name, np.random.default_rng(seed)), name, i, seed, folder / "case")
    print(done)
    for command, ending, faults in commands:
        print(f"\n$ {command}\n{ending.out + ending.err if ending else ''}exit code {ending and ending.code}")
        for fault in faults:
            print(f"FAULT {fault}")
    return 1 if any(faults for *_, faults in commands) else 0


if __name__ == "__main__":
    sys.exit(main())
