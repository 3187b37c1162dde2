"""The processes of a run, and what every table does with a row: make the sides, compare their results, time them."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comparison.problems import ORDERS, Setting
from fastcnn.benchmark.cases import ComparisonError
from fastcnn.benchmark.timing import Side, Timing, take_turns
from fastcnn.benchmark.worker import PACKAGE_FOLDER, Worker, WorkerDied, WorkerError, Workers, thread_variables

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS, THEIRS = "fastcnn", "PyTorch"
# The module that makes what is timed, by process: all are fastcnn, of this build or another one, but for PyTorch.
MODULES = defaultdict(lambda: "comparison.ours", {THEIRS: "comparison.theirs"})
FAILURES = (ComparisonError, WorkerError)
TRIAL = 0.5  # seconds of a trial between settings


@dataclass(frozen=True)
class Candidate:
    """A side of a row: its name, its process, and the arguments of what is compared and of what is timed."""

    name: str
    process: str
    compared: tuple[Any, ...]
    timed: tuple[Any, ...]
    optional: bool = False  # whether a failure, other than a crash, leaves it out instead of failing the row


def has_torch() -> bool:
    """Whether PyTorch can be imported; it is not."""
    return importlib.util.find_spec("torch") is not None


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the variables that hold all libraries to the threads and the instruction set that the options name."""
    variables = thread_variables(options.threads) | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if options.isa:
        variables["FASTCNN_ISA"] = options.isa
    if options.isa == "avx2":
        variables |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    return variables


def worker(process: str, options: argparse.Namespace, **variables: str) -> Worker:
    """Return a new process of fastcnn, of PyTorch or of NumPy, which knows threads and precision."""
    path = [HERE, PACKAGE_FOLDER] if process == "fastcnn" else [HERE]
    started = Worker(f"the process of {process}", path=path, environment=environment(options) | variables)
    try:
        about(started, process, options)
    except BaseException:
        started.close()
        raise
    return started


def about(started: Worker, process: str, options: argparse.Namespace) -> dict[str, str]:
    """Set a process's threads and precision; return what it has."""
    return started.call(f"{MODULES[process]}:about", options.threads, options.precision)


def workers(options: argparse.Namespace) -> Workers:
    """Return the live processes of a run."""
    return Workers(lambda process: worker(process, options))


def _flat(results: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(value for result in results for value in (result if isinstance(result, tuple) else (result,)))


def results_of(
    live: Workers, target: str, candidates: Sequence[Candidate], calls: int
) -> dict[str, tuple[np.ndarray, ...]]:
    """Return what so many calls of each candidate return, one after another; an optional one that fails is left out."""
    found = {}
    for candidate in candidates:
        held = live[candidate.process]
        try:
            held.make(candidate.name, f"{MODULES[candidate.process]}:{target}", *candidate.compared)
            found[candidate.name] = _flat(held.results(candidate.name, calls))
        except WorkerDied:
            raise
        except WorkerError as error:
            if not candidate.optional:
                raise
            print(f"left out: {candidate.name}: {error}")
    return found


def time_of(
    live: Workers,
    target: str,
    candidates: Sequence[Candidate],
    options: argparse.Namespace,
    seconds: float | None = None,
) -> Timing:
    """Make what is timed, and time it in turns."""
    for candidate in candidates:
        if candidate.timed is not candidate.compared:
            held = live[candidate.process]
            held.make(candidate.name, f"{MODULES[candidate.process]}:{target}", *candidate.timed)
    sides = [Side(candidate.name, live[candidate.process]) for candidate in candidates]
    timing = take_turns(sides, options.seconds if seconds is None else seconds, processor_time=options.cpu_time)
    for side in sides:
        side.worker.drop(side.name)
    return timing


def measure(
    live: Workers,
    target: str,
    candidates: Sequence[Candidate],
    calls: int,
    compare: Callable[[Mapping[str, tuple[np.ndarray, ...]]], None],
    options: argparse.Namespace,
) -> Timing:
    """Compare what the candidates of a row compute, then time them; after an error the next row gets new processes."""
    with live:
        found = results_of(live, target, candidates, calls)
        compare(found)
        return time_of(live, target, [candidate for candidate in candidates if candidate.name in found], options)


def fastest_setting(
    live: Workers,
    target: str,
    arguments: Sequence[Any],
    after: Sequence[Any],
    settings: Sequence[Setting],
    options: Any,
) -> Setting:
    """Return the setting of PyTorch that a short trial finds fastest."""
    by_name = {setting.name: setting for setting in settings}
    candidates = [Candidate(name, THEIRS, (), (*arguments, setting, *after)) for name, setting in by_name.items()]
    return by_name[time_of(live, target, candidates, options, TRIAL).fastest(list(by_name))]


def order_rows(timing: Timing, settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return the figures for inputs in each order: fastcnn's, and the fastest of PyTorch's settings that suits it."""
    rows = []
    for order in ORDERS:
        ours = f"{OURS} {order}"
        if ours not in timing.seconds:
            continue
        row: dict[str, Any] = {"order": order, "fastcnn": timing.median(ours), "rounds": timing.rounds}
        peers = [setting.name for setting in settings if setting.suits(order) and setting.name in timing.seconds]
        if peers:
            best = timing.fastest(peers)
            ratio = timing.ratio(best, ours)
            row |= {"torch": timing.median(best), "best": best}
            row |= {"ratio": ratio.value, "interval": [ratio.low, ratio.high]}
            row["settings"] = {peer: timing.median(peer) for peer in peers}
        state = timing.state()
        names = [*(row[key] for key in ("best",) if key in row), ours]
        row |= state | {"cores": {name: state["cores"][name] for name in names}, "turns": timing.raw()}
        rows.append(row)
    return rows
