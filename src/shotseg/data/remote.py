"""Files at addresses of the web and of stores (https://, s3://, gs://, az://), through fsspec (extra: remote).

An address may hold a password or a signature. No line, table or file ever shows more of it than :func:`shown` gives.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from shotseg.data.images import IMAGE_TYPES
from shotseg.errors import InputError, UsageError, first_line

STORES = ("s3", "gs", "gcs", "az", "abfs", "memory")  # places that can be listed
WEB = ("http", "https")
DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
LISTS = (".txt", ".jsonl")
MOST = 1 << 30  # bytes of one photo
SECONDS = 120.0  # for one photo
TRIES = 3
PAUSE = 0.5  # seconds before the second try; twice as long before the third


def address(place: str | Path) -> str | None:
    """The address that a text is, also after it was taken for a path, which swallows a slash; None for a path."""
    known = re.match(rf"({'|'.join((*STORES, *WEB))}):/+(?=[^/?#])", str(place), re.IGNORECASE)
    return None if known is None else f"{known[1].lower()}://{str(place)[known.end() :]}"


def shown(place: str) -> str:
    """An address without what may be secret in it: user, password, and all from "?" or "#" on."""
    scheme, _, rest = place.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def read(place: str) -> bytes:
    """The content of a file. Raises InputError (one line) where it is missing, empty, too large, or no answer comes."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "content")
        _tried(place, lambda fs, path: fs.get_file(path, str(local), callback=_Limit(place)))
        data = local.read_bytes() if local.is_file() else b""
    if not data:
        raise InputError(f"{shown(place)}: the file is empty (0 bytes); copy it again or leave it out")
    return data


def send(local: Path, place: str) -> None:
    """Copy a file of this machine to an address. Raises InputError (one line) where that cannot be."""
    _tried(place, lambda fs, path: fs.put_file(str(local), path))


def put(content: bytes, place: str) -> None:
    """Write a small file at an address."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "content")
        local.write_bytes(content)
        send(local, place)


def fetch(place: str, local: Path) -> None:
    """The other way, whatever the size."""
    local.parent.mkdir(parents=True, exist_ok=True)
    _tried(place, lambda fs, path: fs.get_file(path, str(local)))


def remove(place: str) -> None:
    """Remove a file; one that is not there is gone already."""

    def gone(fs: Any, path: str) -> None:
        if fs.exists(path):
            fs.rm_file(path)

    _tried(place, gone)


def below(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(address, what the store says of it) of every file below a folder, one folder after the other."""
    fs, root = _opened(place)
    scheme = place.partition("://")[0]
    try:
        for _, _, files in fs.walk(root, detail=True, on_error="raise"):
            for name, about in sorted(files.items()):
                if name:  # some stores keep an empty file in place of a folder
                    yield f"{scheme}://{fs._strip_protocol(about['name']).lstrip('/')}", about
    except FileNotFoundError:
        return
    except Exception as error:
        _refuse(place, error)


