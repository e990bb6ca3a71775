"""Who may talk to the server: a page that it served itself, and that knows the token of this start.

The token stands in the fragment of the address, `http://127.0.0.1:8000/#token=...`. Browsers send no fragment to any
server, so that it is in no log; the page's script takes it from there and sends it with each request in a header. A
cookie would be shared by all servers on 127.0.0.1, whatever their port, and sent by itself with requests that other
pages make; the header is neither.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 2**16  # bytes of a request: some hundred answers
HOST = re.compile(r"(?:127\.0\.0\.1|localhost)(?::[0-9]{1,5})?")  # any port, as ssh -L may give it another one
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"  # so innerHTML and its like raise an error
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-store",  # the next project on this port has other images at the same addresses
}


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


class Guard:
    """Refuses requests that are not the page's own, before anything of them is used, and adds HEADERS to responses.

    Args:
        app: what answers the others.
        token: that requests must carry.
        public: paths of what everybody may see: the page without any content, its style and its script.
    """

    def __init__(self, app: ASGIApp, token: str, public: frozenset[str]) -> None:
        self.app = app
        self.token = token.encode()
        self.public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        refused = self.refusal(scope)
        app = self.app
        if refused:
            status, error = refused
            app = JSONResponse({"error": error}, status, {"connection": "close"})  # whatever more was to come
        await app(scope, receive, send_guarded)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the reason to refuse a request with; None where there is no reason."""
        headers = Headers(scope=scope)
        post = scope["method"] == "POST"
        host = headers.get("host", "")
        if not HOST.fullmatch(host):
            return 400, "this server is 127.0.0.1 and has no other name"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET, HEAD and POST are possible"
        if (origin := headers.get("origin")) != f"http://{host}" and (post or origin is not None):
            return 403, "the request comes from another page"
        if scope["path"] not in self.public:
            if headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "the request comes from another page"
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme != "Bearer" or not secrets.compare_digest(token.encode(), self.token):
                return 403, "the token is missing or of an earlier start; open the address that label.py printed"
        return _refused_body(headers, post)


def _refused_body(headers: Headers, allowed: bool) -> tuple[int, str] | None:
    """Why a request's body is not even read; one of unknown length is limited while it is read."""
    length = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,19}", length):
        return 400, "the length of the request is no number"
    if int(length) > MAX_BODY:
        return 413, f"the request is longer than {MAX_BODY} bytes"
    if not allowed and (length != "0" or "transfer-encoding" in headers):
        return 400, "only POST has a body"
    if allowed and not re.fullmatch("application/json(; ?charset=utf-8)?", headers.get("content-type", ""), re.I):
        return 415, "the body must be application/json"
    return None
