"""What a comparison can find: the gain it would see with 80 % probability, and the seeds that a gain needs."""

from __future__ import annotations

from functools import cache

from report.statistics import LEVEL

POWER = 0.8
MOST_SEEDS = 10_000


@cache
def _standard_errors(n: int, n_tests: int) -> float:
    """How many standard errors a true gain must be to be found with 80 % probability over `n` seeds.

    The noncentrality of Student's t whose lower tail at the critical value is 20 %; the other tail is negligible.
    """
    from scipy import special

    critical = special.stdtrit(n - 1, 1 - LEVEL / n_tests / 2)
    return float(special.nctdtrinc(n - 1, 1 - POWER, critical))


def detectable_gain(sd: float, n: int, n_tests: int) -> float:
    """The true gain that the paired t-test of a table finds with 80 % probability; NaN for fewer than 2 seeds.

    Args:
        sd: standard deviation of the paired differences.
        n: seeds.
        n_tests: strategies tested; Holm's method compares the smallest of their p-values with 5 % / n_tests, which is
            its strictest step and taken for all.
    """
    return _standard_errors(n, n_tests) * sd / n**0.5 if n > 1 else float("nan")


def seeds_needed(gain: float, sd: float, n_tests: int) -> float:
    """The fewest seeds that find a true gain with 80 % probability; infinite where 10,000 are too few, NaN without sd.

    Args:
        gain: above 0, in the unit of `sd`.
        sd: standard deviation of the paired differences.
        n_tests: strategies tested, as in `detectable_gain`.
    """
    if not sd >= 0:
        return float("nan")
    low, high = 1, MOST_SEEDS  # too few; enough, if any number is
    if detectable_gain(sd, high, n_tests) > gain:
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_gain(sd, middle, n_tests) <= gain else (middle, high)
    return float(high)
