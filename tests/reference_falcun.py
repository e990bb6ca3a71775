"""FALCUN as its paper and its authors' code describe it: loops, float64, nothing clever."""


def uncertainty(p):
    first, second = sorted(p, reverse=True)[:2]
    return 1 - (first - second)


def draw_law(probs, picks, gamma):
    """Probability of each row to be drawn after `picks`."""
    left = [i for i in range(len(probs)) if i not in picks]
    u = [uncertainty(p) for p in probs]
    r = {}
    for i in left:
        r[i] = u[i]
        for last in picks:
            r[i] = min(r[i], sum(abs(a - b) for a, b in zip(probs[i], probs[last], strict=True)))
    low, high = min(r.values()), max(r.values())
    if high == 0:
        return [1 / len(left) if i in left else 0.0 for i in range(len(probs))]
    scaled = {i: (r[i] - low) / (high - low) if high > low else 0.0 for i in left}
    weights = [(scaled[i] + u[i]) ** gamma if i in left else 0.0 for i in range(len(probs))]
    return [w / sum(weights) for w in weights]


def sequence_law(probs, n, gamma):
    """Every sequence of n picks and its probability."""
    sequences = {(): 1.0}
    for _ in range(n):
        sequences = {
            (*picks, i): probability * p
            for picks, probability in sequences.items()
            for i, p in enumerate(draw_law(probs, picks, gamma))
            if i not in picks
        }
    return sequences
