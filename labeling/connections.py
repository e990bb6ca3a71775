"""The server's socket and its connections, of which nobody can hold all."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from utils import UserError

HOST = "127.0.0.1"  # never another one: whoever reaches the server could read the images
MAX_CONNECTIONS = 100  # browsers open six; systems may allow 256 open files
IDLE_SECONDS = 20.0  # without a whole request
LONGEST_HEAD = 2**14  # bytes of a request's first lines
SHUTDOWN_SECONDS = 2  # for answers under way


class Connection(H11Protocol):
    """A connection. The ones that were idle longest make room for new ones; slow requests end after a while."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, and close the oldest idle one where there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self.timer = self.loop.call_later(IDLE_SECONDS, self.close_if_idle)
        left = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(left) > MAX_CONNECTIONS:
            idle = [c for c in left if c.is_idle]
            min(idle, key=lambda c: c.since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Note when the connection became idle."""
        self.since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no whole request waits for its response."""
        return self.cycle is None or self.cycle.response_complete

    def close_if_idle(self) -> None:
        """Close the connection unless there was a request lately; it may have sent parts of one."""
        left = self.since + IDLE_SECONDS - self.loop.time()
        if self.is_idle and left <= 0:
            self.transport.abort()
        else:
            self.timer = self.loop.call_later(max(left, 1.0), self.close_if_idle)


def listen(port: int) -> socket.socket:
    """A socket of this machine alone.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: the port is in use, or not for users.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 0 to 65535")
    # By its protocol asyncio knows that it is TCP, and switches Nagle's algorithm off: 4 ms an answer instead of 45.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where others could bind the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # the port can be used again at once after a crash
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(1)  # takes the port, also from those who bound it and do not listen
    except OSError as e:
        sock.close()
        busy = "another program uses it" if e.errno == errno.EADDRINUSE else e.strerror
        raise UserError(f"--port {port}: {busy}; give another one, or 0 for any that is free") from e
    return sock


class Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.ready()


async def serve_app(app: ASGIApp, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C, which is raised again in the end.

    Args:
        app: answers them.
        sock: from `listen`; closed in the end.
        ready: called once requests are answered.
    """
    settings: dict[str, Any] = {
        "http": Connection,
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "log_level": "error",  # refused requests are no news
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # nobody stands between
        "backlog": MAX_CONNECTIONS,  # accepted at a time, and each is an open file
        "timeout_keep_alive": int(IDLE_SECONDS),
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
        "h11_max_incomplete_event_size": LONGEST_HEAD,
    }
    await Server(uvicorn.Config(app, **settings), ready).serve(sockets=[sock])
