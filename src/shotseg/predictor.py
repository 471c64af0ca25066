"""What folder jobs, reports and the command line ask of a predictor, stated once."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np

from shotseg.data.windows import Windows
from shotseg.errors import InputError, UsageError
from shotseg.photo import Photo, are_many, is_one, open_photo
from shotseg.result import Result

if TYPE_CHECKING:
    import torch

In = TypeVar("In")
Out = TypeVar("Out")
Method = TypeVar("Method", bound=Callable[..., Any])

READERS = 4  # threads that read photos of a stream


def in_turns(method: Callable[..., Any]) -> Callable[..., Any]:
    """Threads take turns in what is marked so: a class is added between two predictions, never within one."""

    @functools.wraps(method)
    def held(self: Predictor, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return held


def streams(predict: Method) -> Method:
    """A ``predict`` that takes a generator, a data set or another source of photos too: see :meth:`Predictor.predict_stream`.

    What else it is told is of one photo: beside a source of photos it is a UsageError.
    """

    @functools.wraps(predict)
    def either(self: Predictor, photo: Any, *args: Any, **options: Any) -> Any:
        if not are_many(photo):
            return predict(self, photo, *args, **options)
        if any(value is not None for value in (*args, *options.values())):
            told = ", ".join(options) or "what else is told"
            raise UsageError(f"{told}: of one photo, but this is a source of photos; predict each photo by itself")
        return self.predict_stream(photo)

    return either  # type: ignore[return-value]


def ahead(pool: Executor, function: Callable[[In], Out], items: Iterable[In], depth: int) -> Iterator[Out]:
    """``map`` with at most ``depth`` items under way or waiting to be taken."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Predictor(ABC):
    """Photos in, a :class:`Result` for each.

    device: "auto" (CUDA, else MPS, else CPU) or any torch device; afterwards the torch device it works on.
    """

    def __init__(self, device: str | torch.device = "auto"):
        from shotseg.device import pick_device

        self.device, self._lock = pick_device(device), threading.RLock()
        self.on_windows: Callable[[int, int], None] = lambda done, total: None  # is told of images seen in windows

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of all classes, in order: what the values 1, 2, ... of label maps mean."""

    @property
    def thumbnails(self) -> Mapping[str, list[np.ndarray]]:
        """Class name -> pictures (h, w, 3) uint8 of its examples, for reports; a class without any may be missing."""
        return {}

    @property
    def sees(self) -> int | None:
        """Pixels of a photo's longer side from which on more would change no mask; None: every pixel counts."""
        return None

    def windows(self, path: str, bands: Sequence[int] | None = None, page: int = 1, data: Any = None) -> Windows | None:
        """A file that this predictor sees in windows, as a photo to predict; None for one that it sees as a whole.

        data: the content (bytes), of a file that lies elsewhere.
        """
        return None

    def twin(self) -> Self | None:
        """Another over the same weights and classes, for a thread of its own, since a forward pass may keep state in its
        modules; None where there is no such thing."""
        return None

    def __deepcopy__(self, memo: dict) -> Self:
        """A :meth:`twin`, whose classes come and go without those of this one. Raises UsageError where there is none."""
        if (twin := self.twin()) is None:
            raise UsageError(f"a {type(self).__name__} is not copied: make another, or save it and load the file")
        return twin

    __copy__ = functools.partialmethod(__deepcopy__, {})  # a shallow copy would share what the lock guards

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raises UsageError: what goes to another process goes as the file of :meth:`save`."""
        raise UsageError(
            f"a {type(self).__name__} is not pickled: save it, and load the file in each process; a thread takes a twin()"
        )

    def predict(self, photo: Photo) -> Result:
        """Segment one photo. Raises InputError for one that cannot be read."""
        return self.predict_batch([photo])[0]

    @abstractmethod
    def predict_batch(self, photos: Iterable[Photo]) -> Sequence[Result]:
        """A result for each photo, in their order."""

    @overload
    def predict_stream(
        self, photos: Iterable[Photo], look_ahead: int = ..., errors: Literal["raise"] = ...
    ) -> Iterator[Result]: ...

    @overload
    def predict_stream(
        self, photos: Iterable[Photo], look_ahead: int = ..., *, errors: Literal["keep"]
    ) -> Iterator[Result | InputError]: ...

    def predict_stream(
        self, photos: Iterable[Photo], look_ahead: int = 4, errors: str = "raise"
    ) -> Iterator[Result | InputError]:
        """Results one after the other, in the order of the photos, of which any number may come.

        look_ahead: photos that are taken from ``photos`` and read before they are asked for; so many are in memory at once.
        errors: "raise" ends the stream at a photo that cannot be used, with its InputError; "keep" yields the error in the place
                of the result, and goes on.
        """
        if is_one(photos):
            raise UsageError("one photo: give it to predict, or a source of photos to predict_stream")
        if not isinstance(photos, Iterable):
            raise UsageError(
                f"photos: of type {type(photos).__name__}; give a source of photos, as a list or generator"
            )
        if not isinstance(look_ahead, Integral) or look_ahead < 1 or errors not in ("raise", "keep"):
            raise UsageError(f'look_ahead {look_ahead}, errors {errors!r}: give 1 or more, and "raise" or "keep"')
        return self._streamed(photos, int(look_ahead), errors == "keep")

    def _streamed(self, photos: Iterable[Photo], look_ahead: int, keep: bool) -> Iterator[Result | InputError]:
        with ThreadPoolExecutor(min(look_ahead, READERS)) as pool:
            for number, photo in enumerate(ahead(pool, self._read, photos, look_ahead), start=1):
                try:
                    if isinstance(photo, InputError):
                        raise photo
                    result: Result | InputError = self.predict_batch([photo])[0]
                except InputError as error:
                    result = InputError(f"number {number} of the stream, {error}")
                    if not keep:
                        raise result from error
                yield result

    def _read(self, photo: Photo) -> Photo | InputError:
        """A photo as it is read before its turn, or why it cannot be."""
        try:
            return self._opened(photo)
        except InputError as error:
            return error

    def _opened(self, photo: Photo) -> Photo:
        return photo if self.sees is None else open_photo(photo, self.sees)

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Keep in one file what :meth:`load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "auto") -> Self:
        """The predictor that :meth:`save` kept. Raises InputError for another file."""