def photos_at(query: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(file, address, {"version": ...}) of the photos that an address means: a photo, a list of them, a folder or a pattern.

    A list is a text file with an address a line, or lines of JSON with "url" and, if one likes, "file", the name in the results.
    """
    scheme, ending = query.partition("://")[0], Path(shown(query)).suffix.lower()
    if ending in LISTS:
        yield from listed(read(query).decode("utf-8", "replace").splitlines(), shown(query))
    elif scheme in WEB:
        yield name_of(query), query, {}
    elif ending in IMAGE_TYPES and not re.search(r"[*?\[]", query):
        yield name_of(query).rpartition("/")[2], query, {}
    else:
        yield from _in_store(query)


def _in_store(query: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if re.search(r"[*?\[]", query):
        globbed = _tried(query, lambda fs, path: fs.glob(path, detail=True))
        found: Iterable[tuple[str, dict[str, Any]]] = (
            (f"{query.partition('://')[0]}://{path.lstrip('/')}", about) for path, about in globbed.items()
        )
        root = re.split(r"[*?\[]", query, maxsplit=1)[0].rpartition("/")[0]
    else:
        found, root = below(query), query.rstrip("/")
    for place, about in found:
        file = safe(place.removeprefix(root))
        if about.get("type") != "directory" and Path(file).suffix.lower() in IMAGE_TYPES and not _is_hidden(file):
            yield file, place, {"version": _version(about)}


def listed(lines: Iterable[str], where: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The same of the lines of a list, the file ``where``; of a photo of this machine the path, from the list's folder or else
    from the one that the command is run in. Raises UsageError for a line that is neither."""
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            fields = json.loads(line) if line.startswith("{") else {"url": line}
            file = fields.get("file")
            place = address(fields["url"]) or _on_this_machine(str(fields["url"]), where)
        except (ValueError, KeyError, TypeError):
            place = None
        if place is None:
            begins = shown(line) if "://" in line else line.partition("?")[0]
            raise UsageError(
                f"{where}: line {number} is no address and no photo: {begins[:100]}; "
                'write one a line, or {"url": ..., "file": ...}'
            )
        below = place.removeprefix(f"{Path(where).parent}/") if address(place) is None else name_of(place)
        yield safe(str(file or below)), place, {}


def _on_this_machine(line: str, where: str) -> str | None:
    """The path of a photo that a list names; None for what is no file nor ends as one, and in a list that lies elsewhere."""
    if "://" in line or address(where):
        return None
    folder = Path(where).parent
    path = next((path for path in (folder / line, Path(line)) if path.is_file()), folder / line)
    return str(path) if path.is_file() or path.suffix.lower() in IMAGE_TYPES else None


def name_of(place: str) -> str:
    """What a photo at an address is called in results: host and path."""
    return safe(unquote(shown(place).partition("://")[2]))


def safe(file: str) -> str:
    """A name that leads to no other folder, of characters that a path may have."""
    parts = re.sub(r'[\x00-\x1f\x7f\\:*?"<>|]', "_", file).split("/")
    return "/".join(part for part in parts if part.strip(". ")) or "photo"


def _is_hidden(file: str) -> bool:
    return any(part.startswith(".") for part in file.split("/"))


def _version(about: dict[str, Any]) -> str:
    """What tells one content from another, as far as a listing says it."""
    keys = ("size", "ETag", "etag", "md5Hash", "LastModified", "updated", "created")
    return " ".join(str(about[key]) for key in keys if about.get(key) is not None)


class _Limit:
    """Stops a file that is too large, or comes too slowly; fsspec calls it a callback."""

    def __new__(cls, place: str) -> Any:
        from fsspec.callbacks import Callback

        start = time.monotonic()

        class Limit(Callback):
            def call(self, *args: Any, **kwargs: Any) -> None:
                if max(self.size or 0, self.value) > MOST:
                    raise InputError(f"{shown(place)}: larger than {MOST >> 20} MiB; give a smaller file")
                if time.monotonic() - start > SECONDS:
                    raise TimeoutError

        return Limit()


def _tried(place: str, work: Any) -> Any:
    """``work(file system, path)``, again where it may help."""
    for number in range(TRIES):
        fs, path = _opened(place)
        try:
            return work(fs, path)
        except InputError:
            raise
        except Exception as error:
            if number == TRIES - 1 or not _may_pass(error):
                _refuse(place, error)
            time.sleep(PAUSE * 2**number)
    return None


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", 500)
    known = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError) or "Credentials" in str(
        type(error)
    )
    return not known and (status in (408, 429) or not 400 <= status < 500)


def _refuse(place: str, error: Exception) -> NoReturn:
    """One line, in which nothing of the address beyond what is shown."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        what, mend = "no such file", "check the address"
    elif isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        what, mend = "not allowed", "check the credentials in the environment, or the signature of the address"
    elif isinstance(error, TimeoutError):
        what, mend = f"no answer within {SECONDS:.0f} s", "try again"
    else:
        said = re.sub(r"\S*(://|@|\?)\S*", "...", first_line(error))
        what, mend = f"no content ({type(error).__name__}: {status or said})", "check the address, or try again"
    raise InputError(f"{shown(place)}: {what}; {mend}") from None


def _opened(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Raises UsageError where a library is missing."""
    scheme = place.partition("://")[0]
    fs = _file_system(scheme)
    return fs, place if scheme in WEB else fs._strip_protocol(place)


@cache
def _file_system(scheme: str) -> Any:
    try:
        import fsspec

        for library in ("fsspec", "aiobotocore", *DRIVERS.values()):  # their log would show whole addresses
            logging.getLogger(library).setLevel(logging.CRITICAL + 1)
        return fsspec.filesystem(scheme, **_limits(scheme))
    except ImportError:
        driver = DRIVERS.get(scheme)
        needed = "pip install 'shotseg[remote]'" + (f" {driver}" if driver else "")
        raise UsageError(f"{scheme}:// needs another library: {needed}") from None


def _limits(scheme: str) -> dict[str, Any]:
    """Options of a file system: how long it waits, and no listing kept in memory."""
    if scheme in WEB:
        import aiohttp

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=SECONDS, connect=20)}}
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": 20, "read_timeout": 60}, "use_listings_cache": False}
    return {"use_listings_cache": False}
