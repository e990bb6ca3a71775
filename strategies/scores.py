"""How uncertain a prediction is: pure functions of probabilities, higher is labeled sooner.

The last axis of `probs` is the class: (..., C), each row summing to 1. 0 log 0 counts as 0.
"""

from torch import Tensor


def least_confidence(probs: Tensor) -> Tensor:
    """1 minus the largest probability. Source: Lewis, Gale, SIGIR 1994. Shape (...)."""
    return 1 - probs.amax(-1)


def margin(probs: Tensor) -> Tensor:
    """Minus the gap between the two largest probabilities. Source: Scheffer et al., IDA 2001. Shape (...)."""
    top = probs.topk(2, dim=-1).values
    return top[..., 1] - top[..., 0]


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy in nats, 0 to ln C. Source: Settles, "Active learning literature survey", 2009. Shape (...)."""
    return -probs.xlogy(probs).sum(-1)


def mutual_information(probs: Tensor) -> Tensor:
    """Entropy of the mean prediction minus the mean entropy of the predictions, in nats, 0 or more.

    Source: Houlsby et al., 2011; Gal, Islam, Ghahramani, ICML 2017, eq. 3.

    Args:
        probs: predictions of K dropout passes. Shape (K, ..., C).

    Returns:
        Shape (...).
    """
    return (entropy(probs.mean(0)) - entropy(probs).mean(0)).clamp_min(0)


MEASURES = {"entropy": entropy, "margin": margin, "least_confidence": least_confidence}
MOST_PASSES = 10_000  # K; beyond it the estimate gains nothing and the folded head fills the memory
