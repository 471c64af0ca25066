"""The page's OpenAPI, asked at random by schemathesis: no fault of the server's own, every answer as it is described."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: make test-page installs it")
pytest.importorskip("fastapi", reason="needs the extra web")

import httpx  # noqa: E402
import uvicorn  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from schemathesis import checks  # noqa: E402
from schemathesis.specs.openapi import checks as conformance  # noqa: E402

from page_project import project_of  # noqa: E402
from shotseg.web.app import make_app  # noqa: E402

CHECKS = [
    checks.not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_schema_conformance,
]
BOUND: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
ENDLESS = "/api/v1/events"


@contextmanager
def serving(folder: Path, segmenter: Any) -> Iterator[str]:
    """The address of the page of a project of three photos and one class."""
    for name in segmenter.classes:
        segmenter.remove(name)
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = make_app(project_of(folder, 3), lambda: segmenter, None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    running = threading.Thread(target=server.run, args=([listening],))
    running.start()
    httpx.post(f"{address}/api/v1/classes", json={"name": "red"}).raise_for_status()
    yield address
    server.should_exit = True
    running.join()


@pytest.fixture
def schema(tmp_path: Path, segmenter: Any) -> Iterator[Any]:
    with serving(tmp_path / "first", segmenter) as address:
        yield schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json").exclude(path=ENDLESS)


def test_every_operation_answers_as_described(schema: Any) -> None:
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(operation.as_strategy())
        @settings(max_examples=6, **BOUND)
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        ask()
        asked += 1
    assert asked > 15


def test_operations_in_sequence_answer_as_described(schema: Any, tmp_path: Path, segmenter: Any) -> None:
    places = (tmp_path / f"sequence {number}" for number in count())

    class Sequence(schema.as_state_machine()):
        """Each sequence has a server of its own: what one finds depends on no other."""

        def setup(self) -> None:
            super().setup()
            self.server = serving(next(places), segmenter)
            self.address = self.server.__enter__()

        def teardown(self) -> None:
            self.server.__exit__(None, None, None)
            super().teardown()

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {**super().get_call_kwargs(case), "base_url": self.address}

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            case.validate_response(response, checks=CHECKS)

    Sequence.run(settings=settings(max_examples=15, stateful_step_count=8, **BOUND))
