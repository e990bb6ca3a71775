"""The page's server on a real socket: floods, slow senders, and how it starts and ends."""

import asyncio
import contextlib
import http.client
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labeling_projects import make_folder
from labeling_served import port_of, started

from labeling.connections import MAX_CONNECTIONS, listen
from utils import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a page on few images."""
    folder = tmp_path_factory.mktemp("flooded")
    make_folder(folder / "DATA" / "birds")
    with started(folder / "DATA" / "birds", folder / "results", 0, "--idle", "1.0") as (url, process):
        yield url
        assert process.poll() is None


def project_of(url, timeout=5):
    """Status of a good request, and how long it took."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=timeout)
    token = url.partition("token=")[2]
    connection.request("GET", "/api/project", headers={"Authorization": f"Bearer {token}"})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status, time.perf_counter() - start


@contextlib.contextmanager
def connected(url, sent=b""):
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=5) as sock:
        sock.sendall(sent)
        yield sock


def post(url, *headers):
    token, port = url.partition("token=")[2], port_of(url)
    own = [f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}", f"Authorization: Bearer {token}"]
    lines = ["POST /api/answers HTTP/1.1", *own, "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def test_a_body_of_a_gigabyte_is_refused_at_once(address):
    with connected(address, post(address, f"Content-Length: {10**9}")) as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")
        while sock.recv(4096):
            pass  # until it is closed


def test_an_endless_body_is_cut_off(address):
    n_sent = 0
    with connected(address, post(address, "Transfer-Encoding: chunked")) as sock:
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                sock.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                n_sent += 0x10000
        assert n_sent < 50 * 2**20  # what buffers hold
    assert project_of(address)[0] == 200


@pytest.mark.parametrize("sent", [b"GET /api/project HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"])
def test_a_thousand_connections_that_say_nothing_stop_nobody(address, sent):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < 1200:
        pytest.skip(f"this test may open only {limit} files")
    with contextlib.ExitStack() as stack:
        for i in range(1000):
            stack.enter_context(contextlib.suppress(ConnectionError))
            stack.enter_context(connected(address, sent))
            if i % 250 == 249:
                status, seconds = project_of(address)
                assert (status, seconds < 4) == (200, True)


def test_the_oldest_idle_connections_make_room(tmp_path):
    make_folder(tmp_path / "birds")
    with contextlib.ExitStack() as stack:
        address, _ = stack.enter_context(started(tmp_path / "birds", tmp_path / "results"))
        held = [stack.enter_context(connected(address)) for _ in range(MAX_CONNECTIONS + 20)]
        for sock in held[:10]:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        held[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            held[-1].recv(1)


@pytest.mark.parametrize("parts", [[b""], [b"GET / HT"] + [b"x"] * 20])
def test_a_request_that_never_ends_is_not_waited_for(address, parts):
    start = time.perf_counter()
    with connected(address) as sock, contextlib.suppress(ConnectionError):
        sock.settimeout(0.1)
        for part in parts:
            sock.sendall(part)
            with contextlib.suppress(TimeoutError):
                assert sock.recv(1) == b""
                break
        sock.settimeout(5)
        assert sock.recv(1) == b""
    assert time.perf_counter() - start < 3.5


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, b"\x16\x03\x01\x02\x00", b"GET http:\r\n\r\n"]
)
def test_what_is_no_request_is_refused(address, head):
    with connected(address, head) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert project_of(address)[0] == 200


def test_other_addresses_of_this_machine_do_not_answer(address):
    for host in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):  # refused, or there is none
            socket.create_connection((host, port_of(address)), timeout=1).close()


def test_a_busy_port_is_one_line(address):
    with pytest.raises(UserError, match=f"--port {port_of(address)}: another program uses it; give another one"):
        listen(port_of(address))
    with listen(0) as taken, pytest.raises(UserError, match="another program uses it"):
        listen(taken.getsockname()[1])  # though it answers nobody yet
    for port in (-1, 65536):
        with pytest.raises(UserError, match=f"--port {port}: must be from 0 to 65535"):
            listen(port)


def test_each_start_has_another_token_and_an_earlier_one_is_refused(address, tmp_path):
    make_folder(tmp_path / "birds")
    with started(tmp_path / "birds", tmp_path / "results") as (url, _):
        old, new = (u.partition("token=")[2] for u in (address, url))
        assert len({old, new}) == 2
        assert min(len(old), len(new)) >= 32
        assert project_of(url)[0] == 200
        assert project_of(url.replace(new, old))[0] == 403


def test_ctrl_c_ends_it_with_open_connections_and_the_port_is_free_at_once(tmp_path):
    make_folder(tmp_path / "birds")
    with started(tmp_path / "birds", tmp_path / "results") as (url, process), connected(url), connected(url, b"GET /"):
        assert project_of(url)[0] == 200
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert time.perf_counter() - start < 3
        assert process.stderr.read() == "interrupted\n"
        listen(port_of(url)).close()


def test_the_server_needs_no_torch():
    code = "import sys, labeling.server; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_replies_do_not_wait_for_acknowledgements_of_tcp():
    """Nagle's algorithm adds 40 ms to each; asyncio switches it off where it knows that a socket is TCP."""

    async def is_off():
        loop, accepted = asyncio.get_running_loop(), []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                accepted.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        async with await loop.create_server(Protocol, sock=listen(0)) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            while not accepted:
                await asyncio.sleep(0.01)
        return accepted

    assert asyncio.run(is_off()) != [0]
