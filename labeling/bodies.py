"""What the page sends, read strictly: the right types, in bounds, and nothing else beside it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from labeling.log import ACTIONS, LABEL, UNDO
from labeling.security import MAX_BODY
from labeling.session import Answer

BODY_SECONDS = 10.0  # to send a body in
MAX_NAME = 60  # characters of an annotator's name
MAX_ANSWERS = 200  # in one request
MAX_ITEMS = 100
CLOSE = {"connection": "close"}


def refuse(why: str, status: int = 400, headers: dict[str, str] | None = None) -> NoReturn:
    """Answer a request with an error.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(status, why, headers)


async def read_object(request: Request, *keys: str) -> dict[str, Any]:
    """The JSON object in a request's body, which has exactly these keys.

    Raises:
        HTTPException: it is something else, too long, or too slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    refuse(f"the request is longer than {MAX_BODY} bytes", 413, CLOSE)
    except TimeoutError:
        refuse(f"the request took longer than {BODY_SECONDS:.0f} seconds", 408, CLOSE)
    except ClientDisconnect:
        refuse("the connection was closed", headers=CLOSE)
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        refuse("the body is no JSON")
    return _checked_keys(value, keys)


def _checked_keys(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or {*value} != {*keys}:
        refuse(f"an object with {', '.join(keys)} is wanted, and nothing else")
    return value


def annotator_name(value: Any) -> str:
    """A name that an annotator may have: a line of text that begins with a letter or a digit.

    Raises:
        HTTPException: it is none.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value != value.strip():
        refuse(f"the annotator must be 1 to {MAX_NAME} characters")
    if not value.isprintable() or not value[0].isalnum():
        refuse("the annotator must begin with a letter or a digit and be printable")
    return value


def whole_number(text: str | None, least: int, most: int, name: str) -> int:
    """A number in a query or a path.

    Raises:
        HTTPException: it is none, or out of bounds.
    """
    if text is None or not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        refuse(f"{name} must be a number from {least} to {most}")
    return int(text)


def read_answers(value: Any, n_classes: int, indices: Mapping[str, int]) -> list[Answer]:
    """The answers in a request.

    Args:
        value: what JSON held.
        n_classes: C.
        indices: of the images, by their keys.

    Raises:
        HTTPException: one of them makes no sense; its position is in the message.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ANSWERS:
        refuse(f"answers must be a list of 1 to {MAX_ANSWERS}")
    return [_read_answer(v, i, n_classes, indices) for i, v in enumerate(value)]


def _read_answer(value: Any, i: int, n_classes: int, indices: Mapping[str, int]) -> Answer:
    answer = _checked_keys(value, ("key", "action", "label", "seconds"))
    key, action, label, seconds = answer["key"], answer["action"], answer["label"], answer["seconds"]
    if not isinstance(key, str) or key not in indices:
        refuse(f"answer {i}: its image is not in this project")
    if not isinstance(action, str) or action not in ACTIONS or action == UNDO:
        refuse(f"answer {i}: there is no such action")
    if action == LABEL and (type(label) is not int or not 0 <= label < n_classes):
        refuse(f"answer {i}: the label must be a class from 0 to {n_classes - 1}")
    if action != LABEL and label is not None:
        refuse(f"answer {i}: {action} has no label")
    if type(seconds) not in (int, float) or not 0 <= seconds <= 1e9:  # nor NaN, which JSON of Python's may hold
        refuse(f"answer {i}: the seconds must be a number from 0 to 1e9")
    return Answer(indices[key], action, label, float(seconds))
