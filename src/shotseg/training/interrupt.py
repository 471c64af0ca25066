"""Ctrl-C in a training: answered where nothing is half done, so that the run can be kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the person's, and the cluster's


class Interrupt:
    """``asked`` becomes True at the first signal; a second one acts at once, as it does without this."""

    asked = False


@contextmanager
def postponed() -> Iterator[Interrupt]:
    """Inside, Ctrl-C only asks. In a thread other than the main one, which gets no signals, nothing changes."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    # a shell starts its background jobs with Ctrl-C ignored, and so it stays
    before = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        os.write(2, b"interrupted: the run is kept after this step; once more stops at once\n")  # safe at any moment
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield interrupt
    finally:
        restore()
