"""Requests to an ASGI application in this process, without a socket."""

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict
    content: bytes

    def json(self):
        """The content, as JSON holds it."""
        return json.loads(self.content)


def request(app, method, target, headers=None, chunks=(b"",), sent=None):
    """One request.

    Args:
        app: the application.
        method: such as GET.
        target: path and query, quoted.
        headers: by name.
        chunks: of the body. It may be endless; what was taken of it is appended to `taken`.
        sent: called as soon as the response begins.
    """
    path, _, query = target.partition("?")
    scope = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "root_path": ""}
    raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "headers": raw}
    reply = Reply(0, {}, b"")
    body = iter(chunks)
    following = next(body, None)

    async def receive():
        nonlocal following
        if following is None:
            return {"type": "http.disconnect"}
        chunk, following = following, next(body, None)
        return {"type": "http.request", "body": chunk, "more_body": following is not None}

    async def send(message):
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            if sent:
                sent()
        reply.content += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return reply
