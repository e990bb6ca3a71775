"""How much memory decoding images may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LEAST = 2**29  # bytes: photographs of 40 megapixels, whatever else the machine is busy with
UNKNOWN = 2**32  # bytes, where the system does not say
CGROUPS = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}  # by controller: version 2 and 1


def memory_for_decoding(system: Path = Path("/")) -> int:
    """Bytes that all images decoded at a time may take: half of the memory, as the program itself needs some.

    The memory is what Linux calls available or, if it is less, the limit of a container or a batch job; elsewhere it is
    all that the machine has.

    Args:
        system: where proc/ and sys/ are.
    """
    sizes = [*_available(system / "proc/meminfo"), *_cgroup_limits(system)]
    return max(LEAST, min(sizes or [_installed()]) // 2)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _available(meminfo: Path) -> Iterator[int]:
    for line in _text(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1]:
            yield int(value.split()[0]) * 1024


def _cgroup_limits(system: Path) -> Iterator[int]:
    """The limits of the control groups that this process is in, and of those around them."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            folder, name = CGROUPS.get(controller, (None, ""))
            if folder is not None:
                inner = Path(path.lstrip("/"))
                for group in (inner, *inner.parents):
                    limit = _text(system / "sys/fs/cgroup" / folder / group / name).strip()
                    if limit.isdigit():  # "max" where there is none
                        yield int(limit)


def _installed() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return UNKNOWN
