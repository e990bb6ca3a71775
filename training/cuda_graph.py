"""A training step recorded as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from utils import UserError

EAGER_STEPS = 3  # before a step is recorded, so that all libraries are initialised


@cache
def _side_queue(device: torch.device) -> torch.cuda.Stream:
    """One cached CUDA stream per device: torch keeps memory for each stream that was ever used."""
    return torch.cuda.Stream(device)


@contextmanager
def side_queue(device: torch.device) -> Iterator[None]:
    """On CUDA, run on a stream that may be recorded; the default one may not."""
    if device.type != "cuda":
        yield
        return
    side, main = _side_queue(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        main.wait_stream(side)


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms: this pays for the one batch shape of training, not for the many of queries."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same step as one CUDA graph, launched at once instead of kernel by kernel.

    Source: "CUDA graphs", PyTorch documentation.

    Raises:
        UserError: something in the step cannot be recorded. Torch's generators are not usable after that.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            loss = step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        cause = str(e.__context__ or e).splitlines()[0]
        raise UserError(
            f"the training step cannot be recorded ({cause}); --no-cuda_graph trains without recording"
        ) from e
    alive = graph, step, loss  # the graph reads and writes what the step refers to: keep it from being freed

    def replay() -> Tensor:
        graph, _, loss = alive
        graph.replay()
        return loss

    return replay
