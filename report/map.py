"""A map of a pool: its images in two dimensions, and when each strategy labeled them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from report.figures_looks import STEPS
from report.tree import PoolMap
from runs.reading import Picks
from utils import UserError, stream

MOST_POINTS = 5000  # t-SNE of so many takes half a minute on one core
N_COMPONENTS = 50
PERPLEXITY = 30.0  # scikit-learn's default; source: of the range 5 to 50: van der Maaten, Hinton, JMLR 2008

Idxs = NDArray[np.int64]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class PoolRows:
    """The pool of runs, and how to get rows of it.

    Attributes:
        space: what the rows are, in words.
        classes: names.
        labels: class of each image, -1 where unknown. Shape (N,).
        paths: as in queries.csv. Length N.
        read: the rows at some indices, (n,) -> (n, D).
    """

    space: str
    classes: list[str]
    labels: Idxs
    paths: list[str]
    read: Callable[[Idxs], Rows]


def sample(n: int, labeled: Idxs, rng: np.random.Generator, most: int = MOST_POINTS) -> Idxs:
    """At most `most` of n images: the labeled ones, then others drawn at random; of more labeled ones, a random draw.

    Args:
        n: images of the pool.
        labeled: indices, all different. Shape (L,).
        rng: draws.
        most: how many at most.

    Returns:
        Indices, labeled ones first, others in random order. Shape (min(n, most),).
    """
    if len(labeled) > most:
        return rng.choice(labeled, most, replace=False)
    rest = np.setdiff1d(np.arange(n), labeled)
    return np.concatenate([labeled, rng.permutation(rest)[: most - len(labeled)]])


def coordinates(rows: Rows) -> NDArray[np.float64]:
    """Rows in two dimensions: t-SNE of their first 50 principal components. The same rows give the same points.

    Source: van der Maaten, Hinton, "Visualizing data using t-SNE", Journal of Machine Learning Research, 2008.
    Deviation: it starts from the first two components, not at random, after Kobak, Berens, "The art of using t-SNE
    for single-cell transcriptomics", Nature Communications, 2019.

    Args:
        rows: finite. Shape (n, D), n >= 1.

    Returns:
        Shape (n, 2); all zeros when all rows are equal.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(rows)
    points = np.zeros((n, 2), np.float32)
    if (rows == rows[0]).all():
        return points.astype(np.float64)
    with threadpool_limits(1):  # several threads would add in an order of their own, and t-SNE multiplies that
        reduced = PCA(min(N_COMPONENTS, *rows.shape), random_state=0).fit_transform(rows)
        points[:, : reduced.shape[1]] = reduced[:, :2]
        points *= 1e-4 / points[:, 0].std()  # the start that the paper gives
        tsne = TSNE(perplexity=min(PERPLEXITY, (n - 1) / 3), init=points, random_state=0)
        return tsne.fit_transform(reduced).astype(np.float64)


def map_of(pool: PoolRows, picks: Mapping[str, Picks], seed: int) -> PoolMap:
    """The map of one pool for the runs of one seed.

    Args:
        pool: theirs.
        picks: of one run each, by strategy.
        seed: of these runs; it also draws the images that are shown.

    Raises:
        UserError: the picks are not of this pool, or the rows cannot be read.
    """
    n = len(pool.paths)
    for of in picks.values():
        for i, path in zip(of.idxs.tolist(), of.paths, strict=True):
            if not 0 <= i < n or pool.paths[i] != path:
                raise UserError(f"queries.csv: index {i} is not {path} among the training images found here")
    labeled = np.unique(np.concatenate([of.idxs for of in picks.values()]))
    idxs = sample(n, labeled, stream(seed, "map"))
    names, step_of_round = steps(max(int(of.rounds.max()) for of in picks.values()))
    return PoolMap(
        seed=seed,
        caption=_caption(pool, len(idxs), len(labeled), len(picks) > 1),
        xy=coordinates(pool.read(idxs)),
        classes=pool.classes,
        of_class=pool.labels[idxs],
        steps=names,
        step={label: _steps_of(of, idxs, step_of_round, n) for label, of in picks.items()},
    )


def steps(n_rounds: int) -> tuple[list[str], Idxs]:
    """The steps in which a map shows rounds: the first labels, then as many groups of rounds as there are colours.

    Returns:
        The names of the steps, and the step of each round, 0 first.
    """
    groups = [g for g in np.array_split(np.arange(1, n_rounds + 1), len(STEPS)) if len(g)]
    names = [f"round {g[0]}" if len(g) == 1 else f"rounds {g[0]}-{g[-1]}" for g in groups]
    return ["first labels", *names], np.repeat(np.arange(len(groups) + 1), [1, *map(len, groups)])


def _steps_of(picks: Picks, idxs: Idxs, step_of_round: Idxs, n: int) -> Idxs:
    found = np.full(n, -1, np.int64)
    found[picks.idxs] = step_of_round[picks.rounds]
    return found[idxs]


def _caption(pool: PoolRows, n_shown: int, n_labeled: int, several: bool) -> str:
    of = "any strategy" if several else "the run"
    among = f"all {n_labeled:,}" if n_labeled <= n_shown else f"{n_shown:,} of {n_labeled:,}"
    return (
        f"{n_shown:,} of {len(pool.paths):,} training images, among them {among} that {of} labeled, by {pool.space}: "
        f"t-SNE of {N_COMPONENTS} principal components. Near images are alike; distances between groups mean little."
    )
