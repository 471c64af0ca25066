"""Where a run writes: a folder of this machine, or one in a store.

Of a run in a store the state (journal, tables, report) lies in a folder of this machine while it goes, and is sent there; the
pictures of each photo pass through one of their own. A store holds no file that grows, so a journal is sent in parts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from shotseg.data import images as files
from shotseg.data import remote
from shotseg.report import STATE
from shotseg.runs.output import files_below, is_picture_of, picture_folders, remove_pictures
from shotseg.runs.scratch import Names

JOURNALS = f"{STATE}/journals"  # of a store: a folder of parts for each journal
START = "-start"  # of a part with which a journal begins anew


class Folder:
    """A folder of this machine, which holds the state of the run too."""

    sync_seconds = 5.0  # of work that a power cut may take with it

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def text(self) -> str:
        """What :func:`place_at` makes this of in another process."""
        return str(self.folder.resolve())

    @contextmanager
    def room(self) -> Iterator[Path]:
        """A folder for the pictures of one photo, which are where they belong when it is left."""
        yield self.folder

    def has(self, pictures: Iterable[str]) -> bool:
        """Whether they are there; a power cut may leave files without content."""
        try:
            return all((self.folder / picture).stat().st_size > 0 for picture in pictures)
        except OSError:
            return False

    def remove_pictures(self, names: Names, classes: Iterable[str]) -> None:
        """Remove what was written of the photos ``names``."""
        remove_pictures(self.folder, names, classes)

    def fetch(self, tags: Iterable[str] = ()) -> None:
        """Have the journals here, and the results of the shards ``tags``."""

    def want(self, pictures: Iterable[str]) -> None:
        """Have pictures here."""

    def began(self, tag: str) -> None:
        """Told when the journal of a shard was written anew."""

    def grew(self, tag: str) -> None:
        """Told when it has more lines."""

    def finish(self) -> None:
        """Told when tables and pages are written."""

    def at(self, file: str) -> Path | str:
        """Where a file of the run is then."""
        return self.folder / file


class Store(Folder):
    """A folder at an address."""

    sync_seconds = 30.0

    def __init__(self, address: str):
        super().__init__(Path())  # until it is entered
        self._address = address.rstrip("/")
        self._sent: dict[str, int] = {}  # tag -> bytes of the journal
        self._parts: dict[str, int] = {}  # tag -> number of the newest part
        self._fetched: set[str] = set()  # tags

    def __str__(self) -> str:
        return remote.shown(self._address)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="shotseg-"))
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def text(self) -> str:
        return self._address

    @contextmanager
    def room(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="shotseg-") as name:
            yield Path(name)
            for file in files_below(Path(name)):
                remote.send(file, f"{self._address}/{file.relative_to(name).as_posix()}")

    def has(self, pictures: Iterable[str]) -> bool:
        """The journal is believed: it is sent after the pictures, and asking for each would take longer than making it."""
        return True

    def remove_pictures(self, names: Names, classes: Iterable[str]) -> None:
        for folder in picture_folders(classes):
            for file in self._below(folder):
                if is_picture_of(file, folder, names):
                    self._remove(file)

    def fetch(self, tags: Iterable[str] = ()) -> None:
        parts: dict[str, list[str]] = {}
        for file in sorted(self._below(JOURNALS)):
            journal = file.split("/")[2]
            if journal.startswith("journal"):
                parts.setdefault(journal.removeprefix("journal"), []).append(file)
        for tag, sent in parts.items():
            self._parts[tag] = max(self._parts.get(tag, 0), int(Path(sent[-1]).stem.removesuffix(START)))
            if tag not in self._sent:  # else it is ours
                self._fetched.add(tag)
                self._join(sent, f"{STATE}/journal{tag}.jsonl")
                self._fetch(f"{STATE}/names{tag}.jsonl")
        for tag in tags:
            if tag not in self._sent:
                self._fetch(f"results{tag}.jsonl")

    def _join(self, parts: list[str], journal: str) -> None:
        first = max((i for i, part in enumerate(parts) if Path(part).stem.endswith(START)), default=0)
        (self.folder / journal).parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / journal).open("wb") as whole:
            for part in parts[first:]:
                self._fetch(part)
                with (self.folder / part).open("rb") as content:
                    shutil.copyfileobj(content, whole)
                (self.folder / part).unlink()

    def want(self, pictures: Iterable[str]) -> None:
        for picture in pictures:
            self._fetch(picture)

    def began(self, tag: str) -> None:
        old = list(self._below(f"{JOURNALS}/journal{tag}"))
        for kind in {"", tag}:
            self._remove_tables(kind)
        self._send(f"{STATE}/names{tag}.jsonl")
        self._sent[tag] = 0
        self._send_part(tag, START)
        for part in old:
            self._remove(part)

    def grew(self, tag: str) -> None:
        self._send_part(tag, "")

    def _send_part(self, tag: str, kind: str) -> None:
        """Send what is new in a journal."""
        journal = self.folder / STATE / f"journal{tag}.jsonl"
        part = journal.with_suffix(".part")
        with journal.open("rb") as whole, part.open("wb") as tail:
            whole.seek(self._sent[tag])
            shutil.copyfileobj(whole, tail)
            size = whole.tell()
        if size > self._sent[tag]:
            self._parts[tag] = self._parts.get(tag, 0) + 1
            remote.send(part, f"{self._address}/{JOURNALS}/journal{tag}/{self._parts[tag]:06d}{kind}.jsonl")
            self._sent[tag] = size
        part.unlink()

    def at(self, file: str) -> str:
        return f"{self}/{file}"

    def finish(self) -> None:
        for path in self.folder.glob("*.*"):
            self._send(path.name)
        for folder in (self.folder / STATE).glob("pages*"):
            for page in files_below(folder):
                self._send(page.relative_to(self.folder).as_posix())
        for tag in self._sent:  # after the tables, which others look for once the journal has its end
            self.grew(tag)
        for tag in {*self._fetched, *self._sent}:
            if not (self.folder / STATE / f"journal{tag}.jsonl").exists():
                self._remove_tables(tag)
                for part in (*self._below(f"{JOURNALS}/journal{tag}"), f"{STATE}/names{tag}.jsonl"):
                    self._remove(part)

    def _remove_tables(self, tag: str) -> None:
        for file in (
            f"results{tag}.jsonl",
            f"errors{tag}.csv",
            f"report{tag}.html",
            *self._below(f"{STATE}/pages{tag}"),
        ):
            self._remove(file)

    def _below(self, folder: str) -> Iterator[str]:
        """The files below a folder, from the root of the store's folder."""
        return (place.removeprefix(f"{self._address}/") for place, _ in remote.below(f"{self._address}/{folder}"))

    def _send(self, file: str) -> None:
        remote.send(self.folder / file, f"{self._address}/{file}")

    def _fetch(self, file: str) -> None:
        remote.fetch(f"{self._address}/{file}", self.folder / file)

    def _remove(self, file: str) -> None:
        remote.remove(f"{self._address}/{file}")


def place_at(out: str | Path) -> Folder:
    """The place that a path or an address means."""
    address = remote.address(out)
    return Folder(Path(out)) if address is None else Store(address)


def put(out: str | Path, name: str, data: bytes) -> None:
    """Write a file into the place that a path or an address means."""
    address = remote.address(out)
    if address is None:
        files.write_bytes(Path(out, name), data)
    else:
        remote.put(data, f"{address}/{name}")
