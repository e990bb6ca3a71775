"""BatchBALD as the paper writes it: joint entropies over all combinations of classes, float64."""

import itertools
import math


def joint_information(passes, chosen):
    """I(y_1, ..., y_b; network) of the chosen images, from predictions (K, U, C), nested lists."""
    k, n_classes = len(passes), len(passes[0][0])
    joint_entropy = conditional = 0.0
    for classes in itertools.product(range(n_classes), repeat=len(chosen)):
        each = [math.prod(of[i][y] for i, y in zip(chosen, classes, strict=True)) for of in passes]
        p = sum(each) / k
        if p > 0:
            joint_entropy -= p * math.log(p)
    for of in passes:
        for i in chosen:
            conditional -= sum(p * math.log(p) for p in of[i] if p > 0) / k
    return joint_entropy - conditional


def batchbald(passes, n):
    """Picks, and the information of all picks after each one."""
    chosen, values = [], []
    for _ in range(n):
        rest = [i for i in range(len(passes[0])) if i not in chosen]
        chosen.append(max(rest, key=lambda i: joint_information(passes, [*chosen, i])))
        values.append(joint_information(passes, chosen))
    return chosen, values
