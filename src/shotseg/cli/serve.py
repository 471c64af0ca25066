"""``shotseg serve``: the page on which masks are drawn, predicted, corrected and exported."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from shotseg.cli.choices import Runtime
from shotseg.cli.console import progress, say
from shotseg.data.reading import check_source
from shotseg.errors import ShotsegError, UsageError
from shotseg.heap import one_heap

if TYPE_CHECKING:
    from shotseg.segmenter import Segmenter
    from shotseg.web.project import Project

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Serve:
    """Draw a class on one photo, see it in all, correct the doubtful ones, and export the masks: a page in the browser.

    PROJECT is a folder: examples/ and results/ as `shotseg segment` reads and writes them, and a journal of all that was
    drawn. Photos stay where they are. Nothing leaves the machine.

    example: shotseg serve my-project --photos photos
    """

    project: tyro.conf.Positional[Path] = Path("shotseg-project")
    """Folder of the project; made where it is absent."""
    photos: Path | None = None
    """Folder of the photos; the project remembers it. More can be dropped on the page."""
    masks: Path | None = None
    """Masks that there are already, for photos that nobody has decided on: a file or folder that `segment --support` reads,
    whose masks are accepted, or the folder that `segment` wrote, whose masks are to be reviewed."""
    source: Annotated[str, arg(name="from")] = "auto"
    """How they are stored, where two formats fit; see `shotseg convert --help`."""
    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own needs --token."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    token: bool = False
    """Only who has the printed address may use the page."""
    no_browser: bool = False
    """Print the address, open nothing."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" needs no download."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    size: int | None = None
    """Longer side, in pixels, at which the method works."""
    runtime: Runtime = "auto"
    """What computes the encoder on a CPU: onnxruntime (extra: onnx) where it is installed, else torch. onnxruntime-int8 is twice
    as fast and not exact."""

    def run(self) -> int:
        if self.host not in LOOPBACK and not self.token:
            raise UsageError(f"--host {self.host}: others can reach the page there; add --token, or leave --host out")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: give a number from 0 to 65535")
        if self.photos is not None and not self.photos.is_dir():
            raise UsageError(f"--photos {self.photos}: no such folder; give the folder of the photos")
        check_source(self.source)
        if self.masks is None and self.source != "auto":
            raise UsageError("--from changes nothing without --masks; leave it out")
        if self.masks is not None and not self.masks.exists():
            raise UsageError(f"--masks {self.masks}: no such file or folder; check the path")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: must be 1 or more")
        try:
            import uvicorn

            from shotseg.web.app import make_app
        except ImportError as error:
            raise UsageError(f"the page needs {error.name}; pip install 'shotseg[web]'") from None
        from shotseg.data.writable import check_out
        from shotseg.web.project import Project

        if not self.project.exists():
            check_out(self.project, folder=True, flag="PROJECT")
        listening = self._listening()
        port = listening.getsockname()[1]
        project = Project(self.project, self.photos)
        if self.masks is not None:
            self._take_masks(project, self.masks)
        token = secrets.token_urlsafe(24) if self.token else None
        failed: list[ShotsegError] = []

        def load() -> Segmenter:
            try:
                return self._segmenter()
            except ShotsegError as error:
                failed.append(error)
                server.should_exit = True
                app.leave()
                raise

        app = make_app(project, load, self._hosts(port), token)
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"http://{host}:{port}/" + (f"#token={token}" if token else "")
        print(address, flush=True)
        say("press Ctrl+C to stop; all that was drawn is kept")
        if not self.no_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=2, server_header=False, proxy_headers=False
        )
        server = uvicorn.Server(config)
        stop = server.handle_exit

        def leave(signal: int, frame: Any) -> None:
            app.leave()  # pages listen without end
            stop(signal, frame)

        server.handle_exit = leave  # type: ignore[assignment, method-assign]
        with one_heap():
            server.run(sockets=[listening])
        if failed:
            raise failed[0]
        return 0

    def _take_masks(self, project: Project, masks: Path) -> None:
        from shotseg.web.imports import take

        with progress("masks", len(project.said.photos)) as advance:
            said = take(project, masks, self.source, advance)
        say(said)

    def _hosts(self, port: int) -> frozenset[str] | None:
        if self.host not in LOOPBACK:
            return None  # it has names that only its users know; the token stands before it
        names = ("127.0.0.1", "localhost", "[::1]")
        return frozenset(f"{name}:{port}" for name in names) | frozenset(names if port == 80 else ())

    def _segmenter(self) -> Segmenter:
        from shotseg.segmenter import Segmenter

        options: dict[str, Any] = {} if self.size is None else {"size": self.size}
        return Segmenter(self.method, self.encoder, self.device, runtime=self.runtime, **options)

    def _listening(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # Without its protocol asyncio lets an answer in two parts wait 40 ms for the other side's word on the first.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self.host, self.port))
            listening.listen()
        except OSError as error:
            raise UsageError(
                f"--host {self.host} --port {self.port}: {error.strerror or error}; choose another --port"
            ) from None
        return listening
