"""The routes that Label Studio asks of a machine learning backend (extra ``web``)."""

from __future__ import annotations

import base64
import binascii
import logging
import secrets
from typing import Annotated, Any

from shotseg.errors import InputError, UsageError
from shotseg.integrations.label_studio import Backend

try:
    from fastapi import BackgroundTasks, Body, Depends, FastAPI, Header, HTTPException
except ImportError as error:
    raise UsageError("the backend needs a web server; install it with: pip install 'shotseg[web]'") from error

log = logging.getLogger("shotseg")
Content = Annotated[dict[str, Any], Body()]
UP = {"status": "UP", "model_class": "shotseg"}


def app_of(backend: Backend, user: str | None = None, password: str | None = None) -> FastAPI:
    """The application. With ``user`` every route but that of health asks for Basic authorization."""

    def allowed(authorization: Annotated[str, Header()] = "") -> None:
        if user is None:
            return
        try:
            given = base64.b64decode(authorization.removeprefix("Basic "), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        if not secrets.compare_digest(given, f"{user}:{password or ''}".encode()):
            raise HTTPException(401, "user and password, please", {"WWW-Authenticate": "Basic"})

    app = FastAPI(title="shotseg", docs_url=None, redoc_url=None, openapi_url=None)
    guarded = [Depends(allowed)]

    @app.get("/")
    @app.get("/health")
    def health() -> dict:
        return UP

    @app.post("/setup", dependencies=guarded)
    def setup(content: Content) -> dict:
        return {"model_version": backend.version}

    @app.get("/versions", dependencies=guarded)
    def versions() -> dict:
        return {"versions": [backend.version]}

    @app.post("/predict", dependencies=guarded)
    def predict(content: Content) -> dict:
        tasks = content.get("tasks")
        if not isinstance(tasks, list):
            raise HTTPException(422, "tasks: give a list")
        context = (content.get("params") or {}).get("context")
        try:
            results = backend.predict(tasks, str(content.get("label_config") or ""), context)
        except InputError as error:
            raise HTTPException(422, str(error)) from None
        return {"results": results, "model_version": backend.version}

    @app.post("/webhook", status_code=201, dependencies=guarded)
    def webhook(content: Content, later: BackgroundTasks) -> dict:
        later.add_task(_learn, backend, content)  # Label Studio waits one second
        return {}

    @app.post("/train", dependencies=guarded)
    @app.post("/validate", dependencies=guarded)
    @app.post("/duplicate_model", dependencies=guarded)
    @app.post("/delete", dependencies=guarded)
    @app.post("/job_status", dependencies=guarded)
    def nothing_to_do() -> dict:
        return {}

    return app


def _learn(backend: Backend, event: dict) -> None:
    try:
        if kept := backend.learn(event):
            log.info("%d examples kept; %s", kept, backend.version)
    except Exception as error:  # whatever came in, the server goes on
        log.warning("%s: nothing was learnt (%s)", event.get("action"), error)
