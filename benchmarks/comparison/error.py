"""Relative error against float64 on each kernel path, by the length of the sum, in three passes."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial

from comparison import sides
from comparison.convolutions import SETTINGS, error, exact
from comparison.problems import ORDERS, PASSES, Layer, square
from comparison.report import NAME, Column, Report, small
from comparison.sides import MODULES, OURS, THEIRS
from fastcnn.benchmark.worker import Worker
from fastcnn.kernels import isa

LENGTHS = [9 * 2**i for i in range(10)]  # 9 to 4608


def layer_of(which: str, length: int) -> Layer:
    """A 3x3 convolution whose pass adds up `length` products for each result."""
    if which == "weight":  # over pixels, of which an image has nine
        return square(length // 9, 16, 3, 16, 3, 1, 1)
    channels, others = length // 9, 32
    inputs, outputs = (channels, others) if which == "forward" else (others, channels)
    return square(16, inputs, 12, outputs, 3, 1, 1)  # tiles enough for whatever a precision allows


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    starts = {
        path: (OURS, ORDERS[1], partial(sides.worker, OURS, options, FASTCNN_ISA=path)) for path in isa.available()
    }
    if sides.has_torch():
        starts |= {found.order: (THEIRS, found, partial(sides.worker, THEIRS, options)) for found in SETTINGS}
    problems = {f"{which} {length}": (layer_of(which, length), which) for which in PASSES for length in LENGTHS}
    problems = {name: found for name, found in problems.items() if options.filter.lower() in name}
    with closing(sides.workers(options)) as live:
        expected = {name: exact(live, *problem) for name, problem in problems.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in problems}
    for side, (process, order, start) in starts.items():
        with start() as worker:
            for name, problem in problems.items():
                found[name][side] = _error(worker, process, (*problem, order), expected[name])
    columns = [Column(name, name, max(8, len(name)), small) for name in starts]
    title = "Relative errors (root mean square) against float64, by pass and length of the sum"
    table = report.table(title, [NAME, Column("precision", "precision", 9), *columns], list(problems))
    for name, errors in found.items():
        table.add(name=name, precision=options.precision, **errors)


def _error(worker: Worker, process: str, arguments: tuple, expected) -> float:
    worker.make("result", f"{MODULES[process]}:convolution", *arguments)
    (got,) = worker.results("result")
    return error(got[: len(expected)], expected)
