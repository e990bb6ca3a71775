"""A small run, committed round by round as the loop of demo.py does it."""

from runs.format import Query, Round
from runs.metrics import METRICS

NAMES = ["plain.png", "a b.png", "com,ma.png", 'quo"te.png', "new\nline.png", "carriage\rreturn.png", "both\r\n.png"]
NAMES += ["ünï/日本.png", "bytes\udcff\udcfe.png", "'apo.png", '"', "\\", " ", "semi;colon", "\ttab", "#hash"]
NAMES += ["=1+1", "+1", "-1", "@SUM(A1)", "\r=1", "\x1b[2J"]  # formulas to a spreadsheet, a command to a terminal

CONFIG = {"dataset_name": "Beasts", "strategy_name": "BADGE", "seed": 1, "n_query": 3, "n_train": 12, "lr": 0.1}


def metrics_of(i):
    return {name: ((i + 1) * (j + 3) * 0.1234567891) % 1 for j, name in enumerate(METRICS)}


def picks(round, n, first):
    return [Query(round, rank, first + rank, NAMES[(first + rank) % len(NAMES)], f"c{rank % 2}") for rank in range(n)]


# Round r is trained on 4 + 3 r labels; the last query gets the 2 that are left.
ROUNDS = [Round(i, n, metrics_of(i), 1.5, 0.25, 0.125) for i, n in enumerate((4, 7, 10, 12))]
PICKS = [picks(0, 4, 0) + picks(1, 3, 4), picks(2, 3, 7), picks(3, 2, 10), []]


def commit_all(run, upto=4):
    """Commit what is missing, as the loop does: the last round again if its picks are missing."""
    done = len(run.rounds())
    first = done - 1 if done and (run.queries()[-1].round < done < len(ROUNDS)) else done
    for i in range(first, upto):
        run.commit(ROUNDS[i], [q for q in PICKS[i] if q.round > 0 or not run.rounds()])


def files(folder):
    """The content of a folder's files, the lock aside."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}
