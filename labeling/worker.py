"""The training process of label.py: the page never waits for a training, and imports no torch.

It ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection

from labeling.work import Checked, Event, Failed, Preparing, Ready, Setup, Task
from utils import UserError, duration, n_cores

REPORT_SECONDS = 1.0  # between two reports of the preparation
STOP_SECONDS = 5.0  # until a process that does not end by itself is killed


class TrainingProcess:
    """A process that trains; events come by a thread of this one.

    Args:
        setup: the project.
        receive: called with each event, in a thread of its own.
    """

    def __init__(self, setup: Setup, receive: Callable[[Event], None]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of the server
        self._connection, there = context.Pipe()
        self._process = context.Process(target=work, args=(there, setup), name="training")
        self._process.start()
        there.close()
        self._receive = receive
        self._closing = False
        self._sender = ThreadPoolExecutor(1)  # a large task takes its time
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def submit(self, task: Task) -> None:
        """Give it something to do; returns at once."""
        self._sender.submit(self._send, task)

    def _send(self, task: Task | None) -> None:
        with suppress(OSError):  # it has died, which the other thread reports
            self._connection.send(task)

    def _listen(self) -> None:
        while True:
            try:
                event = self._connection.recv()
            except (EOFError, OSError):
                text = f"the training process {self._how_it_ended()} Start label.py again"
                if not self._closing:
                    self._receive(Failed(text, True))
                return
            self._receive(event)
            if isinstance(event, Failed) and event.final:  # it has said why it ends
                return

    def _how_it_ended(self) -> str:
        self._process.join(STOP_SECONDS)
        code = self._process.exitcode
        was_killed = code is None or code < 0
        return "was killed; is the memory full?" if was_killed else "ended by an error, which the terminal shows."

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closing = True
        self._sender.submit(self._send, None)  # it ends its own processes first
        self._process.join(STOP_SECONDS)
        self._process.kill()
        self._process.join()
        self._sender.shutdown()
        self._listener.join()
        self._connection.close()


def work(connection: Connection, setup: Setup) -> None:
    """What the training process does: prepare the images, then one task after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    if hasattr(os, "nice"):
        os.nice(10)  # the page comes first
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, tasks), daemon=True).start()
    try:
        _serve(connection, setup, tasks)
    except UserError as e:
        connection.send(Failed(str(e), True))
    except BrokenPipeError:
        pass


def _read(connection: Connection, tasks: queue.SimpleQueue[Task]) -> None:
    """Pass tasks on, and end this process with the one that sends them."""
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            task = None
        if task is None:
            _end()
        tasks.put(task)


def _end() -> None:
    """End at once, with the processes that read images."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def _serve(connection: Connection, setup: Setup, tasks: queue.SimpleQueue[Task]) -> None:
    import torch
    from tqdm import tqdm

    from labeling.engine import Engine

    tqdm.set_lock(threading.RLock())  # its own one would be a semaphore, left behind when this process ends at once
    torch.set_num_threads(max(1, n_cores() - 1))  # one core is for the page
    engine = Engine(setup)
    connection.send(Checked())
    start = time.monotonic()
    last = [start]

    def report(done: int, total: int) -> None:
        if time.monotonic() - last[0] < REPORT_SECONDS and done < total:
            return
        last[0] = time.monotonic()
        left = (last[0] - start) / done * (total - done)
        connection.send(Preparing(f"embedding: {done:,} of {total:,} images, about {duration(left)} left"))

    connection.send(Ready(engine.load(report)))
    while True:
        task = tasks.get()
        try:
            connection.send(engine.run(task))
        except UserError as e:
            connection.send(Failed(str(e), False))
        sys.stderr.flush()
