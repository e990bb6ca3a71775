"""How far the stopping advice of labeling/advice.py can be trusted: `python benchmarks/advice.py` (two minutes).

- Forecasts on simulated learning curves, power laws and others: how often one is given, how often its 80 % interval
  holds the truth, and how wide it is.
- "Stop" on scikit-learn's digits: a linear classifier, margin sampling, 20 labels a round, 100 validation images,
  judged after every round and stopped at the first "stop"; accuracy then, and with all labels, on images never used.
- Intervals of the gain on simulated pairs of networks: how often they hold the truth, paired and by counts.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parent.parent))
from scipy.special import ndtri

from labeling.advice import FARTHEST, Point, advise, forecast, gain_between, kappa

CURVES = {
    "power law": lambda n, r: power(n, r.uniform(0.0, 0.15), r.uniform(0.2, 0.6), r.uniform(0.3, 1.0)),
    "exponential": lambda n, r: exponential(n, r.uniform(0.02, 0.15), r.uniform(0.3, 0.6), r.uniform(100, 600)),
    "late start": lambda n, r: late(n, r.uniform(0.02, 0.15), r.uniform(0.4, 0.7), r.uniform(100, 300)),
}


def power(n, floor, height, exponent):
    """Accuracy with n labels."""
    return 1 - floor - height * (n / 50) ** -exponent


def exponential(n, floor, height, scale):
    """Accuracy with n labels."""
    return 1 - floor - height * np.exp(-n / scale)


def late(n, floor, height, middle):
    """Flat at first, then steep, then flat, in the logarithm of the labels."""
    return 1 - floor - height / (1 + (n / middle) ** 1.5)


def simulated(curve, seed, n_val, n_rounds, step=50):
    """The measurements of a project, and its true accuracy for every number of labels."""
    rng = np.random.default_rng(seed)
    every = np.arange(1, 20_000)
    truth = curve(every, np.random.default_rng([seed, 1]))
    n = step * np.arange(1, n_rounds + 1)
    luck = rng.normal(size=n_val)  # of the images, the same for all trainings
    share, chance = rng.uniform(0.4, 0.9), rng.uniform(0, 0.01)
    points = []
    for i in range(n_rounds):
        accuracy = np.clip(truth[n[i] - 1] + rng.normal(0, chance), 0.01, 0.99)
        z = np.sqrt(share) * luck + np.sqrt(1 - share) * rng.normal(size=n_val)
        right = z < ndtri(accuracy)
        points.append(Point(i, int(n[i]), n_val, int(right.sum()), None, dict(enumerate(map(bool, right)))))
    return points, truth


def forecasts(n_runs=200):
    """Targets are 0 to 7 points above the true accuracy. The last columns are of the forecasts that were given."""
    print("curve        n_val rounds  reached  forecast  unlikely  cannot tell  covered  false unlikely  width/labels")
    total = [0] * 4
    for name, curve in CURVES.items():
        for n_val in (100, 400):
            for n_rounds in (5, 12):
                seen = {"reached": 0, "forecast": 0, "unlikely": 0, "cannot tell yet": 0}
                covered, false, widths = [], [], []
                for seed in range(n_runs):
                    points, truth = simulated(curve, seed, n_val, n_rounds)
                    target = float(np.clip(truth[points[-1].n_labeled - 1] + (seed % 8) / 100, 0.05, 0.99))
                    result = forecast(points, target)
                    seen[result.outlook] += 1
                    reached = np.flatnonzero(truth >= target - 1e-9)
                    needed = max(reached[0] + 1, points[-1].n_labeled) if len(reached) else np.inf
                    if result.outlook == "forecast":
                        covered.append(result.low - 1 <= needed <= result.high + 1)
                        widths.append((result.high - result.low) / points[-1].n_labeled)
                    if result.outlook == "unlikely":
                        false.append(needed <= FARTHEST * points[-1].n_labeled)
                shares = "  ".join(f"{100 * v / n_runs:7.0f}%" for v in seen.values())
                total[0] += sum(covered)
                total[1] += len(covered)
                total[2] += sum(false)
                total[3] += len(false)
                rate = [f"{100 * np.mean(x):5.0f}%" if x else "     -" for x in (covered, false)]
                width = f"{np.median(widths):.2f}" if widths else "-"
                print(f"{name:12} {n_val:5} {n_rounds:6} {shares}  {rate[0]}  {rate[1]}  {width}", flush=True)
    print("forecasts that held the truth: {} of {}; unlikely though it was reached: {} of {}".format(*total))


def stopping(n_seeds=20, n_val=100, step=20):
    """By all signs, and by agreement alone."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    rows = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(x))
        test, val, others, pool = np.split(order, [400, 400 + n_val, 600 + n_val])
        chosen = [*pool[:step]]
        points, before, stopped, by_agreement = [], None, None, None
        while True:
            model = LogisticRegression(C=1.0, max_iter=300).fit(x[chosen], y[chosen])
            predicted = model.predict(x[others])
            right = model.predict(x[val]) == y[val]
            agreement = None if before is None else kappa(before, predicted, 10)
            known = dict(zip(val.tolist(), right.tolist(), strict=True))
            points.append(Point(len(points), len(chosen), n_val, int(right.sum()), agreement, known))
            before, accuracy = predicted, model.score(x[test], y[test])
            last = [p.kappa for p in points[-3:] if p.kappa is not None]
            if by_agreement is None and len(last) == 3 and np.mean(last) >= 0.99:
                by_agreement = len(chosen), accuracy
            if stopped is None and advise(points).verdict == "stop":
                stopped = len(chosen), accuracy
            left = np.setdiff1d(pool, chosen)
            if not len(left):
                break
            probs = np.sort(model.predict_proba(x[left]), axis=1)
            chosen += [*left[np.argsort(probs[:, -1] - probs[:, -2])[:step]]]
        rows.append((stopped or (len(chosen), accuracy), by_agreement or (len(chosen), accuracy), accuracy))
    for what, k in (("advice", 0), ("agreement alone", 1)):
        n = np.array([r[k][0] for r in rows])
        lost = 100 * np.array([r[2] - r[k][1] for r in rows])
        print(
            f"digits, {what}: stops at {np.median(n):.0f} labels (median; {n.min()} to {n.max()}) of {len(chosen)}; "
            f"accuracy {lost.mean():.2f} points below that of all labels on average, {lost.max():.1f} at worst"
        )


