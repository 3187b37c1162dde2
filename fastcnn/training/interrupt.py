"""Ctrl-C that waits for the update under way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred_interrupt(notify: Callable[[], None]) -> Iterator[None]:
    """Within this context a first Ctrl-C only calls `notify`; a second one does what it did before.

    Python lets the main thread alone handle signals: elsewhere, and where SIGINT is ignored (as under ``nohup``),
    nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        notify()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
