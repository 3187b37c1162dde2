"""A process that holds one side of a comparison: `Worker` in the parent, and the program that the process runs.

The process runs this file by its path, and the file imports the standard library alone. So a process can hold any build
of fastcnn, or another library, and nothing besides; no name of this package need exist in the build.

Requests and replies are pickles with their length before them, over the standard input and output of the process. What
is timed is made in the process by a target, the text ``"module:function"``: ``make`` keeps the callable that the
function returns, ``results`` returns what it computes, ``turn`` times it. While the process waits it reads from a pipe
and uses no processor. It ends when that pipe does, also in the middle of a call: no process outlives its parent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, BinaryIO

__all__ = ["Worker", "WorkerDied", "WorkerError", "Workers", "thread_variables"]

LENGTH = struct.Struct("<Q")
PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # of this fastcnn
# Seconds after which a request that is not answered counts as hung.
PATIENCE = 900.0


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment variables that hold a process's libraries to `count` threads.

    Examples
    --------
    >>> thread_variables(2)["OPENBLAS_NUM_THREADS"]
    '2'
    """
    libraries = ("FASTCNN", "OMP", "OPENBLAS", "MKL", "BLIS")
    return {f"{name}_NUM_THREADS": str(count) for name in libraries} | {"VECLIB_MAXIMUM_THREADS": str(count)}


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for."""


class WorkerDied(WorkerError):
    """A worker's process has ended."""


def _write(stream: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value, protocol=5)
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: BinaryIO) -> bytes:
    """Return the next pickle; EOFError where the other end is gone."""
    head = stream.read(LENGTH.size)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
    data = stream.read(length)
    if length == 0 or len(data) < length:  # it may die in the middle of a reply
        raise EOFError
    return data


# --- the parent's end -----------------------------------------------------------------------------------------------


