"""What the verdicts are worth, on made-up curves: false verdicts, gains that are found, intervals of labels saved.

    python benchmarks/noise.py                    about 3 minutes on one core
    python benchmarks/noise.py --figure FILE.png  draws power and false verdicts, too: the figure of docs/statistics.md
    python benchmarks/noise.py --tiny             few repetitions, in seconds: checks that it runs

All numbers come from the functions of report/ that compare.py calls; some tables of each case also go through
compare_strategies whole and must have the same p-values. Everything is seeded: the same versions print the same table.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from report.comparison import LEAST_SPREAD, SAME, compare_strategies
from report.labels_saved import labels_saved
from report.power import detectable_gain
from report.statistics import LEVEL, holm, mean_heights, paired_p
from runs.format import Round
from runs.metrics import METRICS
from runs.reading import Floats, Run
from runs.settings import BASELINE, group

SEEDS = (2, 3, 5, 10)
POWER_SEEDS = (2, 3, 4, 5, 7, 10, 15, 20)
GAINS = (0.0025, 0.005, 0.01, 0.02)
SD = 0.004  # of paired differences: 0.4 points, as measured on CIFAR-10
N_LABELED = np.arange(100, 700, 100)  # of the false verdicts
LONG = np.arange(100, 1101, 100)  # of labels saved
CHUNK = 1000  # tables in memory
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]  # of a shape

# Of mean 0 and variance 1
NOISES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails (Student's t, 3)": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
    "skewed (exponential)": lambda rng, shape: rng.standard_exponential(shape) - 1,
}


def noisy(rng: np.random.Generator, noise: Draw, shape: tuple[int, ...], sd: float = SD) -> Floats:
    """Noise of curves whose paired differences have `sd` in each round; half of the variance lasts all rounds.

    Round 0 is shared by the strategies of a seed, so it has none. Shape (..., R).
    """
    lasting, of_round = noise(rng, (*shape[:-1], 1)), noise(rng, shape)
    values: Floats = sd * (lasting + of_round) / 2
    values[..., 0] = 0
    return values


def continuous(noise: Draw) -> Draw:
    """Curves without a difference between strategies, of a metric without steps. Shape (K, S, tables, R)."""

    def curves(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return 0.7 + rng.normal(0, 0.01, (1, *shape[1:-1], 1)) + noisy(rng, noise, shape)

    return curves


def counted(n_test: int, share: float, lasting: bool) -> Draw:
    """Accuracies on `n_test` images, each right with probability `share`, anew in each round or once for a run."""

    def curves(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        drawn = rng.binomial(n_test, share, (*shape[:-1], 1) if lasting else shape)
        values: Floats = np.broadcast_to(drawn, shape) / n_test
        values[..., 0] = values[:1, ..., 0]
        return values

    return curves


def by_chance(n_test: int) -> Draw:
    """Accuracies that differ in one image alone, which a run gets right by chance, in all rounds but the first."""

    def curves(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        values: Floats = np.full(shape, 0.8)
        values[..., 1:] += rng.integers(0, 2, (*shape[:-1], 1)) / n_test
        return values

    return curves


def only_strategies(noise: Draw) -> Draw:
    """Equal means, but only RandomSampling has no noise: the differences keep the shape of the noise."""

    def curves(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        values = noisy(rng, noise, shape)
        values[0] = 0
        return 0.7 + values

    return curves


Case = tuple[Draw, int | None]  # curves (K, S, tables, R) without a difference, and test images
NO_DIFFERENCE: dict[str, Case] = {
    **{name: (continuous(noise), None) for name, noise in NOISES.items()},
    "50 test images, 80 % right": (counted(50, 0.8, False), 50),
    "50 test images, 80 % right, the same in all rounds": (counted(50, 0.8, True), 50),
    "50 test images, 98 % right, the same in all rounds": (counted(50, 0.98, True), 50),
    "10 test images, 80 % right": (counted(10, 0.8, False), 10),
    "10 test images, 80 % right, the same in all rounds": (counted(10, 0.8, True), 10),
    "50 test images, 1 by chance, the same in all rounds": (by_chance(50), 50),
}
ONLY_STRATEGIES: dict[str, Case] = {
    f"{name}, none in random": (only_strategies(noise), None) for name, noise in NOISES.items()
}


# False verdicts


def adjusted_p(curves: Floats, resolution: float) -> Floats:
    """p-values after Holm of many tables at once. Shape (tables, K-1).

    Args:
        curves: RandomSampling is the first strategy. Shape (K, S, tables, R).
        resolution: as of `paired_p`.
    """
    heights = mean_heights(N_LABELED, curves)
    p = np.stack([paired_p(of, heights[0], resolution) for of in heights[1:]])
    return np.stack([holm(of) for of in p.T])


def whole_table(curves: Floats, n_test: int | None) -> Floats:
    """p-values after Holm of one table as compare.py computes them, from curves (K, S, R). Shape (K-1,)."""
    names = [BASELINE, *(f"S{k:02d}" for k in range(1, len(curves)))]
    runs = []
    for name, of_strategy in zip(names, curves, strict=True):
        for seed, curve in enumerate(of_strategy):
            config = {"dataset_name": "noise", "strategy_name": name, "seed": seed, "n_init_labeled": 100}
            config |= {"n_query": 100} | ({"n_test": n_test} if n_test else {})
            rounds = [
                Round(r, int(n), {"accuracy": float(v)}, 1.0, 1.0, 1.0)
                for r, (n, v) in enumerate(zip(N_LABELED, curve, strict=True))
            ]
            runs.append(Run(Path("nowhere"), config, {"n_round": len(curve) - 1}, rounds))
    (setting,), _ = group(runs)
    rows = {row.label: row for row in compare_strategies(setting, METRICS["accuracy"]).rows}
    assert all((rows[name].verdict == SAME) == (rows[name].p_holm >= LEVEL) for name in names[1:])
    return np.array([rows[name].p_holm for name in names[1:]])


def false_verdicts(case: Case, n_seeds: int, n_tests: int, n_tables: int) -> tuple[float, int, int]:
    """Share of tables with a verdict of better or worse; tables that compare_strategies had too, and how many agree."""
    draw, n_test = case
    rng = np.random.default_rng([17, n_seeds, n_tests])
    n_false = n_whole = n_equal = 0
    for start in range(0, n_tables, CHUNK):
        size = min(CHUNK, n_tables - start)
        curves = draw(rng, (n_tests + 1, n_seeds, size, len(N_LABELED)))
        p = adjusted_p(curves, LEAST_SPREAD / n_test if n_test else 0.0)
        n_false += int((p < LEVEL).any(axis=1).sum())
        for i in range(3 if start == 0 else 0):
            n_whole += 1
            n_equal += bool(np.allclose(whole_table(curves[:, :, i], n_test), p[i], rtol=1e-6))
    return n_false / n_tables, n_whole, n_equal


# Gains that are found


def found(gain: float, n_seeds: int, n_tests: int, n_tables: int) -> float:
    """Share of tables that call a strategy with a true gain better; the other strategies have none. sd 0.4 points."""
    rng = np.random.default_rng([16, n_seeds, n_tests, int(1e6 * gain)])
    heights = rng.normal(0, SD / 2**0.5, (n_tests + 1, n_seeds, n_tables))
    heights[1] += gain
    p = np.stack([paired_p(of, heights[0]) for of in heights[1:]])
    better = heights[1].mean(axis=0) > heights[0].mean(axis=0)
    return float(np.mean(better & (np.stack([holm(of) for of in p.T])[:, 0] < LEVEL)))


def formula(gain: float, n_seeds: int, n_tests: int) -> float:
    """The same share from the noncentral t at the strictest step of Holm's method."""
    from scipy import special

    critical = special.stdtrit(n_seeds - 1, 1 - LEVEL / n_tests / 2)
    return float(1 - special.nctdtr(n_seeds - 1, gain / SD * n_seeds**0.5, critical))


