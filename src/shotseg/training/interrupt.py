"""Ctrl-C in a training: the step under way is ended first, so that what is saved can be gone on with."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self


class Interrupt:
    """Inside, the first Ctrl-C only sets ``asked``; a second one stops at once.

    wanted: False leaves Ctrl-C as it is; so does another thread than the main one, which gets no signals.
    """

    def __init__(self, wanted: bool = True):
        self.asked = False
        self.wanted = wanted and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        usual = signal.getsignal(signal.SIGINT)
        self.wanted = self.wanted and usual not in (signal.SIG_IGN, None)  # a background job of a shell ignores it
        if self.wanted:
            self.usual: Any = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            signal.signal(signal.SIGINT, self.usual)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("ending this step and saving; Ctrl-C again stops at once", file=sys.stderr)


def ignore(worker: int) -> None:
    """In a process that reads photos: the training ends it, and not the terminal's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
