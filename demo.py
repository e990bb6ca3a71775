"""One active-learning experiment: train, measure, query, label, repeat. `python demo.py --help` lists the flags."""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Idxs, ImageData, Inputs, Pool, fingerprint, load
from features.rows import Frozen
from features.weights import hash_of_weights
from nets import NETS, TIMM, Architecture, Net, architecture
from runs.confusion import Confusion
from runs.folder import RunFolder
from runs.format import CONFUSION, MODEL, PREDICTIONS, VALIDATION, Query, Round, predictions_text
from runs.log import header, line
from runs.metrics import METRICS
from runs.options import recorded
from strategies import list_strategies, resolve
from strategies.base import Strategy
from strategies.candidates import CANDIDATES, candidates
from strategies.initial import INITIAL, RANDOM, first_draw, resolve_initial
from subsets import as_configured
from training.first_round import Trained, first_labels_key, first_round_key, shared_first_labels, shared_first_round
from training.learner import Learner
from training.loop import train
from training.model_file import model_bytes
from training.recipe import Recipe, default_recipe
from utils import (
    Parser,
    UserError,
    configure,
    duration,
    environment,
    exit_code,
    pick_device,
    printable,
    stream,
    warn,
)

# Flags of settings that version 0.1.0 did not have, with the values at which they change nothing.
ADDED: dict[str, Any] = {
    "resize": "squash",
    "initial_strategy": RANDOM,
    "n_val": 0,
    "imbalance": 1.0,
    "candidates": None,
    "candidates_by": "random",
}


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
    p.add_argument("--resize", choices=["squash", "crop"], default="squash", help="to a square, or its middle square")
    nets = f"{', '.join(NETS)}, or {TIMM}<model>; auto is ResNet18, or Linear with --features"
    p.add_argument("--net_name", default="auto", help=nets)
    p.add_argument("--pretrained", action="store_true", help="start from the weights of torchvision or timm")
    p.add_argument(
        "--features",
        metavar="NAME",
        help="embed the images once by a frozen backbone and train on its features: efficientnet_lite0 (no download), "
        "or timm:<model>[.<tag>]",
    )
    p.add_argument("--features_size", type=int, metavar="PIXELS", help="what the backbone reads; by default its own")
    p.add_argument("--weights", type=Path, metavar="FILE", help="weights of timm's network, where none are downloaded")
    p.add_argument("--initial_strategy", default=RANDOM, help=f"how the first images are chosen: {', '.join(INITIAL)}")
    p.add_argument("--n_val", type=int, default=0, help="training images held out at random to measure and choose by")
    p.add_argument(
        "--imbalance", type=float, default=1.0, metavar="R", help="thin the rarest class out to R times the commonest"
    )
    p.add_argument("--candidates", type=int, metavar="N", help="let each query look at so many unlabeled images only")
    p.add_argument("--candidates_by", choices=CANDIDATES, default="random", help="which images these are")
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
    architecture: Architecture
    recipe: Recipe
    device: torch.device
    n_round: int
    results_dir: Path

    def build(self) -> Net:
        """A new network with random weights, or pretrained ones, that knows the pixel statistics."""
        c, shape = self.config, self.data.train.inputs.shape
        net = self.architecture.build(shape, len(self.data.classes), self.recipe.dropout, c["pretrained"])
        if not c["pretrained"]:
            net.set_input_stats(self.data.mean, self.data.std)
        return net

    @property
    def model_facts(self) -> dict[str, Any]:
        """What a model.pt says about its network."""
        c = self.config
        facts = {"net_name": c["net_name"], "classes": self.data.classes, "img_size": c["img_size"]}
        if self.data.backbone:
            facts |= {"shape": list(self.data.train.inputs.shape), **self.data.backbone}
        elif "resize" in c:
            facts["resize"] = c["resize"]
        return facts

    @cached_property
    def first_labels(self) -> Idxs:
        """The images labeled before round 0, the same for all strategies of a seed."""
        c, data = self.config, self.data
        name = c.get("initial_strategy", RANDOM)

        def draw() -> Idxs:
            rng, n = stream(c["seed"], "initial"), c["n_init_labeled"]
            return first_draw(name, data.train.inputs, data.mean, data.std, self.device, n, rng)

        if name == RANDOM:  # depends on the seed and the size of the pool alone
            return draw()
        key = first_labels_key(c, self.device)
        return shared_first_labels(self.results_dir / ".round0" / f"{key}.json", draw)