# Labels saved


def learning_curve(gain: float) -> Floats:
    """A true curve from 40 % to 80 %, and what a strategy gains on it."""
    t = (LONG - LONG[0]) / (LONG[-1] - LONG[0])
    values: Floats = 0.4 + 0.4 * (1 - np.exp(-3 * t)) / (1 - np.exp(-3)) + gain * np.sin(0.75 * np.pi * t)
    return values


def pairs(
    noise: Draw, gain: float, sd: float, n_test: int | None, n_seeds: int, n: int
) -> Iterator[tuple[Floats, Floats]]:
    """Paired curves of a strategy and of RandomSampling, (S, R) each; accuracies are rounded to whole images."""
    rng = np.random.default_rng([15, n_seeds, int(1e6 * gain), int(1e6 * sd)])
    for _ in range(n):
        both = rng.normal(0, 0.01, (n_seeds, 1)) + noisy(rng, noise, (2, n_seeds, len(LONG)), sd)
        both += np.stack([learning_curve(gain), learning_curve(0)])[:, None]
        if n_test:
            both = np.round(both * n_test) / n_test
        yield both[0], both[1]


def coverage(
    noise: Draw, gain: float, sd: float, n_test: int | None, n_seeds: int, n: int
) -> tuple[float, float, float]:
    """Shares of intervals that hold the true value, and of estimates below and above 0."""
    truth = labels_saved(LONG, learning_curve(gain)[None], learning_curve(0)[None]).mean
    held = below = above = 0
    for a, b in pairs(noise, gain, sd, n_test, n_seeds, n):
        saved = labels_saved(LONG, a, b, LEAST_SPREAD / n_test if n_test else 0.0)
        held += saved.low <= truth <= saved.high
        below, above = below + (saved.mean < 0), above + (saved.mean > 0)
    return held / n, below / n, above / n


