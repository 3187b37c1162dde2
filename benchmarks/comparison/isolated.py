"""Functions run in a fresh process: with variables of their own, or for their peak memory."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock


def isolated(function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """Return what a function of a module returns in a new process, which has the given variables in addition."""
    with (
        mock.patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process rises, at most, during a call. Linux only.

    The mark is reset first. (getrusage's ru_maxrss has none to reset, and begins with that of the parent process.)
    """
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found[name].split()[0]) * 1024
