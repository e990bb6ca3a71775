"""JSON files whose content is believed when it is read again: each holds a checksum of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from files import read_bytes, write_atomic

CHECK = "check"  # name of the checksum


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Replace the file.

    Raises:
        UserError: it cannot be written.
    """
    write_atomic(path, json.dumps({**content, CHECK: _checksum(content)}))


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote; empty where the file is missing or damaged, or has no checksum."""
    content, check = _parsed(path)
    return content if check == _checksum(content) else {}


def is_damaged(path: Path) -> bool:
    """Whether a file is there whose content was changed, or is no record. Older ones, without a checksum, are none."""
    content, check = _parsed(path)
    return check is not None and check != _checksum(content)


def _parsed(path: Path) -> tuple[dict[str, Any], Any]:
    """Content and checksum. The checksum is None where there is none, and empty where the file cannot be read."""
    try:
        content = json.loads(read_bytes(path))
        return content, content.pop(CHECK, None)
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}, ""


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
