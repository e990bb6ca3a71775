"""Randomness, device, metrics and the files of a run: what every other part stands on."""

from __future__ import annotations

import argparse
import csv
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor


class UserError(Exception):
    """A mistake of the user's: scripts print its one line on stderr and exit with code 2."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with code 2."""
        self.exit(2, f"error: {message}; see --help\n")


def exit_code(script: Callable[[], int | None], interrupted: str) -> int:
    """Run a script's work, and end with one line where it cannot be done.

    Returns:
        2 after a mistake of the user's, or where permissions, the disk or the memory do not do; 130 after Ctrl-C, which
        prints the line `interrupted`; 141 when the reader of the output has left; else what `script` says.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what a terminal cannot show
    try:
        code = script() or 0
        sys.stdout.flush()
        return code
    except UserError as e:
        said = str(e)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:
        _leave_stdout()
        return 141
    except OSError as e:
        if e.errno is None:
            raise
        said = f"{e.filename}: {e.strerror}" if e.filename is not None else str(e.strerror)
        if e.errno == errno.ENOSPC:
            _leave_stdout()
    except MemoryError as e:
        said = f"not enough memory ({e})" if str(e) else "not enough memory"
    except RuntimeError as e:
        if "DefaultCPUAllocator" not in str(e):
            raise
        said = f"not enough memory ({str(e).splitlines()[0].partition('DefaultCPUAllocator: ')[2]})"
    print(f"error: {said}", file=sys.stderr)
    return 2


def _leave_stdout() -> None:
    """Have what is still in its buffer go nowhere, as writing it at exit would fail again."""
    with suppress(OSError):  # of a stdout without a file
        stdout = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)


def warn(message: str) -> None:
    """Print one line on stderr that the user should know but that stops nothing."""
    print(f"note: {message}", file=sys.stderr, flush=True)


# Randomness


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """A fresh generator that depends on the seed and the keys alone, never on what was drawn before.

    Args:
        seed: seed of the run, 0 or more.
        keys: what the numbers are for, such as a purpose and a round. The strategy is never a key, so that
            strategies of one seed share their first labels, initial weights and batch order.
    """
    key = json.dumps([int(seed), *keys]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "little"))


# Device


def pick_device(name: str) -> torch.device:
    """The device that `name` asks for: auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: no such device here.
    """
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
    """Set torch's global switches for a run: float32 means float32, and on CUDA the same bits each time if asked for.

    Must come before the first CUDA operation.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)


# Metrics


def accuracy(probs: Tensor, targets: Tensor) -> float:
    """Share of images whose most probable class is the true one."""
    return (probs.argmax(1) == targets).double().mean().item()


def _macro(probs: Tensor, targets: Tensor) -> Sequence[Any]:
    return precision_recall_fscore_support(
        targets.cpu().numpy(), probs.argmax(1).cpu().numpy(), average="macro", zero_division=0
    )


def precision(probs: Tensor, targets: Tensor) -> float:
    """Mean precision over the classes that occur or are predicted; 0 for a class never predicted."""
    return float(_macro(probs, targets)[0])


def recall(probs: Tensor, targets: Tensor) -> float:
    """Mean recall over the classes that occur or are predicted; 0 for a class that does not occur."""
    return float(_macro(probs, targets)[1])


def f1(probs: Tensor, targets: Tensor) -> float:
    """Mean over classes of the harmonic mean of precision and recall."""
    return float(_macro(probs, targets)[2])


