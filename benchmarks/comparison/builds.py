"""Two builds of fastcnn, each in processes of its own: the rows, and what one row takes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from comparison import sides
from comparison.problems import ORDERS, PASSES, RATE, TIMED_RATE, square
from comparison.report import NAME, STATE, Column, Report, duration, interval
from comparison.sides import Candidate
from fastcnn.benchmark.cases import check_close
from fastcnn.benchmark.timing import Timing
from fastcnn.benchmark.worker import Worker, WorkerError, Workers

SIDES = ("before", "after")
# Largest difference relative to the largest element: of the losses of three updates, and of a convolution's result,
# whose rounding errors grow with the root of the 32,768 products that the longest of these sums has.
STEP_TOLERANCE, SUM_TOLERANCE = 1e-3, {"highest": 2e-5, "high": 1e-4}
COLUMNS = (
    NAME,
    Column("precision", "precision", 9),
    Column("before", "before", 9, duration),
    Column("after", "after", 9, duration),
    Column("ratio", "after/before", 12, "{:.3f}".format),
    Column("interval", "95% interval", 14, interval),
    *STATE,
)


@dataclass(frozen=True)
class Row:
    """A computation: its name, the function of `comparison.ours` that makes it, and its arguments."""

    name: str
    target: str
    compared: tuple[Any, ...]
    timed: tuple[Any, ...]
    calls: int


def _step(network: str, size: tuple[int, ...], order: str) -> Row:
    arguments = network, size, order
    return Row(f"{network} step, batch {size[0]}, {order}", "step", (*arguments, RATE), (*arguments, TIMED_RATE), 3)


def _convolution(channels: int, size: int, which: str, order: str) -> Row:
    arguments = square(32, channels, size, channels, 3, 1, 1), which, order
    return Row(f"{arguments[0].name} {which}, {order}", "convolution", arguments, arguments, 1)


ROWS = [
    *(_step("LeNet-5", (batch, 1, 28, 28), order) for batch in (1, 32, 128) for order in ORDERS),
    *(_step("ResNet-20", (128, 3, 32, 32), order) for order in ORDERS),
    *(_step("VGG-small", (64, 3, 32, 32), order) for order in ORDERS),
    *(_convolution(16, 32, which, order) for which in PASSES for order in ORDERS),
    *(_convolution(64, 32, which, order) for which in PASSES for order in ORDERS),
]


def start(name: str, options: argparse.Namespace, precision: str) -> Worker:
    """Return a process that imports a build of fastcnn: of a folder, or what an interpreter finds."""
    build, variables = getattr(options, name), sides.environment(options)
    if os.path.isdir(build):
        worker = Worker(name, path=[os.path.abspath(build), sides.HERE], environment=variables)
    else:
        worker = Worker(name, path=[sides.HERE], python=build, environment=variables | {"PYTHONPATH": ""})
    try:
        worker.call("comparison.ours:about", options.threads, precision)
    except BaseException:
        worker.close()
        raise
    return worker


def about(name: str, options: argparse.Namespace) -> dict[str, str]:
    """Return what a build is; ValueError unless it is the one that was meant."""
    build = getattr(options, name)
    if os.path.isdir(build) and not os.path.isfile(os.path.join(build, "fastcnn", "__init__.py")):
        raise ValueError(f"--{name}: expected a folder that holds fastcnn, got {build}")
    with start(name, options, "highest") as worker:
        found = worker.call("comparison.ours:about", options.threads, "highest")
    folder = os.path.dirname(os.path.dirname(os.path.realpath(found["file"])))
    if os.path.isdir(build) and folder != os.path.realpath(build):
        raise ValueError(f"--{name}: expected a folder that holds fastcnn, got {build}: fastcnn came from {folder}")
    return found


def _measure(row: Row, precision: str, options: argparse.Namespace) -> Timing:
    """Compare and time a row, in new processes for each part of the time."""
    tolerance = STEP_TOLERANCE if row.target == "step" else SUM_TOLERANCE[precision]
    candidates = [Candidate(side, side, row.compared, row.timed) for side in SIDES]

    def compare(found: Mapping[str, Any]) -> None:
        check_close(f"{row.name}, after beside before", found["after"], found["before"], tolerance)

    timing = Timing()
    part = argparse.Namespace(**vars(options) | {"seconds": options.seconds / options.processes})
    for _ in range(options.processes):
        with closing(Workers(lambda side: start(side, options, precision))) as live:
            timing = timing.extended(sides.measure(live, row.target, candidates, row.calls, compare, part))
    return timing


def chosen(options: argparse.Namespace) -> Iterator[tuple[Row, str]]:
    """Rows and precisions that the options name."""
    for precision in ("highest", "high") if options.precision == "both" else (options.precision,):
        for row in ROWS:
            if options.filter.lower() in row.name.lower():
                yield row, precision


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    rows = list(chosen(options))
    if not rows:
        raise SystemExit(f"--filter: expected part of a row's name, such as {ROWS[0].name}; got {options.filter!r}")
    for side in SIDES:
        try:
            found = about(side, options)
        except (OSError, ValueError, WorkerError) as error:
            raise SystemExit(f"compare_builds: error: {error}") from error
        for name, value in found.items():
            report.add_header(f"{side}: {name}", value)
    table = report.table("Median times of a call; cores: of before, of after", COLUMNS, [row.name for row, _ in rows])
    for row, precision in rows:
        with table.row(row.name, precision=precision) as add:
            timing = _measure(row, precision, options)
            ratio = timing.ratio("after", "before")
            add(
                **{side: timing.median(side) for side in SIDES},
                ratio=ratio.value,
                interval=[ratio.low, ratio.high],
                rounds=timing.rounds,
                **timing.state(),
                turns=timing.raw(),
            )
    table.sum_up()
