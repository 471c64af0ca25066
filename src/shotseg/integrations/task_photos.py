"""The photos of Label Studio's tasks: from its server, and from one folder; from nowhere else."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

from shotseg.data.annotations.label_studio import LOCAL
from shotseg.data.images import read_bytes
from shotseg.errors import InputError, UsageError, first_line

MOST_BYTES = 100_000_000  # of a photo's file
SECONDS = 20  # that the server may be silent
FRESH = 120  # seconds that an access token is used; it is good for a few minutes


class TaskPhotos:
    """Reads what tasks call their photo.

    server:  address of Label Studio, ``http://localhost:8080``; no other host is asked, not by way of a redirect either.
    token:   a personal access token of it, or a legacy token.
    folder:  photos of local storage (``/data/local-files/?d=``) and of ``file://`` are read below it, without the server.
    """

    def __init__(self, server: str | None = None, token: str | None = None, folder: str | Path | None = None):
        if server is not None and _origin(server) is None:
            raise UsageError(f"{server}: not the address of a server; give it as http://localhost:8080")
        self.server, self.token = server, token
        self.folder = None if folder is None else Path(folder).resolve()
        self._access = ("", 0.0)
        self._open = urllib.request.build_opener(_SameHost(_origin(server))).open

    def read(self, address: Any) -> bytes:
        """The file of a task's photo. Raises InputError (one line) where it may not or cannot be read."""
        if not isinstance(address, str) or not address:
            raise InputError(f"a task whose photo is {str(address)[:80]!r}; give the address of one")
        try:
            local = _local(address)
            url = urljoin((self.server or "").rstrip("/") + "/", address)
        except ValueError:
            raise InputError(f"{address[:200]}: cannot be read as an address; mend it in the task") from None
        if local is not None and self.folder is not None:
            path = (self.folder / local).resolve()
            if not path.is_relative_to(self.folder):
                raise InputError(f"{address[:200]}: leads out of {self.folder}; name a photo below it")
            if path.is_file() or address.startswith("file:"):
                return _limited(path)
        if address.startswith("file:"):
            raise InputError(f"{address[:200]}: a file of this machine; say the folder of the photos with --photos")
        if self.server is None:
            raise InputError(f"{address[:200]}: no server to ask; give its address with --label-studio")
        if _origin(url) != _origin(self.server):
            raise InputError(f"{address[:200]}: not on {self.server}; no other server is asked")
        return self._fetched(url)

    def _fetched(self, url: str) -> bytes:
        try:
            with self._open(urllib.request.Request(url, headers=self._headers()), timeout=SECONDS) as answer:
                data = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            mend = "give a personal access token" if error.code in (401, 403) else "open it in Label Studio"
            raise InputError(f"{url[:200]}: the server answers {error.code}; {mend}") from None
        except (OSError, ValueError, KeyError, TypeError, HTTPException) as error:
            raise InputError(f"{url[:200]}: cannot be fetched ({first_line(error)})") from error
        if not data or len(data) > MOST_BYTES:
            raise InputError(f"{url[:200]}: {'empty' if not data else f'more than {MOST_BYTES} bytes'}")
        return data

    def _headers(self) -> dict[str, str]:
        if not self.token:
            return {}
        if self.token.count(".") != 2:
            return {"Authorization": f"Token {self.token}"}
        access, since = self._access
        if not access or time.monotonic() - since > FRESH:  # a personal token only buys such ones
            asked = urllib.request.Request(
                urljoin(str(self.server).rstrip("/") + "/", "api/token/refresh"),
                json.dumps({"refresh": self.token}).encode(),
                {"Content-Type": "application/json"},
            )
            with self._open(asked, timeout=SECONDS) as answer:
                access = str(json.loads(answer.read(MOST_BYTES))["access"])
            self._access = (access, time.monotonic())
        return {"Authorization": f"Bearer {access}"}


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where it came from: the token must not go elsewhere."""

    def __init__(self, origin: tuple[str, str, int] | None):
        self.origin = origin

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if _origin(newurl) != self.origin:
            raise ValueError("it leads to another server")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(address: str | None) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an address on the web; None for anything else."""
    try:
        parts = urlsplit(address or "")
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _local(address: str) -> str | None:
    """The path that an address of local storage names; None for others."""
    if address.startswith("file:"):
        return unquote(urlsplit(address).path)
    return unquote(address.split(LOCAL, 1)[1].split("&")[0]).lstrip("/") if LOCAL in address else None


def _limited(path: Path) -> bytes:
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: more than {MOST_BYTES} bytes")
    return read_bytes(path)
