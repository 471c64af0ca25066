"""The server of the page: its parts put together."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from shotseg.errors import InputError, InputWarning, ShotsegError, UsageError
from shotseg.web.album import Unknown, shown
from shotseg.web.engine import Engine
from shotseg.web.events import Events
from shotseg.web.gallery import Gallery
from shotseg.web.guard import Guard
from shotseg.web.kept import Kept
from shotseg.web.project import Outdated, Project
from shotseg.web.routes import Parts, router
from shotseg.web.uploads import BYTES

if TYPE_CHECKING:  # slow to load
    from shotseg.segmenter import Segmenter

STATIC = Path(__file__).parent / "static"


def make_app(
    project: Project, load: Callable[[], Segmenter], hosts: frozenset[str] | None, token: str | None = None
) -> Any:
    """The ASGI application.

    load: makes the segmenter, while the page is there already.
    hosts: names with port under which the page may be asked for; None: any, with a token.
    """
    events = Events()
    kept = Kept(project.folder / "encoded")
    engine = Engine(project, load, kept, events.tell)

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        before = warnings.showwarning
        warnings.showwarning = _to_page(before, events)
        engine.start()
        try:
            yield
        finally:
            events.close()
            engine.stop()
            project.close()
            warnings.showwarning = before

    app = FastAPI(
        title="shotseg",
        version="1",
        lifespan=alive,
        docs_url=None,  # it would load its scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.parts = Parts(project, engine, Gallery(kept.path), events, token)
    app.include_router(router)
    app.add_exception_handler(ShotsegError, _said)
    app.add_exception_handler(OSError, _said)
    app.add_exception_handler(MemoryError, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    return Guard(app, hosts, token, BYTES, leave=events.close)


def _said(request: Request, error: Exception) -> JSONResponse:
    """One line, and the status that says whose turn it is."""
    codes = {Outdated: 409, Unknown: 404, UsageError: 422, InputError: 503, MemoryError: 503, OSError: 503}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), 422)
    text = str(error) if isinstance(error, ShotsegError) else f"cannot be done now ({error}); nothing was changed"
    return JSONResponse({"detail": " ".join(shown(text).split())}, code)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ()))
    return JSONResponse({"detail": shown(f"{place}: {first.get('msg', 'cannot be read')}"[:300])}, 422)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": str(error.detail)}, error.status_code, headers=error.headers)


def _to_page(said: Any, events: Events) -> Any:
    """Notes are said on the page as well as where they were."""

    def say(message: Any, category: Any, *rest: Any, **more: Any) -> None:
        if isinstance(message, InputWarning):
            events.tell("note", {"text": shown(str(message))})
        said(message, category, *rest, **more)

    return say
