"""The page's server: what it can be asked for, and the answers."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from labeling.bodies import MAX_ITEMS, annotator_name, read_answers, read_object, refuse, whole_number
from labeling.connections import HOST, listen, serve_app
from labeling.pictures import LARGE, SMALL, Pictures
from labeling.security import Guard, new_token
from labeling.session import Item, Session
from report.figures_looks import page_colors
from utils import UserError, printable

TEMPLATES = Path(__file__).parent / "templates"
# The page's commands: id, key as the browser calls it, as people do, and what it does.
COMMANDS = (
    ("accept", "Enter", "Enter", "accept the suggestion; in the grid, of all images that are not marked"),
    ("skip", "s", "S", "skip the image: it fits no class, or cannot be seen"),
    ("unsure", "u", "U", "unsure: somebody else should decide"),
    ("undo", "Backspace", "Backspace", "undo the last answer and go back to its image"),
    ("grid", "g", "G", "many images with the same suggestion, and back"),
    ("find", "/", "/", "find a class by typing; Enter takes the first one"),
    ("help", "?", "?", "the keys"),
)


class Json(JSONResponse):
    """JSON in which text is safe to show: without control characters and marks that turn the direction of writing."""

    def render(self, content: Any) -> bytes:
        """The bytes; ASCII, since names of files may hold what is no text."""
        return json.dumps(_shown(content), allow_nan=False, separators=(",", ":")).encode()


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {k: _shown(v) for k, v in value.items()}
    return [_shown(v) for v in value] if isinstance(value, list | tuple) else value


class ImageKeys(Mapping[str, int]):
    """Names of images that stay the same from start to start, unlike their indices, and say nothing.

    An answer that the page could not deliver arrives at the next start; by then files may have been added.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._indices: dict[str, int] = {}
        self._complete = False

    def key(self, index: int) -> str:
        """The key of an image."""
        key = hashlib.blake2b(os.fsencode(self._session.picture(index)), digest_size=12).hexdigest()
        self._indices[key] = index
        return key

    def __getitem__(self, key: str) -> int:
        if key not in self._indices and not self._complete:
            self._complete = True
            for i in itertools.count():
                try:
                    self.key(i)
                except KeyError:
                    break
        return self._indices[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


class Endpoints:
    """What the page asks for. All of it is JSON, pictures apart; an error is {"error": one line}.

    Args:
        session: what is labeled; used by the event loop's thread alone.
        annotator: whose answers the page sends; None where it asks.
    """

    def __init__(self, session: Session, annotator: str | None) -> None:
        self.session = session
        self.annotator = annotator
        self.keys = ImageKeys(session)
        self.pictures = Pictures()

    def routes(self) -> list[Route]:
        """Paths and methods."""
        return [
            Route("/api/project", self.project),
            Route("/api/items", self.items),
            Route("/api/grid", self.grid),
            Route("/api/progress", self.progress),
            Route("/api/answers", self.answers, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route("/api/images/{index}", self.image),
            Route("/api/thumbnails/{index}", self.thumbnail),
        ]

    async def project(self, request: Request) -> Response:
        """What is labeled, and by whom."""
        s = self.session
        return Json({"name": s.name, "classes": s.classes, "blind": s.blind, "annotator": self.annotator})

    async def items(self, request: Request) -> Response:
        """The n images that an annotator decides on next."""
        query = request.query_params
        n = whole_number(query.get("n"), 1, MAX_ITEMS, "n")
        items = self.session.items(annotator_name(query.get("annotator")), n)
        return Json({"items": [self.plain(item) for item in items]})

    async def grid(self, request: Request) -> Response:
        """At most n images with one suggestion: that of `label`, or the most frequent one."""
        query = request.query_params
        n = whole_number(query.get("n"), 1, MAX_ITEMS, "n")
        label = None
        if "label" in query:
            label = whole_number(query["label"], 0, len(self.session.classes) - 1, "label")
        label, items = self.session.grid(annotator_name(query.get("annotator")), n, label)
        return Json({"label": label, "items": [self.plain(item) for item in items]})

    def plain(self, item: Item) -> dict[str, Any]:
        """An image to decide on, with its key."""
        return {**asdict(item), "key": self.keys.key(item.index)}

    async def progress(self, request: Request) -> Response:
        """How far everybody is."""
        return Json(self.session.progress(annotator_name(request.query_params.get("annotator"))))

    async def answers(self, request: Request) -> Response:
        """Record answers: all of them, which are on the disk then, or none."""
        content = await read_object(request, "annotator", "answers")
        annotator = annotator_name(content["annotator"])
        answers = read_answers(content["answers"], len(self.session.classes), self.keys)
        self.session.decide(annotator, answers)
        return Json({"recorded": len(answers)})

    async def undo(self, request: Request) -> Response:
        """Take back an annotator's last answer; its image, or null where there is none."""
        content = await read_object(request, "annotator")
        item = self.session.undo(annotator_name(content["annotator"]))
        return Json({"item": self.plain(item) if item else None})

    async def image(self, request: Request) -> Response:
        """The picture of an image, or {"unreadable": why}."""
        return await self.picture(request, LARGE)

    async def thumbnail(self, request: Request) -> Response:
        """The same, for the grid."""
        return await self.picture(request, SMALL)

    async def picture(self, request: Request, side: int) -> Response:
        """A picture of the image of that index."""
        index = whole_number(request.path_params["index"], 0, 10**9, "the index")
        try:
            path = self.session.picture(index)
        except KeyError:
            refuse(f"there is no image {index}", 404)
        made = await self.pictures.get(path, side)
        return (
            Json({"unreadable": made}) if isinstance(made, str) else Response(made.content, 200, None, made.media_type)
        )


def page_files() -> dict[str, tuple[str, str]]:
    """What everybody may see, by path: content and media type. There is nothing of any project in it."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("label.html").render(commands=COMMANDS)
    css, js, icon = ((TEMPLATES / name).read_text("utf-8") for name in ("label.css", "label.js", "label.svg"))
    return {
        "/": (html, "text/html"),
        "/label.css": (page_colors() + css, "text/css"),
        "/label.js": (js, "text/javascript"),
        "/label.svg": (icon, "image/svg+xml"),
    }


def application(endpoints: Endpoints, token: str) -> ASGIApp:
    """The server's side of the page, as an ASGI application.

    Args:
        endpoints: of the session that is labeled.
        token: what requests must carry.
    """
    files = page_files()

    async def static(request: Request) -> Response:
        content, media_type = files[request.url.path]
        return Response(content, media_type=media_type)

    routes = [Route(path, static) for path in files] + endpoints.routes()
    handlers: Any = {HTTPException: _on_refusal, UserError: _on_mistake, Exception: _on_bug}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, token, frozenset(files))


async def _on_refusal(_: Request, error: HTTPException) -> Response:
    return Json({"error": error.detail}, error.status_code, error.headers)


async def _on_mistake(_: Request, error: UserError) -> Response:
    """A decision that makes no sense; or one that could not be written: it makes sense to send that again."""
    return Json({"error": str(error)}, 503 if isinstance(error.__cause__, OSError) else 409)


async def _on_bug(_: Request, error: Exception) -> Response:
    """The traceback is in the terminal, and nowhere else."""
    return Json({"error": "label.py failed; the terminal in which it runs says why"}, 500)


async def serve(session: Session, port: int, ready: Callable[[str], None], annotator: str | None = None) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C, which is raised again in the end.

    Args:
        session: what is labeled; used in this thread.
        port: 0 for any that is free.
        ready: called with the page's address, which holds the token, once the page can be opened.
        annotator: whose answers the page sends; None where it asks.

    Raises:
        UserError: the port is in use, or the annotator's name cannot be one.
    """
    if annotator is not None:
        try:
            annotator_name(annotator)
        except HTTPException as e:
            raise UserError(f"--annotator {annotator}: {e.detail}") from e
    token, sock = new_token(), listen(port)
    url = f"http://{HOST}:{sock.getsockname()[1]}/#token={token}"
    endpoints = Endpoints(session, annotator)
    try:
        await serve_app(application(endpoints, token), sock, lambda: ready(url))
    finally:
        endpoints.pictures.close()
