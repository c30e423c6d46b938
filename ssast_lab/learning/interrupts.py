"""Signals that end a run, kept until its step is done, and the end of whoever started it, which is one of them."""

import os
import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """A context in which Ctrl-C, SIGTERM and the closing of the terminal (SIGHUP, unless it is ignored, as under nohup) only
    make this object true, so that no step is cut in half; a second Ctrl-C interrupts at once. Does nothing in any thread but the main one, which alone receives signals."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.requested

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if number in self._before or signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def end_with_input() -> None:
    """Lets this process get a SIGTERM as soon as its standard input ends, as a pipe does when the process that holds its other end is
    gone, even if that was killed."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
