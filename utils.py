"""Errors, the command line, random streams, the device: what every script stands on. Importing it imports no torch."""

from __future__ import annotations

from startup import interruptible

import argparse
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    import torch

# Control characters, other ends of lines, and marks that turn the direction of writing.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """Text for a line of a terminal or a log: what would end the line, move the cursor or reorder it is escaped.

    Names of files, folders and classes are others' and may hold anything. Files of results hold them as they are.
    """
    return UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), str(text))


class UserError(Exception):
    """A mistake of the user's: scripts print it on stderr and exit with code 2.

    Args:
        message: one line.
        details: a line each, below it.
    """

    def __init__(self, message: str, *details: str) -> None:
        super().__init__(message, *details)

    def __str__(self) -> str:
        return "\n  ".join(map(printable, self.args))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        self.exit(2, f"error: {message}; see --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit, without a traceback where the reader of --help has closed it."""
        if message:
            print_error(printable(message.rstrip()))
        sys.exit(exit_code(lambda: status, ""))


def exit_code(script: Callable[[], int | None], interrupted: str) -> int:
    """Run a script's work, and print one line where it fails for a reason outside the program.

    Args:
        script: does the work; returns its exit code, None for 0.
        interrupted: the line to print after Ctrl-C.

    Returns:
        What `script` returns; 2 after a mistake of the user's and on permission, disk or memory errors; 130 after
        Ctrl-C; 141 when the reader of the output has closed it.
    """
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # writes what is buffered, such as the text of --help
            sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what a terminal cannot show
        with interruptible():
            code = script() or 0
            sys.stdout.flush()
            return code
    except UserError as e:
        message = str(e)
    except KeyboardInterrupt:
        print_error(interrupted)
        return 130
    except BrokenPipeError:
        discard_buffered_output()
        return 141
    except OSError as e:
        if e.errno is None:
            raise
        message = printable(f"{e.filename}: {e.strerror}" if e.filename is not None else e.strerror)
        if e.errno == errno.ENOSPC:
            discard_buffered_output()
    except MemoryError as e:
        message = f"not enough memory ({e})" if str(e) else "not enough memory"
    except RuntimeError as e:
        if "DefaultCPUAllocator" not in str(e):
            raise
        message = f"not enough memory ({str(e).splitlines()[0].partition('DefaultCPUAllocator: ')[2]})"
    print_error(f"error: {message}")
    return 2


def discard_buffered_output() -> None:
    """Discard what stdout still buffers: writing it at exit would fail again."""
    with suppress(OSError):  # of a stdout without a file
        stdout = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)


def print_error(line: str) -> None:
    """Print on stderr, unless it cannot be written: there is no other place to say so."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one line on stderr that the user should know but that stops nothing."""
    print_error(f"note: {printable(message)}")


def duration(seconds: float) -> str:
    """A human-readable length of time."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """A fresh generator that depends on the seed and the keys alone, never on what was drawn before.

    Args:
        seed: seed of the run, 0 or more.
        keys: what the numbers are for, such as a purpose and a round. The strategy is never a key, so that
            strategies of one seed share their first labels, initial weights and batch order.
    """
    key = json.dumps([int(seed), *keys]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "little"))


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """The device that `name` stands for: auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps") or (device.type == "cpu" and device.index):
        raise UserError(f"--device {name}: must be auto, cpu, cuda, cuda:<number> or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees no Apple GPU here; use --device cpu")
    if device.type == "cuda":
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if n == 0:
            raise UserError(f"--device {name}: torch {torch.__version__} sees no CUDA device here; use --device cpu")
        if (device.index or 0) >= n:
            raise UserError(f"--device {name}: there are {n} CUDA devices, cuda:0 to cuda:{n - 1}")
        return torch.device("cuda", device.index or 0)
    return device


def configure(device: torch.device, deterministic: bool) -> None:
    """Set torch's global switches: float32 without TF32, and on request the same bits each time on CUDA.

    Must come before the first CUDA operation.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices faster in bfloat16 than in float32; elsewhere bfloat16 is not used."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def cpu_model() -> str:
    """The name of the CPU's model, or of its architecture where the system does not tell."""
    with suppress(OSError):  # on systems other than Linux
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers of a run may depend on beside its configuration: versions, device, commit, command line."""
    import torch

    packages = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {p: package_version(p) for p in packages},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cuda": torch.version.cuda if device.type == "cuda" else "none",
        "cpu": cpu_model(),
        "bfloat16": has_fast_bf16(device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }


def git_commit() -> str:
    """Commit of the running code, with "+dirty" when files differ from it; "unknown" outside git."""
    try:
        folder = str(Path(__file__).parent)
        run = ["git", "-C", folder, "describe", "--always", "--exclude=*", "--dirty=+dirty", "--abbrev=40"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def package_version(name: str) -> str:
    """Version of an installed package; "unknown" for one installed under another name, as rebuilt packages are."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