class Worker:
    """A live process that makes, computes and times what it is asked for.

    Parameters
    ----------
    name : str
        What errors call it.
    path : sequence of str
        Folders that its imports look in first.
    python : str, optional
        The interpreter; this process's by default.
    environment : mapping of str to str, optional
        Variables that it has in addition.
    patience : float
        Seconds after which a request that is not answered kills the process.

    Examples
    --------
    >>> with Worker("a worker") as worker:
    ...     worker.call("math:hypot", 3.0, 4.0)
    5.0
    """

    def __init__(
        self,
        name: str,
        *,
        path: Sequence[str] = (),
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self._patience = patience
        variables = os.environ | dict(environment or {})
        folders = [*path, *variables.get("PYTHONPATH", "").split(os.pathsep)]
        variables["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        try:
            self._process = subprocess.Popen(
                # -P: neither the folder of this file nor the current one is searched for modules.
                [python or sys.executable, "-P", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=variables,
            )
        except BaseException:
            self._errors.close()
            raise

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def make(self, key: str, target: str, *arguments: Any, **options: Any) -> None:
        """Keep the callable that a target returns, under a key."""
        self._request("make", key, target, arguments, options)

    def call(self, target: str, *arguments: Any, **options: Any) -> Any:
        """Return what a target returns."""
        return self._request("call", target, arguments, options)

    def results(self, key: str, calls: int = 1) -> list[Any]:
        """Return what each of so many calls returned: arrays are copied before the next call, tensors become arrays."""
        return [pickle.loads(result) for result in self._request("results", key, calls)]

    def count(self, key: str, seconds: float) -> tuple[int, float]:
        """Warm up; return how many calls take about `seconds`, at least one, and the seconds of a call."""
        return self._request("count", key, seconds)

    def turn(self, key: str, calls: int, bursts: int) -> list[tuple[float, float]]:
        """Time bursts of calls, after one that is not timed: wall-clock and processor seconds of each burst."""
        return self._request("turn", key, calls, bursts)

    def drop(self, key: str) -> None:
        """Forget what `make` kept."""
        self._request("drop", key)

    def clear(self) -> None:
        """Forget all that `make` kept."""
        self._request("clear")

    def start_spin(self, seconds: float) -> None:
        """Begin counting in a loop for so long; `finish_spin` returns the count a second."""
        self._send("spin", seconds)

    def finish_spin(self) -> float:
        """Return how fast the loop of `start_spin` counted."""
        return self._receive()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):  # what was left to write to a pipe whose reader is gone
                stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, *request: Any) -> Any:
        self._send(*request)
        return self._receive()

    def _send(self, *request: Any) -> None:
        try:
            _write(self._process.stdin, request)
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> Any:
        hung = threading.Event()

        def kill() -> None:
            hung.set()
            self._process.kill()

        timer = threading.Timer(self._patience, kill)
        timer.daemon = True
        timer.start()
        try:
            succeeded, value = pickle.loads(_read(self._process.stdout))
        except EOFError as error:
            if hung.is_set():
                raise WorkerDied(f"{self.name}: no answer within {self._patience:g} s; killed") from error
            raise self._died() from error
        finally:
            timer.cancel()
        if not succeeded:
            raise WorkerError(f"{self.name}: {value}")
        return value

    def _died(self) -> WorkerDied:
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            self._process.kill()
            status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return WorkerDied(f"{self.name}: the process ended ({how}){': ' + lines[-1] if lines else ''}")


class Workers:
    """Live processes by name, each started when it is first asked for.

    As a context manager it closes them all where an error leaves it, so that what comes next gets new ones.

    Parameters
    ----------
    start : callable
        Takes a name, returns a new `Worker`.
    """

    def __init__(self, start: Callable[[str], Worker]) -> None:
        self._start = start
        self._live: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        if name not in self._live:
            self._live[name] = self._start(name)
        return self._live[name]

    def close(self) -> None:
        """End all processes."""
        while self._live:
            self._live.popitem()[1].close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()


# --- the process's end ----------------------------------------------------------------------------------------------


def _resolve(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _plain(value: Any) -> Any:
    """Return a result without another library's types: tensors as arrays."""
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value.detach().numpy() if hasattr(value, "detach") else value


def _burst(function: Callable[[], Any], calls: int) -> tuple[float, float]:
    processor, start = time.process_time(), time.perf_counter()
    for _ in repeat(None, calls):
        function()
    return time.perf_counter() - start, time.process_time() - processor


class Server:
    """Answers requests; each method is one, and its arguments are the request's."""

    def __init__(self) -> None:
        self._held: dict[str, Callable[[], Any]] = {}

    def make(self, key: str, target: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._held[key] = _resolve(target)(*arguments, **options)

    def call(self, target: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return _plain(_resolve(target)(*arguments, **options))

    def results(self, key: str, calls: int) -> list[bytes]:
        return [pickle.dumps(_plain(self._held[key]()), protocol=5) for _ in range(calls)]

    def count(self, key: str, seconds: float) -> tuple[int, float]:
        function, calls = self._held[key], 1
        function()
        while (took := _burst(function, calls)[0]) < seconds / 2:
            calls *= 2
        return max(1, round(calls * seconds / took)), took / calls

    def turn(self, key: str, calls: int, bursts: int) -> list[tuple[float, float]]:
        function = self._held[key]
        gc.collect()
        gc.disable()
        try:
            _burst(function, calls)
            return [_burst(function, calls) for _ in range(bursts)]
        finally:
            gc.enable()

    def drop(self, key: str) -> None:
        self._held.pop(key, None)

    def clear(self) -> None:
        self._held.clear()

    def spin(self, seconds: float) -> float:
        count, start = 0, time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            count += 1
        return count / (now - start)


def _receive(stream: BinaryIO, requests: queue.SimpleQueue[bytes]) -> None:
    """Hand on requests until the parent is gone, and then end the process, also in the middle of a call."""
    try:
        while True:
            requests.put(_read(stream))
    except (EOFError, OSError):
        os._exit(1)


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent as well, which ends this process
    with os.fdopen(os.dup(0), "rb") as source, os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what a library prints is not a reply
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(source, requests), daemon=True).start()
        server = Server()
        while True:
            try:
                name, *arguments = pickle.loads(requests.get())
                reply = True, getattr(server, name)(*arguments)
            except Exception as error:
                lines = str(error).strip().splitlines()
                reply = False, f"{type(error).__name__}: {lines[0] if lines else ''}"
            _write(replies, reply)


if __name__ == "__main__":
    main()