def bootstrap_coverage(gain: float, n_seeds: int, n: int) -> float:
    """The same share of percentile intervals of a paired bootstrap over the seeds, for comparison."""
    truth = labels_saved(LONG, learning_curve(gain)[None], learning_curve(0)[None]).mean
    rng, held = np.random.default_rng(14), 0
    for a, b in pairs(NOISES["normal"], gain, SD, None, n_seeds, n):
        drawn = rng.integers(0, n_seeds, (300, n_seeds))
        values = [labels_saved(LONG, a[d].mean(0)[None], b[d].mean(0)[None]).mean for d in drawn]
        low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
        held += low <= truth <= high
    return held / n


# The table


def line(case: str, values: list[float], remark: str = "") -> None:
    """A line of shares in %."""
    print(f"{case:<58}" + "".join(f"{100 * v:>8.1f}" for v in values) + f"  {remark}".rstrip(), flush=True)


def in_points(gain: float) -> str:
    """A share as percentage points."""
    return f"{100 * gain:g} {'point' if gain == 0.01 else 'points'}"


def title(text: str, seeds: tuple[int, ...]) -> None:
    """A line that says what the numbers below it are, and the seeds of their columns."""
    print(f"\n{text:<58}" + "".join(f"{n:>8}" for n in seeds))


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="few repetitions")
    parser.add_argument("--figure", type=Path, help="where to write the figure")
    args = parser.parse_args()
    n_tables, n_intervals = (200, 20) if args.tiny else (20_000, 2000)
    print(f"numpy {np.__version__}, {n_tables} tables a number, {n_intervals} intervals; shares in %")
    print(f"{'case':<58}" + "".join(f"{n:>8}" for n in SEEDS) + "  seeds")

    rates: dict[tuple[str, int], list[float]] = {}
    n_whole = n_equal = 0
    for n_tests in (1, 10):
        title(f"False verdicts, strategies tested: {n_tests}", SEEDS)
        for name, case in {**NO_DIFFERENCE, **ONLY_STRATEGIES}.items():
            cells = [false_verdicts(case, n, n_tests, n_tables) for n in SEEDS]
            rates[name, n_tests] = [c[0] for c in cells]
            n_whole, n_equal = n_whole + sum(c[1] for c in cells), n_equal + sum(c[2] for c in cells)
            line(name, rates[name, n_tests], "outside the assumptions" if name in ONLY_STRATEGIES else "")
    print(f"{n_equal} of {n_whole} tables as compare_strategies has them")

    power: dict[float, list[float]] = {}
    title("Found, sd 0.4 points, 10 strategies tested", POWER_SEEDS)
    for gain in GAINS:
        power[gain] = [found(gain, n, 10, n_tables) for n in POWER_SEEDS]
        line(f"a gain of {in_points(gain)}", power[gain])
        line("  by the noncentral t", [formula(gain, n, 10) for n in POWER_SEEDS])
    line("gain found with 80 %, points", [detectable_gain(SD, n, 10) for n in POWER_SEEDS])

    title("Intervals of labels saved that hold the true value", SEEDS)
    for gain in (0.0, 0.01, 0.03):
        for name, noise in NOISES.items():
            line(
                f"a gain of {in_points(gain)}, {name}",
                [coverage(noise, gain, SD, None, n, n_intervals)[0] for n in SEEDS],
            )
    for label, sd, n_test in (("sd 0.4 points, 500 test images", SD, 500), ("sd 1 point", 0.01, None)):
        for gain in (0.0, 0.01, 0.03):
            cells = [coverage(NOISES["normal"], gain, sd, n_test, n, n_intervals)[0] for n in SEEDS]
            line(f"a gain of {in_points(gain)}, normal, {label}", cells)
    n_bootstrap = max(n_intervals // 5, 10)
    line(
        "a gain of 1 point, normal, percentile bootstrap instead",
        [bootstrap_coverage(0.01, n, n_bootstrap) for n in SEEDS],
    )

    title("Labels saved with no difference: estimates below 0", SEEDS)
    for name, noise in NOISES.items():
        cells = [coverage(noise, 0.0, SD, None, n, n_intervals) for n in SEEDS]
        line(name, [c[1] for c in cells])
        line("  above 0", [c[2] for c in cells])

    if args.figure:
        draw(args.figure, power, {name: rates[name, 10] for name in NO_DIFFERENCE})
        print(f"written: {args.figure}")


def draw(path: Path, power: dict[float, list[float]], rates: dict[str, list[float]]) -> None:
    """Power against seeds, and false verdicts against seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    many = range(2, POWER_SEEDS[-1] + 1)
    for gain, values in power.items():
        (drawn,) = left.plot(many, [100 * formula(gain, n, 10) for n in many], label=in_points(gain))
        left.plot(POWER_SEEDS, [100 * v for v in values], "o", color=drawn.get_color(), markersize=4)
    left.axhline(80, color="0.7", linewidth=0.8)
    left.set(xlabel="Seeds", ylabel="Gains found (%)", ylim=(0, 102), xticks=POWER_SEEDS)
    left.set_title("sd 0.4 points, 10 strategies; lines: noncentral t", fontsize=10)
    left.legend(title="True gain", loc=(0.66, 0.44))
    for name, values in rates.items():
        right.plot(SEEDS, [100 * v for v in values], "o-", markersize=4, linewidth=1, label=name)
    right.axhline(5, color="0.7", linewidth=0.8)
    right.set(xlabel="Seeds", ylabel="Tables with a false verdict (%)", ylim=(0, 13), xticks=SEEDS)
    right.set_title("No difference, 10 strategies", fontsize=10)
    right.legend(fontsize=8, loc="upper center")
    figure.savefig(path)


if __name__ == "__main__":
    main()
