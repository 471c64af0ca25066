"""Who may ask: the page itself, from the machine it runs on, or with the token. Before anything else sees a request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.responses import JSONResponse

COOKIE = "shotseg"
READS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class TooLarge(Exception):
    """A body of more bytes than are taken."""


class Guard:
    """app: what is guarded.   hosts: the names, with port, that the page has; None: any, for a token stands before it all.

    most: bytes of a body.   leave: ends the answers that go on and on, for a server that is asked to stop.
    """

    def __init__(self, app: Any, hosts: frozenset[str] | None, token: str | None, most: int, leave: Callable[[], None]):
        self.app, self.hosts, self.most, self.leave = app, hosts, most, leave
        self.pass_ = None if token is None else cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # there is no web socket
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        started = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        taken = 0

        async def received() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                raise TooLarge
            return message

        refused = self._refused(scope, headers)
        if refused is None:
            try:
                return await self.app(scope, received, sent)
            except TooLarge:
                if started:
                    raise
                refused = 413, self._large
        await JSONResponse({"detail": refused[1]}, refused[0])(scope, receive, sent)

    @property
    def _large(self) -> str:
        return f"more than {self.most // 2**20} MB at once; send fewer or smaller files"

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if self.hosts is not None and host not in self.hosts:
            return 400, "asked for under another name than this page has; open the address that shotseg serve printed"
        site = headers.get("sec-fetch-site", "none")
        own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
        asks_api = scope["path"].startswith("/api/")
        if not own or (asks_api and site not in ("none", "same-origin")):
            return 403, "asked for by another page; open the address that shotseg serve printed"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            return 413, self._large
        if asks_api and scope["path"] != "/api/v1/login" and not self._has_pass(headers.get("cookie", "")):
            return 401, "open the address with the token that shotseg serve printed"
        return None

    def _has_pass(self, cookies: str) -> bool:
        return self.pass_ is None or hmac.compare_digest(_cookie(cookies).encode(), self.pass_.encode())


def cookie_of(token: str) -> str:
    """What the cookie holds: the token cannot be told from it."""
    return hashlib.sha256(b"shotseg " + token.encode()).hexdigest()


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
