"""``shotseg backend``: pre-labels in Label Studio."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from shotseg.cli.console import say
from shotseg.cli.parsing import must_exist
from shotseg.errors import UsageError

HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Backend:
    """Serve Label Studio as its machine learning backend: masks for its tasks, from examples.

    Finished annotations become examples, which the next predictions use. The token to read photos is taken from
    LABEL_STUDIO_API_KEY, the password from SHOTSEG_PASSWORD, so that they stand in no list of processes.

    example: shotseg backend --support examples --label-studio http://localhost:8080
    """

    support: Path | None = None
    """Examples to begin with, as of segment; none: the first finished annotation is the first example."""
    examples: Path = Path("label-studio-examples")
    """Folder for what people finish; segment --support takes it too."""
    label_studio: str | None = None
    """Address of Label Studio, from which alone photos are fetched; default LABEL_STUDIO_URL."""
    photos: Path | None = None
    """Folder of the photos of local storage, read here instead."""
    host: str = "127.0.0.1"
    """Address to listen on; another one than this machine's own needs --user."""
    port: int = 9090
    """Port to listen on."""
    user: str | None = None
    """Ask for this user and SHOTSEG_PASSWORD (Basic authorization)."""
    present: float = 0.5
    """Operating point: the probability of being in the photo from which a class takes part."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def run(self) -> int:
        password = os.environ.get("SHOTSEG_PASSWORD")
        if self.user is not None and not password:
            raise UsageError("--user: needs a password; put it into SHOTSEG_PASSWORD")
        if self.host not in HERE and self.user is None:
            raise UsageError(f"--host {self.host}: others can reach it; give --user and SHOTSEG_PASSWORD")
        if not 0 < self.port < 65536:
            raise UsageError(f"--port {self.port}: must be from 1 to 65535")
        if not 0 <= self.present <= 1:
            raise UsageError(f"--present {self.present}: give a probability from 0 to 1")
        must_exist(support=self.support, photos=self.photos)
        from shotseg.integrations.backend_app import app_of
        from shotseg.integrations.label_studio import Backend as Project
        from shotseg.integrations.supports import segmenter_of
        from shotseg.integrations.task_photos import TaskPhotos
        from shotseg.segmenter import Segmenter

        logging.basicConfig(format="shotseg: %(message)s", level=logging.INFO)
        server = self.label_studio or os.environ.get("LABEL_STUDIO_URL")
        photos = TaskPhotos(server, os.environ.get("LABEL_STUDIO_API_KEY"), self.photos)
        if self.support is None:
            segmenter = Segmenter(device=self.device, present=self.present)
        else:
            segmenter = segmenter_of(self.support, self.device, self.present)
        project = Project(segmenter, photos, self.examples)
        import uvicorn

        say(f"http://{self.host}:{self.port} is the address to connect in Label Studio; {project.version}")
        uvicorn.run(app_of(project, self.user, password), host=self.host, port=self.port, log_level="warning")
        return 0