def nll(probs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the true class, in nats; a probability below float32's range is its edge."""
    true = probs.double().gather(1, targets[:, None])
    return -true.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item() + 0.0  # no minus zero


def ece(probs: Tensor, targets: Tensor, n_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of confidence, weighted by their images.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3; bins are (low, high].
    """
    confidence, predicted = probs.double().max(1)
    bins = (confidence * n_bins).ceil().long().clamp(1, n_bins) - 1
    gap = (predicted == targets).double() - confidence
    return torch.stack([gap[bins == b].sum().abs() for b in range(n_bins)]).sum().item() / len(targets)


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "nll": nll,
    "ece": ece,
}


def confusion_matrix(predicted: NDArray[np.int64], targets: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Counts of test images: row = true class, column = predicted class. Shape (C, C)."""
    return np.bincount(targets * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


# Files


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one line that names the path."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {e.filename or path}: {e.strerror or e}; what was committed is safe") from e


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by its new content or, if anything fails, leave the old one as it was.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def to_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Comma-separated lines with a header, each ended by a newline."""

    class Echo:
        def write(self, line: str) -> str:
            return line

    writer = csv.writer(Echo(), lineterminator="\r\n")  # quotes what it finds in the line's end: both characters
    return "".join(writer.writerow(row)[:-2] + "\n" for row in (header, *rows))


def read_text(path: Path) -> str | None:
    """A file's text as it stands, whatever its bytes; None where there is no file.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e


def read_csv(path: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows of a CSV file below its header, without a torn last line. A missing file has no rows.

    Raises:
        UserError: the header differs, or a line other than the last is damaged.
    """
    text = read_text(path)
    if not text:
        return []
    torn = not text.endswith("\n") or text.count('"') % 2 == 1  # an open quote: torn within a name of two lines
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=not torn))
    except csv.Error as e:
        raise UserError(f"{path} is damaged ({e}); repair it or move its folder away to start anew") from e
    rows = rows[:-1] if torn else rows
    if not rows:
        return []
    if rows[0] != list(header):
        raise UserError(f"{path} begins with {','.join(rows[0])!r}, not with {','.join(header)!r}")
    if rows[1:] and len(rows[-1]) != len(header):
        rows.pop()
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise UserError(f"{path} is damaged in line {i + 1}; repair it or move its folder away to start anew")
    return rows[1:]


def lock_file(path: Path, wait: bool) -> IO[str] | None:
    """Hold `path` locked until the returned file is closed or this process dies, however it dies.

    Returns:
        The open file, or None when another process holds the lock and `wait` is false.
    """
    with writing(path):
        f = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        f.close()
        return None
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        warn(f"the file system of {path.parent} has no locks; do not start the same run there twice at once")
    return f


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Hold a lock; wait, and say so, while another process has it."""
    lock = lock_file(path, wait=False)
    if lock is None:
        warn(f"another process is {work}; waiting for it")
        lock = lock_file(path, wait=True)
    try:
        yield
    finally:
        if lock:
            lock.close()


def git_commit() -> str:
    """Commit of the code that runs, with "+dirty" when files differ from it; "unknown" outside git."""
    try:
        folder = str(Path(__file__).parent)
        run = ["git", "-C", folder, "describe", "--always", "--exclude=*", "--dirty=+dirty", "--abbrev=40"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def package_version(name: str) -> str:
    """Version of an installed package; "unknown" where it goes by another name, as rebuilt ones do."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers of a run may depend on beside its configuration: versions, device, commit, command line."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {p: package_version(p) for p in packages},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cuda": torch.version.cuda if device.type == "cuda" else "none",
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }


@dataclass(frozen=True)
class Round:
    """One row of rounds.csv: the network trained on `n_labeled` labels, and the query that followed.

    `metrics` has the keys of METRICS. `query_seconds` is 0 where no query followed.
    """

    round: int
    n_labeled: int
    metrics: dict[str, float]
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    query_seconds: float = 0.0


SECONDS = ("train_seconds", "eval_seconds", "query_seconds")
ROUND_COLUMNS = ("round", "n_labeled", *METRICS, *SECONDS)


@dataclass(frozen=True)
class Query:
    """One row of queries.csv: an image and when it was labeled.

    Round 0 is the initial draw, round r what was added for training r; rank is the order within a round from 0;
    index is the position in the training set; path is relative to the dataset's folder; label is the class name.
    """

    round: int
    rank: int
    index: int
    path: str
    label: str


QUERY_COLUMNS = ("round", "rank", "index", "path", "label")


def read_rounds(path: Path) -> list[Round]:
    """The rows of a rounds.csv, without a torn last line.

    Raises:
        UserError: the file is damaged.
    """
    rows = read_csv(path, ROUND_COLUMNS)
    rounds = []
    for i, row in enumerate(rows):
        try:
            values = [float(v) for v in row]
            n_metrics = len(METRICS)
            metrics = dict(zip(METRICS, values[2:], strict=False))
            rounds.append(Round(int(row[0]), int(row[1]), metrics, *values[2 + n_metrics :]))
        except ValueError:
            if i < len(rows) - 1:
                raise UserError(f"{path} is damaged in line {i + 2}: {','.join(row)!r}") from None
    if [r.round for r in rounds] != list(range(len(rounds))):
        raise UserError(f"{path} is damaged: its rounds are {[r.round for r in rounds]}, not 0, 1, 2, ...")
    return rounds


def read_environment(folder: Path) -> dict[str, Any]:
    """What environment.json says of a run's last start; empty where it does not tell n_round."""
    try:
        content = json.loads((folder / "environment.json").read_text("utf-8"))
        return content if isinstance(content["n_round"], int) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def read_queries(path: Path) -> list[Query]:
    """The rows of a queries.csv, without a torn last line.

    Raises:
        UserError: the file is damaged.
    """
    rows = read_csv(path, QUERY_COLUMNS)
    queries = []
    for i, row in enumerate(rows):
        try:
            queries.append(Query(int(row[0]), int(row[1]), int(row[2]), row[3], row[4]))
        except ValueError:
            if i < len(rows) - 1:
                raise UserError(f"{path} is damaged in line {i + 2}: {','.join(row)!r}") from None
    previous, seen = Query(0, -1, -1, "", ""), set()
    for i, q in enumerate(queries):
        follows = (q.round, q.rank) in ((previous.round, previous.rank + 1), (previous.round + 1, 0))
        if not follows or q.index < 0 or q.index in seen:
            raise UserError(f"{path} is damaged in line {i + 2}: {','.join(rows[i])!r} does not follow the line above")
        previous = q
        seen.add(q.index)
    return queries


def config_hash(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def run_path(root: Path, config: dict[str, Any]) -> Path:
    """The folder of a run; it is named after its whole configuration."""
    name = f"seed{config['seed']}-{config_hash(config)}"
    return Path(root) / config["dataset_name"] / config["strategy_name"] / name


class RunFolder:
    """The files of one run, `root/<dataset>/<strategy>/seed<seed>-<hash8>/`, held by this process alone.

    Opening it drops what a killed process left half written; `commit` adds a round for good.

    Args:
        root: folder of all results.
        config: every setting that defines the experiment, resolved. Must hold dataset_name, strategy_name, seed,
            n_query and n_train (images in the pool).

    Raises:
        UserError: the folder holds another configuration, is in use by another process, is damaged, or cannot be
            written.
    """

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = run_path(root, config)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(self.folder / ".lock", wait=False)
        if self._lock is None:
            raise UserError(f"{self.folder} is in use: another process is running this experiment now")
        try:
            with writing(self.folder):
                for left in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                    left.unlink()
            self._check_config()
            self._rounds = read_rounds(self.folder / "rounds.csv")
            self._queries = read_queries(self.folder / "queries.csv")
            self._drop_uncommitted()
        except UserError:
            self.close()
            raise

    def _check_config(self) -> None:
        path = self.folder / "config.json"
        text = read_text(path)
        if text is None:
            if any(self.folder.glob("*.csv")):
                raise UserError(f"{self.folder} has results but no config.json; move the folder away to start anew")
            write_atomic(path, json.dumps(self.config, indent=2) + "\n")
            return
        try:
            old = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path} is damaged ({e}); move its folder away to start anew") from e
        if not isinstance(old, dict):
            raise UserError(f"{path} is damaged (it holds no settings); move its folder away to start anew")
        if old != self.config:
            differ = sorted(k for k in {*old, *self.config} if old.get(k) != self.config.get(k))
            what = ", ".join(f"{k}: {old.get(k)!r} there, {self.config.get(k)!r} asked for" for k in differ)
            raise UserError(f"{self.folder} holds another configuration ({what}); give another --results_dir")

    def _drop_uncommitted(self) -> None:
        """Keep the longest run of rounds whose picks are whole, and the picks that they asked for."""
        read = len(self._rounds), len(self._queries)
        n_picked = [0] * (len(self._rounds) + 2)
        for q in self._queries:
            if q.round < len(n_picked):
                n_picked[q.round] += 1
        n_labeled = 0
        for r in self._rounds:
            n_labeled += n_picked[r.round]
            if n_labeled != r.n_labeled:
                self._rounds = self._rounds[: r.round]
                break
        n_done = len(self._rounds)
        n_left = self.config["n_train"] - (self._rounds[-1].n_labeled if n_done else 0)
        whole = n_done > 0 and n_picked[n_done] == min(self.config["n_query"], n_left)
        self._queries = [q for q in self._queries if n_done > 0 and q.round < n_done + whole]
        if (len(self._rounds), len(self._queries)) != read:
            n_rounds, n_picks = read[0] - n_done, read[1] - len(self._queries)
            warn(f"{self.folder}: dropped what was not committed whole ({n_rounds} rounds, {n_picks} picks)")

    def rounds(self) -> list[Round]:
        """The committed rounds, 0 first."""
        return list(self._rounds)

    def queries(self) -> list[Query]:
        """The picks of the committed rounds, in order; the last round's may be missing if no query followed it."""
        return list(self._queries)

    def commit(self, round: Round, queries: Sequence[Query]) -> None:
        """Add a round and the picks that followed it, picks first; the round counts once its row stands.

        A round that stands already keeps its metrics and gains its picks, as when a finished run is continued.

        Raises:
            UserError: the disk is full or the folder cannot be written. The round does not count then.
        """
        all_queries = [*self._queries, *queries]
        rounds = [*self._rounds[: round.round], round]
        if round.round < len(self._rounds):
            rounds[-1] = replace(self._rounds[-1], query_seconds=round.query_seconds)
        picks = ([q.round, q.rank, q.index, q.path, q.label] for q in all_queries)
        self.write("queries.csv", to_csv(QUERY_COLUMNS, picks))
        rows = []
        for r in rounds:
            seconds = (f"{getattr(r, s):.3f}" for s in SECONDS)
            rows.append([r.round, r.n_labeled, *(np.round(r.metrics[m], 6) for m in METRICS), *seconds])
        self.write("rounds.csv", to_csv(ROUND_COLUMNS, rows))
        self._rounds, self._queries = rounds, all_queries

    def write(self, name: str, content: str | bytes) -> None:
        """Replace one file of the folder, atomically."""
        write_atomic(self.folder / name, content)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Record this start in environment.json; earlier starts are kept under "earlier"."""
        path = self.folder / "environment.json"
        earlier: list[Any] = []
        if (text := read_text(path)) is not None:
            try:
                last = json.loads(text)
                earlier = [*last.pop("earlier", []), last]
            except (ValueError, AttributeError, TypeError, RecursionError):
                warn(f"{path} was damaged and is written anew")
        self.write(path.name, json.dumps({**environment, "earlier": earlier}, indent=2) + "\n")

    def write_n_round(self, n_round: int) -> None:
        """Record in environment.json for how many rounds a finished run was asked last: so many count as its result."""
        last = read_environment(self.folder)
        if last.get("n_round", n_round) != n_round:
            self.write("environment.json", json.dumps({**last, "n_round": n_round}, indent=2) + "\n")

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.close()
