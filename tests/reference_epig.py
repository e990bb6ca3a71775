"""Expected predictive information gain as the paper writes it: loops over images, targets and classes, float64."""

import math


def information(passes, target_passes):
    """I(y; y*) of an image and a target, from the predictions of the same K networks, lists (K, C)."""
    k, n_classes = len(passes), len(passes[0])
    total = 0.0
    for y in range(n_classes):
        p = sum(q[y] for q in passes) / k
        for other in range(n_classes):
            p_other = sum(q[other] for q in target_passes) / k
            joint = sum(q[y] * r[other] for q, r in zip(passes, target_passes, strict=True)) / k
            if joint > 0:
                total += joint * math.log(joint / (p * p_other))
    return total


def epig(probs, targets):
    """Mean over the targets, for each image. Shapes (K, B, C) and (K, M, C)."""
    columns = [targets[:, m].double().tolist() for m in range(targets.shape[1])]
    return [
        sum(information(probs[:, b].double().tolist(), column) for column in columns) / len(columns)
        for b in range(probs.shape[1])
    ]
