"""What is kept in memory while episodes are counted: photos, features and supports, up to a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


class Cache:
    """Values by key up to ``limit`` bytes, the longest unused dropped first; two threads never make the same value."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._values: OrderedDict[Any, Future] = OrderedDict()
        self._sizes: dict[Any, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    del self._values[key]
                future.set_exception(error)
            else:
                self._keep(key, _bytes(future.result()))
        return future.result()

    def _keep(self, key: Any, size: int) -> None:
        with self._lock:
            self._sizes[key] = size
            self.bytes += size
            while self.bytes > self.limit:
                old = next(k for k in self._values if k in self._sizes)  # one without a size is still being made
                del self._values[old]
                self.bytes -= self._sizes.pop(old)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(_bytes(getattr(value, f.name)) for f in fields(value)) if is_dataclass(value) else 0
