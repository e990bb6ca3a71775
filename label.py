"""Label a folder of images, the ones worth labeling first, and train a network on the way.

    python label.py DATA/birds --classes heron duck gull      # opens a page in the browser

Without the page: label.py select, ingest, status, export and review; each has its own --help.
"""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import asyncio
import html
import os
import sys
import webbrowser
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from labeling.commands import FORMATS, PICK_FORMATS, export, ingest, review, select, setup_of, status
from labeling.project import Project
from labeling.server import serve
from labeling.session import Session
from labeling.settings import Settings
from labeling.work import Checked, Event, Failed
from labeling.worker import TrainingProcess
from utils import Parser, UserError, exit_code, printable

LINK = "open.html"  # beside the project's state
COMMANDS = ("select", "ingest", "status", "export", "review")
HELP = {
    "classes": "names of the classes, in the order of their keys; by default those of train/",
    "strategy_name": "picks the images that come next; demo.py --list_strategies names all",
    "strategy_args": "the strategy's hyperparameters",
    "initial_strategy": "picks the first images: TypiClust (the default on features), MaxHerding, KCenterGreedy, "
    "ClusterBasedSelection or RandomSampling",
    "seed": "of all random draws",
    "n_query": "labels between two trainings",
    "n_val": "images drawn at random that measure the network and never train it",
    "features": "frozen backbone: efficientnet_lite0, timm:<model>[.<tag>], or none to train a network on pixels",
    "features_size": "what the backbone reads, in pixels",
    "weights": "file of the weights of timm's network, where none are downloaded",
    "net_name": "the network; auto is Linear on features, and SmallCNN on pixels",
    "img_size": "side of the images in pixels, with --features none",
    "target": "accuracy, from 0 to 1, that the forecast of labels is for",
}
METAVARS = {"strategy_args": "KEY=VALUE", "classes": "CLASS"}


def parser(command: str) -> argparse.ArgumentParser:
    """The flags of a command; the empty one opens the page."""
    p = Parser(
        prog=f"label.py {command}".strip(),
        description=__doc__ if not command else DESCRIPTIONS[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, help="of the images, such as DATA/birds")
    if command == "ingest":
        p.add_argument("file", type=Path, help="a CSV, an export of Label Studio, or a folder of <class>/ folders")
        p.add_argument("--annotator", default="", help="whose labels these are, where the file does not say")
    if command == "select":
        p.add_argument("--n", type=int, default=100, help="images to choose (100)")
        p.add_argument("--validation", action="store_true", help="the images that measure the network, instead")
        p.add_argument("--out", type=Path, required=True, help="file or folder to write")
        p.add_argument("--format", choices=PICK_FORMATS, default="csv", help="of it (csv)")
    if command == "export":
        p.add_argument("--out", type=Path, required=True, help="file or folder to write")
        p.add_argument("--format", choices=FORMATS, default="csv", help="of it (csv)")
    if command == "review":
        p.add_argument("--n", type=int, default=100, help="labels to look at again, the most doubtful first (100)")
    if command in ("", "review"):
        p.add_argument("--annotator", help="your name, if there are several; else the page asks once")
        p.add_argument("--blind", action="store_true", help="show no suggestions")
        p.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; 0 takes any that is free (8000)")
        p.add_argument("--no_browser", action="store_true", help="print the address and open no browser")
    p.add_argument("--results_dir", type=Path, default=Path("results"), help="folder of the results (results)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    group = p.add_argument_group("settings of the project (recorded; a later start may change them)")
    for f in fields(Settings):
        kind: type = {"features_size": int, "target": float}.get(f.name, str if f.default is None else type(f.default))
        default = f"; {f.default}" if f.default not in (None, (), "auto") else ""
        if kind is tuple:
            group.add_argument(f"--{f.name}", nargs="+", metavar=METAVARS[f.name], help=HELP[f.name])
        else:
            group.add_argument(f"--{f.name}", type=kind, metavar=kind.__name__.upper(), help=HELP[f.name] + default)
    return p


DESCRIPTIONS = {
    "select": "Choose the images to label next, for another tool.",
    "ingest": "Read labels that another tool, or another person, wrote. The same file twice changes nothing.",
    "status": "Say how far a project is: counts, accuracy with its interval, and whether to go on.",
    "export": "Write the labels for other tools. Images are linked or copied, never moved.",
    "review": "Open the page on labeled images whose labels a network doubts that did not see them.",
}


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives."""
    given = {f.name: getattr(args, f.name) for f in fields(Settings) if getattr(args, f.name) is not None}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


async def label(args: argparse.Namespace, project: Project) -> None:
    """Serve the page until Ctrl-C, with a training process beside it."""
    loop = asyncio.get_running_loop()
    checked: asyncio.Future[None] = loop.create_future()
    session = Session(project, args.blind, lambda task: worker.submit(task))

    def on_event(event: Event) -> None:
        session.receive(event)
        if checked.done():
            if isinstance(event, Failed):
                print(f"warning: {event.text}", file=sys.stderr, flush=True)
        elif isinstance(event, Checked):
            checked.set_result(None)
        elif isinstance(event, Failed):
            checked.set_exception(UserError(event.text))

    def receive(event: Event) -> None:
        loop.call_soon_threadsafe(on_event, event)

    with closing(TrainingProcess(setup_of(project, args.device), receive)) as worker:
        if project.is_new:  # settings are recorded once they are known to be usable
            await checked
            project.save()
        await serve(session, args.port, opener(args, project), args.annotator)


def opener(args: argparse.Namespace, project: Project) -> Callable[[str], None]:
    """What is done with the page's address."""

    def open_page(url: str) -> None:
        print(f"# {len(project.files)} images of {printable(project.name)}; label them at {url}", flush=True)
        print(f"# Ctrl-C ends; everything is kept in {printable(project.folder)}", flush=True)
        if not args.no_browser:
            webbrowser.open(private_link(project.folder / LINK, url).as_uri())

    return open_page


def private_link(path: Path, url: str) -> Path:
    """A file that leads a browser to the page. Its address holds a token, and all users see arguments of commands."""
    path.unlink(missing_ok=True)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as f:
        f.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(url)}">\n')
    return path.resolve()


def run(command: str, args: argparse.Namespace) -> None:
    """Do a command's work."""
    given = given_settings(args)
    if command in ("status", "export"):
        project = Project(args.folder, args.results_dir, given, writable=False)
        status(project) if command == "status" else export(project, args.format, args.out)
        return
    with closing(Project(args.folder, args.results_dir, given)) as project:
        if command == "select":
            select(project, args.device, args.n, args.out, args.format, args.validation)
        elif command == "ingest":
            ingest(project, args.file, args.annotator)
        elif command == "review":
            doubts = review(project, args.device, args.n)
            session = Session(project, args.blind, review=doubts)
            asyncio.run(serve(session, args.port, opener(args, project), args.annotator))
        else:
            asyncio.run(label(args, project))


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    args = parser(command).parse_args(argv[1:] if command else argv)
    return exit_code(lambda: run(command, args), "interrupted; every acknowledged answer is kept")


if __name__ == "__main__":
    sys.exit(main())
