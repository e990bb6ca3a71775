"""One active-learning experiment: train, measure, query, label, repeat. `python demo.py --help` lists the flags."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Idxs, ImageData, Inputs, Pool, fingerprint, load
from nets import NETS, Net
from runs.folder import RunFolder
from runs.format import CONFUSION, MODEL, PREDICTIONS, Query, Round, confusion_text, predictions_text
from runs.metrics import METRICS, confusion_matrix
from runs.options import recorded
from strategies import list_strategies, resolve
from strategies.base import Strategy
from training.first_round import Trained, first_round_key, shared_first_round
from training.learner import Learner
from training.loop import train
from training.model_file import model_bytes
from training.recipe import Recipe, default_recipe
from utils import Parser, UserError, configure, duration, environment, exit_code, pick_device, stream, warn


def parser() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--n_round", type=int, default=10, help="rounds of querying, so n_round + 1 trainings")
    p.add_argument("--n_query", type=int, default=1000, help="images labeled per round")
    p.add_argument("--n_init_labeled", type=int, default=10000, help="images labeled at random before round 0")
    p.add_argument(
        "--dataset_name", default="CIFAR10", help="CIFAR10, DaninhasDataset, Digits, or a folder of --data_dir"
    )
    p.add_argument("--strategy_name", default="RandomSampling", help="see --list_strategies")
    p.add_argument("--strategy_args", nargs="*", default=[], metavar="KEY=VALUE", help="the strategy's hyperparameters")
    p.add_argument("--seed", type=int, help="seed of the whole run; drawn at random and printed when absent")
    p.add_argument("--img_size", type=int, default=32, help="side of the square images in pixels")
    p.add_argument("--net_name", default="ResNet18", help=", ".join(NETS))
    p.add_argument("--pretrained", action="store_true", help="start from torchvision's ImageNet weights")
    p.add_argument(
        "--score_bf16", action="store_true", help="let strategies embed in bfloat16 where that is fast; other picks"
    )
    p.add_argument(
        "--screen",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let a bfloat16 pass rule images out before float32 picks: faster, the same picks up to rounding",
    )
    p.add_argument("--skip_unreadable", action="store_true", help="go on without images that cannot be read")
    p.add_argument("--data_dir", type=Path, default=Path("DATA"), help="folder of the data sets")
    p.add_argument("--results_dir", type=Path, default=Path("results"), help="folder of the results")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    p.add_argument("--deterministic", action="store_true", help="the same bits each time on CUDA too; slower")
    p.add_argument("--list_strategies", action="store_true", help="print the strategies and exit")
    group = p.add_argument_group("training recipe (defaults depend on --net_name)")
    for field in fields(Recipe):
        kind = type(field.default)
        if kind is bool:
            group.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        else:
            group.add_argument(f"--{field.name}", type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper())
    return p


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs to know, resolved and checked."""

    config: dict[str, Any]
    data: ImageData
    strategy: type[Strategy]
    strategy_args: dict[str, Any]
    recipe: Recipe
    device: torch.device
    n_round: int
    results_dir: Path

    def build(self) -> Net:
        """A new network with random weights, or pretrained ones, that knows the pixel statistics."""
        c, shape = self.config, self.data.train.inputs.shape
        net = NETS[c["net_name"]].build(shape, len(self.data.classes), self.recipe.dropout, c["pretrained"])
        if not c["pretrained"]:
            net.set_pixel_stats(self.data.mean, self.data.std)
        return net

    @property
    def model_facts(self) -> dict[str, Any]:
        """What a model.pt says about its network."""
        c = self.config
        return {"net_name": c["net_name"], "classes": self.data.classes, "img_size": c["img_size"]}

    def first_labels(self) -> Idxs:
        """The images labeled before round 0: a draw that depends on the seed and the size of the pool alone."""
        c = self.config
        return stream(c["seed"], "initial").choice(c["n_train"], c["n_init_labeled"], replace=False)