def experiment(args: argparse.Namespace, load: Callable[..., ImageData] = load) -> Experiment:
    """Check the flags, cheap checks first, and load the data.

    Args:
        args: what `parser` returns, with a seed.
        load: stands in for `data.load`, as where one process checks many experiments on the same data.

    Raises:
        UserError: a flag's value is not allowed, or the data cannot be read.
    """
    for flag, least in (("n_round", 0), ("n_query", 1), ("n_init_labeled", 1), ("seed", 0), ("n_val", 0)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be {least} or more")
    if not 0 < args.imbalance <= 1:
        raise UserError(f"--imbalance {args.imbalance}: must be above 0 and at most 1")
    if args.candidates is not None and args.candidates < args.n_query:
        raise UserError(f"--candidates {args.candidates}: must be at least --n_query {args.n_query}")
    if args.candidates is None and args.candidates_by != "random":
        raise UserError(f"--candidates_by {args.candidates_by}: needs --candidates")
    args.initial_strategy = resolve_initial(args.initial_strategy, args.features is not None)
    strategy, strategy_args = resolve(args.strategy_name, args.strategy_args)
    strategy(None, None, None, **strategy_args)  # type: ignore[arg-type]  # its __post_init__ checks the values
    fine_tuned = args.pretrained and args.net_name.startswith(TIMM)
    if args.features_size is not None and args.features is None:
        raise UserError(f"--features_size {args.features_size}: needs --features")
    if args.weights is not None and args.features is None and not fine_tuned:
        raise UserError(f"--weights {args.weights}: needs --features, or --pretrained and --net_name {TIMM}<model>")
    default_net = "Linear" if args.features else "ResNet18"
    net_name = default_net if args.net_name == "auto" else args.net_name
    net = architecture(net_name, args.features is not None, args.weights)
    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if hasattr(args, f.name)}
    recipe = replace(default_recipe(net, args.pretrained), **given)
    recipe.check()
    if strategy.needs_dropout and recipe.dropout == 0:
        raise UserError(f"--dropout 0: {strategy.__name__} needs a network with dropout")
    device = pick_device(args.device)
    configure(device, args.deterministic)
    frozen = Frozen(args.features, args.features_size, args.weights, device) if args.features else None
    data = load(args.dataset_name, args.data_dir, args.img_size, args.skip_unreadable, frozen, args.resize == "crop")
    if data.unreadable:
        warn(f"{len(data.unreadable)} unreadable images are left out: {', '.join(data.unreadable[:3])} ...")
    if not data.flip and "flip" not in given:
        recipe = replace(recipe, flip=False)
    data = as_configured(data, args.imbalance, args.n_val, args.seed)
    recipe.check_validation("val" in data.splits)
    check_budget(args, len(data.train))
    recipe.check_size(len(data.train))
    config = {
        "dataset_name": args.dataset_name,
        "strategy_name": strategy.__name__,
        "strategy_args": recorded(strategy, strategy_args),
        "seed": args.seed,
        "n_init_labeled": args.n_init_labeled,
        "n_query": args.n_query,
        "img_size": data.backbone.get("features_size", args.img_size),
        "net_name": net_name,
        "pretrained": args.pretrained,
        "score_bf16": args.score_bf16,
        "screen": args.screen,
        "deterministic": args.deterministic,
        **recorded(ADDED, {name: getattr(args, name) for name in ADDED}),
        **recorded(Recipe, asdict(recipe)),
        **fingerprint(data),
    }
    e = Experiment(config, data, strategy, strategy_args, net, recipe, device, args.n_round, args.results_dir)
    if fine_tuned:  # weights of one name may differ
        config["net_weights"] = hash_of_weights(e.build().body.state_dict())[:16]
    return e


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


def to_queries(data: ImageData, round: int, idxs: Idxs) -> list[Query]:
    """Picks as rows of queries.csv, in the order they were picked in."""
    labels, paths = data.train.labels, data.train.paths
    return [Query(round, rank, int(i), paths[i], data.classes[labels[i]]) for rank, i in enumerate(idxs)]


def write_results(e: Experiment, run: RunFolder, round: int, learner: Learner, probs: Tensor) -> None:
    """The files that show a committed round: predictions, confusion matrix, weights."""
    confidence, predicted = (t.cpu().numpy() for t in probs.max(1))
    classes, test = e.data.classes, e.data.test
    files: dict[str, str | bytes] = {
        PREDICTIONS: predictions_text(classes, test.paths, test.labels, predicted, confidence),
        CONFUSION: Confusion.counted(classes, test.labels, predicted).text(),
        MODEL: model_bytes(learner, **e.model_facts),
    }
    run.write_outputs(round, files)


