"""`fastcnn bench`: each case compared and timed, printed as it is done, and returned for JSON."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from fastcnn.benchmark.cases import SIDES, Case, ComparisonError
from fastcnn.benchmark.timing import Side, Timing, take_turns
from fastcnn.benchmark.worker import PACKAGE_FOLDER, Worker, WorkerError, Workers, thread_variables

__all__ = ["blas", "compare", "duration", "machine_state", "processor", "report", "start_workers"]


# --- what the figures depend on -------------------------------------------------------------------------------------


def processor() -> str:
    """Return the processor's name and the number of logical cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def machine_state() -> str:
    """Return the system's load average, where it has one."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def blas() -> str:
    """Return which library NumPy's matrix products call in this process, its kernels, and how many threads it has."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{found['name']} {found['version']}"
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            if pool["user_api"] == "blas":
                return f"{name}, {pool.get('architecture', 'unknown')} kernels, threads: {pool['num_threads']}"
    return f"{name}, threads: {os.environ.get('OPENBLAS_NUM_THREADS', 'as many as it chooses')}"


# --- the table ------------------------------------------------------------------------------------------------------


def start_workers(threads: int) -> Workers:
    """Return the processes of the two sides, which are held to so many threads."""
    environment = thread_variables(threads)
    return Workers(lambda side: Worker(f"the process of {side}", path=[PACKAGE_FOLDER], environment=environment))


def compare(case: Case, workers: Workers) -> None:
    """Compare what both sides of a case compute; each process keeps its side, under the side's name.

    Raises
    ------
    ComparisonError
        If they differ.
    """

    def result(side: str) -> Any:
        worker = workers["fastcnn" if side.startswith("fastcnn") else "numpy"]
        worker.make(side, case.target, side, 0, *case.arguments)
        (found,) = worker.results(side)
        if side not in SIDES:
            worker.drop(side)
        return found

    case.compare(result)


def _measure(case: Case, seconds: float, workers: Workers) -> Timing:
    """Compare a case's results and time its sides; after an error the next case gets new processes."""
    with workers:
        compare(case, workers)
        timing = take_turns([Side(side, workers[side]) for side in SIDES], seconds)
        for side in SIDES:
            workers[side].drop(side)
    return timing


def _row(case: Case, timing: Timing) -> dict[str, Any]:
    ratio = timing.ratio("numpy", "fastcnn")
    return {
        "group": case.group,
        "shape": case.shape,
        **{side: timing.median(side) for side in SIDES},
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "rounds": timing.rounds,
        **timing.state(),
        "turns": timing.raw(),
    }


def report(cases: Sequence[Case], seconds: float, threads: int, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Compare and time cases, and print a line for each as it is done.

    Parameters
    ----------
    cases : sequence of Case
    seconds : float
        Time for each case.
    threads : int
        Threads of each side.
    show : callable
        What to do with a line of text.

    Returns
    -------
    dict
        ``'machine'``, ``'cases'`` and ``'failed'``. A dict in ``'cases'`` has group, shape, the median seconds of each
        side, the ratio and the ends of its interval, the number of rounds, the machine's state, and all turns. A dict
        in ``'failed'`` has group, shape and the error: the two sides differ, or a process has died.
    """
    found: dict[str, Any] = {"machine": {}, "cases": [], "failed": []}
    with closing(start_workers(threads)) as workers:
        found["machine"] = {
            "processor": processor(),
            "load average": machine_state(),
            **workers["fastcnn"].call("fastcnn.config:show_config", mode="dicts"),
            "NumPy's products": workers["numpy"].call(f"{__name__}:blas"),
        }
        width = max(map(len, found["machine"]))
        for name, value in found["machine"].items():
            show(f"{name:{width}}  {value}")
        width = max(len(case.name) for case in cases)
        headings = f"{'NumPy':>10} {'fastcnn':>10} {'ratio':>7}  {'95% interval':^15} {'rounds':>6}  {'cores':^7}  pair"
        show(f"\n{'case':{width}}  {headings}")
        for case in cases:
            try:
                row = _row(case, _measure(case, seconds, workers))
            except (ComparisonError, WorkerError) as error:
                found["failed"].append({"group": case.group, "shape": case.shape, "error": str(error)})
                show(f"{case.name:{width}}  FAILED: {error}")
                continue
            found["cases"].append(row)
            times = " ".join(f"{duration(row[side]):>10}" for side in SIDES)
            interval = f"{row['low']:6.1f} to {row['high']:<5.1f}"
            cores = " ".join(f"{row['cores'][side]:.1f}" for side in SIDES)
            state = f"{row['rounds']:6}  {cores}  {row['pair']:4.1f}"
            show(f"{case.name:{width}}  {times} {row['ratio']:7.1f}  {interval} {state}")
    return found


def duration(seconds: float) -> str:
    """Return a time as text with three digits.

    Examples
    --------
    >>> duration(0.01234), duration(5.2e-6)
    ('12.3 ms', '5.20 us')
    """
    scale, unit = 1.0, "s"
    if seconds < 1:
        scale, unit = (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "us")
    value = seconds / scale
    digits = max(0, 2 - math.floor(math.log10(max(value, 1))))
    return f"{value:.{digits}f} {unit}"