def experiment(args: argparse.Namespace, load: Callable[..., ImageData] = load) -> Experiment:
    """Check the flags, cheap checks first, and load the data.

    Args:
        args: what `parser` returns, with a seed.
        load: stands in for `data.load`, as where one process checks many experiments on the same data.

    Raises:
        UserError: a flag's value is not allowed, or the data cannot be read.
    """
    for flag, least in (("n_round", 0), ("n_query", 1), ("n_init_labeled", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be {least} or more")
    strategy, strategy_args = resolve(args.strategy_name, args.strategy_args)
    strategy(None, None, None, **strategy_args)  # type: ignore[arg-type]  # its __post_init__ checks the values
    if args.net_name not in NETS:
        raise UserError(f"--net_name {args.net_name}: must be one of {', '.join(NETS)}")
    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if hasattr(args, f.name)}
    recipe = replace(default_recipe(args.net_name, args.pretrained), **given)
    recipe.check()
    if strategy.needs_dropout and recipe.dropout == 0:
        raise UserError(f"--dropout 0: {strategy.__name__} needs a network with dropout")
    device = pick_device(args.device)
    configure(device, args.deterministic)
    data = load(args.dataset_name, args.data_dir, args.img_size, args.skip_unreadable)
    if data.unreadable:
        warn(f"{len(data.unreadable)} unreadable images are left out: {', '.join(data.unreadable[:3])} ...")
    if not data.flip and "flip" not in given:
        recipe = replace(recipe, flip=False)
    check_budget(args, len(data.train))
    recipe.check_size(len(data.train))
    config = {
        "dataset_name": args.dataset_name,
        "strategy_name": strategy.__name__,
        "strategy_args": recorded(strategy, strategy_args),
        "seed": args.seed,
        "n_init_labeled": args.n_init_labeled,
        "n_query": args.n_query,
        "img_size": args.img_size,
        "net_name": args.net_name,
        "pretrained": args.pretrained,
        "score_bf16": args.score_bf16,
        "screen": args.screen,
        "deterministic": args.deterministic,
        **recorded(Recipe, asdict(recipe)),
        **fingerprint(data),
    }
    return Experiment(config, data, strategy, strategy_args, recipe, device, args.n_round, args.results_dir)


def check_budget(args: argparse.Namespace, n_train: int) -> None:
    """Refuse what the pool cannot give, and note where the last rounds will be missing.

    Raises:
        UserError: the initial draw or the first query is larger than what is there.
    """
    if args.n_init_labeled > n_train:
        raise UserError(f"--n_init_labeled {args.n_init_labeled}: {args.dataset_name} has {n_train} training images")
    left = n_train - args.n_init_labeled
    if args.n_round > 0 and args.n_query > left:
        raise UserError(
            f"--n_query {args.n_query}: only {left} of {n_train} training images are left after the initial draw"
        )
    if args.n_round * args.n_query > left:
        n_full, rest = divmod(left, args.n_query)
        warn(
            f"{args.n_round} rounds of {args.n_query} are more than the {left} images left: the run stops after "
            f"{n_full + (rest > 0)} rounds" + (f", the last of {rest} images" if rest else "")
        )


def header(e: Experiment, folder: Path, n_done: int) -> str:
    """What will run, for a reader of the log."""
    c = e.config
    columns = [f"{'round':>5}", f"{'labeled':>8}", *(f"{m:>9}" for m in METRICS), " train_s", "  eval_s", " query_s"]
    arguments = "".join(f" {k}={v}" for k, v in e.strategy_args.items())
    steps = ", ".join(f"{f.name}={getattr(e.recipe, f.name)}" for f in fields(Recipe))
    return "\n".join(
        [
            f"# {c['dataset_name']}: {c['n_train']} training and {c['n_test']} test images of {c['img_size']} pixels, "
            f"{c['n_classes']} classes",
            f"# {c['strategy_name']}{arguments}: {c['n_init_labeled']} labels, then {e.n_round} x {c['n_query']}",
            f"# {c['net_name']}{' (pretrained)' if c['pretrained'] else ''} on {e.device}: {steps}",
            f"# seed {c['seed']}, results in {folder}" + (f"; {n_done} rounds are done already" if n_done else ""),
            "  ".join(columns),
        ]
    )


def line(r: Round) -> str:
    """One round, for a reader of the log."""
    metrics = (f"{r.metrics.get(m, float('nan')):9.4f}" for m in METRICS)
    seconds = (f"{s:8.1f}" for s in (r.train_seconds, r.eval_seconds, r.query_seconds))
    return "  ".join([f"{r.round:5d}", f"{r.n_labeled:8d}", *metrics, *seconds])


def to_queries(data: ImageData, round: int, idxs: Idxs) -> list[Query]:
    """Picks as rows of queries.csv, in the order they were picked in."""
    labels, paths = data.train.labels, data.train.paths
    return [Query(round, rank, int(i), paths[i], data.classes[labels[i]]) for rank, i in enumerate(idxs)]


def write_results(e: Experiment, run: RunFolder, learner: Learner, probs: Tensor) -> None:
    """The files that show the last round: predictions, confusion matrix, weights."""
    confidence, predicted = (t.cpu().numpy() for t in probs.max(1))
    classes, test = e.data.classes, e.data.test
    run.write(PREDICTIONS, predictions_text(classes, test.paths, test.labels, predicted, confidence))
    counts = confusion_matrix(predicted, test.labels, len(classes))
    run.write(CONFUSION, confusion_text(classes, counts))
    run.write(MODEL, model_bytes(learner, **e.model_facts))


def trained(e: Experiment, pool: Pool, round: int, estimate: Callable[[float], None]) -> Trained:
    """A learner for the labels of the pool. Round 0 is the same for all strategies of a seed, and trained once."""

    def train_now() -> Trained:
        start = time.perf_counter()
        learner = train(e.build, pool, e.recipe, e.device, stream(e.config["seed"], "train", round), estimate)
        return Trained(learner, time.perf_counter() - start)

    if round > 0:
        return train_now()
    path = e.results_dir / ".round0" / f"{first_round_key(e.config, e.device)}.pt"
    return shared_first_round(path, e.device, train_now, e.model_facts)


def one_round(e: Experiment, run: RunFolder, pool: Pool, test: Inputs, round: int, announce: bool) -> Round:
    """Train, measure, query if another round follows, and commit."""
    c, n_labeled = e.config, len(pool.labeled)

    def estimate(seconds_per_step: float) -> None:
        last = min(n_labeled + (e.n_round - round) * c["n_query"], c["n_train"])
        sizes = [*range(n_labeled, last, c["n_query"]), last]
        seconds = seconds_per_step * sum(e.recipe.n_steps(n) for n in sizes)
        if announce and seconds > 60:
            warn(f"the trainings will take about {duration(seconds)} in all")

    learner, train_seconds = trained(e, pool, round, estimate)
    start = time.perf_counter()
    probs = learner.probs(test)
    on_host = probs.cpu().numpy()
    metrics = {m.name: m.function(on_host, e.data.test.labels) for m in METRICS.values()}
    measured = time.perf_counter()
    picks = np.empty(0, np.int64)
    n = min(c["n_query"], len(pool.unlabeled))
    if round < e.n_round and n:
        query_learner = learner.configured(c["score_bf16"], c["screen"])  # for the query alone: metrics are of float32
        rng = stream(c["seed"], "query", round)
        picks = e.strategy(pool, query_learner, rng, **e.strategy_args).query(n)
    query_seconds = time.perf_counter() - measured if len(picks) else 0.0
    result = Round(round, n_labeled, metrics, train_seconds, measured - start, query_seconds)
    write_results(e, run, learner, probs)
    new = to_queries(e.data, round + 1, picks)
    if not run.rounds():
        new = to_queries(e.data, 0, e.first_labels()) + new
    run.commit(result, new)
    pool.label(picks, e.data.train.labels[picks])
    return result


def replay(e: Experiment, run: RunFolder, pool: Pool) -> int:
    """Label what a run has labeled so far. Returns the round to go on with.

    That is the last committed one if no query followed it: a finished run is being continued.
    """
    queries, train = run.queries(), e.data.train
    for q in queries:
        known = 0 <= q.index < len(train)
        if not known or (train.paths[q.index], e.data.classes[train.labels[q.index]]) != (q.path, q.label):
            raise UserError(f"{run.folder}/queries.csv: index {q.index} is not {q.path} of {q.label} in this dataset")
    idxs = np.array([q.index for q in queries], np.int64) if queries else e.first_labels()
    pool.label(idxs, train.labels[idxs])
    n_done = len(run.rounds())
    return n_done - 1 if n_done and queries[-1].round < n_done else n_done


def run_experiment(e: Experiment) -> None:
    """All rounds that are still to do."""
    with closing(RunFolder(e.results_dir, e.config)) as run:
        pool = Pool(e.data.train.inputs.to(e.device), len(e.data.classes))
        test = e.data.test.inputs.to(e.device)
        first = replay(e, run, pool)
        done = run.rounds()
        print(header(e, run.folder, len(done)), flush=True)
        for r in done:
            print(line(r), flush=True)
        if done and (done[-1].round >= e.n_round or done[-1].n_labeled == e.config["n_train"]):
            run.write_n_round(e.n_round)
            print(f"# finished already; a larger --n_round continues it. Results are in {run.folder}")
            return
        run.write_environment({**environment(e.device), "n_round": e.n_round})
        for round in range(first, e.n_round + 1):
            result = one_round(e, run, pool, test, round, announce=round == first)
            if round >= len(done):
                print(line(result), flush=True)
            if result.n_labeled == e.config["n_train"]:
                break
        print(f"# finished; results are in {run.folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    args = parser().parse_args(argv)
    if args.list_strategies:
        print(list_strategies())
        return 0
    resume = "the same command"
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
        resume += f" with --seed {args.seed}"
    return exit_code(lambda: run_experiment(experiment(args)), f"interrupted; {resume} resumes the run")


if __name__ == "__main__":
    sys.exit(main())