def trained(e: Experiment, pool: Pool, round: int, estimate: Callable[[float], None]) -> Trained:
    """A learner for the labels of the pool. Round 0 is the same for all strategies of a seed, and trained once."""

    def train_now() -> Trained:
        start = time.perf_counter()
        rng, validation = stream(e.config["seed"], "train", round), e.data.splits.get("val")
        learner = train(e.build, pool, e.recipe, e.device, rng, estimate, validation)
        return Trained(learner, time.perf_counter() - start)

    if round > 0:
        return train_now()
    path = e.results_dir / ".round0" / f"{first_round_key(e.config, e.device)}.pt"
    return shared_first_round(path, e.device, train_now, e.model_facts)


def one_round(e: Experiment, run: RunFolder, pool: Pool, test: Inputs, round: int, announce: bool) -> Round:
    """Train, measure, query if another round follows, commit, and write the files that show the round."""
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
    if "val" in e.data.splits:
        val = e.data.splits["val"]
        on_val = learner.probs(val.inputs).cpu().numpy()
        metrics |= {VALIDATION + m.name: m.function(on_val, val.labels) for m in METRICS.values()}
    measured = time.perf_counter()
    picks = np.empty(0, np.int64)
    n = min(c["n_query"], len(pool.unlabeled))
    if round < e.n_round and n:
        among = candidates(pool, learner, c.get("candidates"), c.get("candidates_by", "random"), c["seed"], round)
        query_learner = learner.configured(c["score_bf16"], c["screen"])  # for the query alone: metrics are of float32
        rng = stream(c["seed"], "query", round)
        strategy = e.strategy(pool, query_learner, rng, **e.strategy_args)
        picks = strategy.query(n) if among is None else strategy.query(n, among)
    query_seconds = time.perf_counter() - measured if len(picks) else 0.0
    result = Round(round, n_labeled, metrics, train_seconds, measured - start, query_seconds)
    new = to_queries(e.data, round + 1, picks)
    if not run.rounds():
        new = to_queries(e.data, 0, e.first_labels) + new
    run.commit(result, new)
    write_results(e, run, round, learner, probs)
    pool.label(picks, e.data.train.labels[picks])
    return result


def replay(e: Experiment, run: RunFolder, pool: Pool) -> int:
    """Label what a run has labeled so far, up to the last round in use. Returns the round to go on with.

    That is the last committed one if no query followed it: a finished run is being continued.
    """
    queries, train = run.queries(), e.data.train
    for q in queries:
        known = 0 <= q.index < len(train)
        if not known or (train.paths[q.index], e.data.classes[train.labels[q.index]]) != (q.path, q.label):
            raise UserError(f"{run.folder}/queries.csv: index {q.index} is not {q.path} of {q.label} in this dataset")
    in_use = [q.index for q in queries if q.round <= e.n_round]
    idxs = np.array(in_use, np.int64) if queries else e.first_labels
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
        print(header(e.config, asdict(e.recipe), e.device, e.n_round, run.folder, len(done)), flush=True)
        for r in done:
            print(line(r), flush=True)
        if done and (done[-1].round >= e.n_round or done[-1].n_labeled == e.config["n_train"]):
            last = min(e.n_round, done[-1].round)
            if defect := run.outputs_defect({last, done[-1].round}):
                warn(f"{run.folder}: {defect}; training round {last} again to write them")
                run.write_environment({**environment(e.device), "n_round": e.n_round})
                learner, _ = trained(e, pool, last, lambda _: None)
                write_results(e, run, last, learner, learner.probs(test))
            run.write_n_round(e.n_round)
            print(f"# finished already; a larger --n_round continues it. Results are in {printable(run.folder)}")
            return
        run.write_environment({**environment(e.device), "n_round": e.n_round})
        for round in range(first, e.n_round + 1):
            result = one_round(e, run, pool, test, round, announce=round == first)
            if round >= len(done):
                print(line(result), flush=True)
            if result.n_labeled == e.config["n_train"]:
                break
        print(f"# finished; results are in {printable(run.folder)}")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    args = parser().parse_args(argv)
    if args.list_strategies:
        return exit_code(lambda: print(list_strategies()), "interrupted")
    resume = "the same command"
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
        resume += f" with --seed {args.seed}"
    return exit_code(lambda: run_experiment(experiment(args)), f"interrupted; {resume} resumes the run")


if __name__ == "__main__":
    sys.exit(main())
