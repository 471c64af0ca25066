"""Files from the web: by ``https://`` alone, from public addresses alone, within limits."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from typing import Any, TypeGuard
from urllib.parse import quote, urlsplit

from shotseg.errors import InputError, first_line

MOST_BYTES = 100_000_000
SECONDS = 60.0  # for the whole file, redirects included
SILENT = 20.0  # that the server may send nothing
REDIRECTS = 5
MEND = "download it first and give the file"
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_web(source: object) -> TypeGuard[str]:
    """Whether this is a text that begins with http:// or https://."""
    return isinstance(source, str) and re.match(r"https?://", source, re.IGNORECASE) is not None


def shown(url: str) -> str:
    """An address as messages show it: without the query, which may hold a key."""
    return re.split(r"[?#]", re.sub(r"//[^/?#]*@", "//", url), maxsplit=1)[0][:200]


def fetch(url: str) -> bytes:
    """The content of ``https://...``: at most ``MOST_BYTES``, within ``SECONDS``, over at most ``REDIRECTS`` redirects.

    Each host is resolved once, and every address of it must be public: this machine and its networks are not asked. Where the
    environment names a proxy, the proxy resolves hosts. Raises InputError (one line) for everything that is not so.
    """
    name = shown(url)
    clock = _Clock(SECONDS)
    try:
        opener = urllib.request.build_opener(_Handler(clock), _Redirects())
        asked = urllib.request.Request(_checked(url), headers={"User-Agent": "shotseg", "Accept": "image/*"})
        with clock, opener.open(asked, timeout=SILENT) as answer:
            kind = answer.headers.get_content_type()
            data = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise InputError(f"{name}: the server answers {error.code}; check the address, or {MEND}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise InputError(f"{name}: cannot be fetched ({_reason(error, clock)}); {MEND}") from None
    if clock.up:
        raise InputError(f"{name}: cannot be fetched ({_reason('', clock)}); {MEND}")
    if len(data) > MOST_BYTES:
        raise InputError(f"{name}: more than {MOST_BYTES / 1_000_000:.0f} MB; {MEND}")
    if not data:
        raise InputError(f"{name}: the server sends nothing; check the address")
    if kind == "text/html":
        raise InputError(f"{name}: a web page, not a file; give the address of the picture itself")
    return data


def _reason(error: Any, clock: _Clock) -> str:
    """Why nothing came: the time, or what the library says."""
    return f"not done in {SECONDS:.0f} s" if clock.up else first_line(getattr(error, "reason", error))


def _checked(url: str) -> str:
    """The address as it is asked for. Raises InputError for one of another kind, and one with a password in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError(f"{shown(url)}: no address ({first_line(error)}); check it") from None
    if parts.scheme != "https":
        raise InputError(f"{shown(url)}: only https:// is fetched; {MEND}")
    if not host or not host.isascii() or parts.username is not None:
        raise InputError(f"{shown(url)}: no plain address of a host, or a password in it; {MEND}")
    with suppress(ValueError):  # a name, which is resolved later
        ipaddress.ip_address(host)
        _refuse_inner(host, host)
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def _refuse_inner(host: str, address: str) -> None:
    """Raise InputError for an address of this machine or its networks, also one that is wrapped in an IPv6 address."""
    found: Any = ipaddress.ip_address(address.split("%")[0])
    if found.version == 6:
        translated = ipaddress.ip_address(int(found) & 0xFFFFFFFF) if found in NAT64 else None
        found = translated or found.ipv4_mapped or found.sixtofour or found
    if not found.is_global or found.is_multicast:
        raise InputError(f"{host}: an address of this machine or network, which is not asked; {MEND}")


class _Clock:
    """Ends every connection that it was shown when the time is up, whatever the other side does."""

    def __init__(self, seconds: float):
        self.up, self._watched = False, list[socket.socket]()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Clock:
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
        for watched in self._watched:
            watched.close()

    def watch(self, connected: socket.socket) -> None:
        self._watched.append(connected.dup())  # TLS takes the socket itself over
        if self.up:
            self._end()

    def _end(self) -> None:
        self.up = True
        for watched in self._watched:
            with suppress(OSError):  # it has ended already
                watched.shutdown(socket.SHUT_RDWR)


class _Connection(HTTPSConnection):
    """To the very address that was found to be public: a name that is resolved twice may mean two hosts."""

    clock: _Clock

    def connect(self) -> None:
        if getattr(self, "_tunnel_host", None):  # through the proxy of the environment
            super().connect()
            self.clock.watch(self.sock)
        else:
            plain = self._connected()
            self.clock.watch(plain)
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)

    def _connected(self) -> socket.socket:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, place in found:
            _refuse_inner(self.host, str(place[0]))
        failed: OSError = OSError("no address")
        for family, kind, protocol, _, place in found:
            plain = socket.socket(family, kind, protocol)
            plain.settimeout(self.timeout)
            try:
                plain.connect(place)
            except OSError as error:
                plain.close()
                failed = error
            else:
                return plain
        raise failed


class _Handler(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock):
        super().__init__()
        self.clock = clock

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)  # type: ignore[arg-type]

    def _connection(self, host: str, **options: Any) -> _Connection:
        made = _Connection(host, **options)
        made.clock = self.clock
        return made


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, _checked(newurl))