def gains(n_runs=4000):
    """Pairs of networks whose right answers are correlated."""
    rng = np.random.default_rng(1)
    for n_val, p1, p2 in ((50, 0.8, 0.85), (100, 0.9, 0.92), (400, 0.95, 0.95)):
        inside, widths = np.zeros(2), np.zeros(2)
        for _ in range(n_runs):
            luck, own = rng.normal(size=n_val), rng.normal(size=(2, n_val))
            a, b = (np.sqrt(0.7) * luck + np.sqrt(0.3) * own < ndtri([[p1], [p2]])).tolist()
            points = [Point(0, 50, n_val, sum(r), None, dict(enumerate(r))) for r in (a, b)]
            for k, (old, new) in enumerate((points, [p._replace(correct=None) for p in points])):
                gain = gain_between(old, new)
                inside[k] += gain.low <= p2 - p1 <= gain.high
                widths[k] += gain.high - gain.low
        shares, means = 100 * inside / n_runs, 100 * widths / n_runs
        print(
            f"gain {p1} to {p2} on {n_val} images: 95 % interval holds it in {shares[0]:.1f} % (paired, {means[0]:.1f} "
            f"points wide), {shares[1]:.1f} % (counts, {means[1]:.1f} points wide)"
        )


if __name__ == "__main__":
    gains()
    stopping()
    forecasts()
