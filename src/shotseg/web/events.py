"""What changes, told to every page that listens (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

WAITING = 2000  # events that a slow page may be behind; after that it is told to load the project anew
PAUSE = 15.0  # seconds after which a page hears that the server is there


class Events:
    """``tell`` from any thread; ``listen`` in the server's loop."""

    def __init__(self) -> None:
        self._listening: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[str | None]]] = set()
        self._lock, self._closed = threading.Lock(), False

    def tell(self, kind: str, content: dict[str, Any]) -> None:
        text = message(kind, content)
        with self._lock:
            listening = list(self._listening)
        for loop, queue in listening:
            try:
                loop.call_soon_threadsafe(_put, queue, text)
            except RuntimeError:  # the loop has ended
                continue

    def close(self) -> None:
        self._closed = True
        with self._lock:
            for loop, queue in self._listening:
                try:
                    loop.call_soon_threadsafe(queue.put_nowait, None)
                except RuntimeError:
                    continue

    async def listen(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        own = asyncio.get_running_loop(), queue
        with self._lock:
            self._listening.add(own)
        try:
            yield message("project", {})
            while not self._closed:
                try:
                    text = await asyncio.wait_for(queue.get(), PAUSE)
                except TimeoutError:
                    text = ": here\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listening.discard(own)


def message(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"


def _put(queue: asyncio.Queue[str | None], text: str) -> None:
    if queue.qsize() < WAITING:
        queue.put_nowait(text)
    else:
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(message("project", {}))
