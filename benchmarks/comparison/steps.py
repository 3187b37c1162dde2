"""Whole training steps, evaluation, single layers and an optimizer; and the peak memory of a step."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from comparison import memory, sides
from comparison.problems import ORDERS, RATE, TIMED_RATE, Setting
from comparison.report import COMPARED, NAME, Report
from comparison.sides import OURS, THEIRS, Candidate
from fastcnn.benchmark.cases import check_close
from fastcnn.benchmark.worker import Workers

# Largest difference of losses or results in three calls, relative to the largest element.
TOLERANCE = 1e-3
PLAIN = Setting()
LAST, FROM_NCHW = Setting("channels-last", "channels-last"), Setting("channels-last")


@dataclass(frozen=True)
class Row:
    """A line of the table for each memory order: its name, the makers on both sides, and their arguments.

    The arguments are followed by the memory order, or by PyTorch's setting, and that by what `compared` and `timed`
    hold, which is how a step is compared at one learning rate and timed at another.
    """

    name: str
    target: str
    arguments: tuple[Any, ...] = ()
    compared: tuple[Any, ...] = ()
    timed: tuple[Any, ...] = ()
    orders: tuple[str, ...] = ORDERS
    settings: tuple[Setting, ...] = (PLAIN, LAST, FROM_NCHW)
    compiles: bool = True
    optimizes: bool = False


def _step(network: str, size: tuple[int, ...]) -> Row:
    name = f"{network} step, batch {size[0]}"
    return Row(name, "step", (network, size), (RATE,), (TIMED_RATE,), optimizes=True)


def _evaluation(network: str, size: tuple[int, ...]) -> Row:
    return Row(f"{network} evaluation, batch {size[0]}", "evaluation", (network, size))


def _layer(name: str, size: tuple[int, ...]) -> Row:
    text = f"{name} forward and backward, {'x'.join(map(str, size))}"
    return Row(text, "layer", (name, size), settings=(PLAIN, LAST))


ROWS = [
    *(_step("LeNet-5", (batch, 1, 28, 28)) for batch in (1, 8, 32, 128, 512)),
    *(_step("ResNet-20", (batch, 3, 32, 32)) for batch in (32, 128)),
    _step("VGG-small", (64, 3, 32, 32)),
    *(_step("depthwise-separable net", (batch, 3, 32, 32)) for batch in (16, 64)),
    _evaluation("LeNet-5", (1, 1, 28, 28)),
    _evaluation("ResNet-20", (128, 3, 32, 32)),
    _layer("max-pool 2x2", (128, 16, 32, 32)),
    _layer("max-pool 3x3 /2", (8, 64, 112, 112)),
    _layer("batch norm and ReLU", (128, 16, 32, 32)),
    _layer("batch norm and ReLU", (8, 64, 56, 56)),
    Row(
        "Adam, 1 million parameters in 60 tensors", "adam", orders=(ORDERS[0],), compiles=False,
        settings=(PLAIN, Setting(optimizer="fused")),
    ),
]  # fmt: skip
MEMORY = ("ResNet-20 step, batch 128", "ResNet-20", (128, 3, 32, 32))


def _settings(live: Workers, row: Row, options: argparse.Namespace) -> list[Setting]:
    """PyTorch's settings of a row: the faster SGD, and the faster memory order compiled as well."""
    if not sides.has_torch():
        return []
    settings = list(row.settings)
    if row.optimizes:
        both = [PLAIN, Setting(optimizer="fused")]
        optimizer = sides.fastest_setting(live, row.target, row.arguments, row.timed, both, options).optimizer
        settings = [Setting(found.order, found.inputs, False, optimizer) for found in settings]
    if row.compiles and not options.no_compile:
        order = sides.fastest_setting(live, row.target, row.arguments, row.timed, settings[:2], options).order
        chosen = [found for found in settings if found.order == order]
        settings += [Setting(order, found.inputs, True, found.optimizer) for found in chosen]
    return settings


def candidates(row: Row, settings: Sequence[Setting]) -> list[Candidate]:
    """All sides of a row."""

    def candidate(name: str, process: str, between: tuple[Any, ...], optional: bool = False) -> Candidate:
        arguments = (*row.arguments, *between)
        return Candidate(name, process, (*arguments, *row.compared), (*arguments, *row.timed), optional)

    ours = [
        candidate(f"{OURS} {order}", OURS, (order,) if row.arguments else ())  # Adam has no images
        for order in row.orders
    ]
    return [candidate(setting.name, THEIRS, (setting,), setting.compiled) for setting in settings] + ours


def measure(live: Workers, row: Row, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare and time a row: its figures for each memory order."""
    with live:
        settings = _settings(live, row, options)

    def compare(found: Mapping[str, tuple[np.ndarray, ...]]) -> None:
        expected = found[f"{OURS} {ORDERS[0]}"]
        for side, got in found.items():
            check_close(f"{row.name}, {side} beside fastcnn", got, expected, TOLERANCE)

    timing = sides.measure(live, row.target, candidates(row, settings), 3, compare, options)
    return sides.order_rows(timing, settings)


def run(options: argparse.Namespace, report: Report) -> None:
    """Print both tables."""
    chosen = [row for row in ROWS if options.filter.lower() in row.name.lower()]
    if chosen:
        title = "Median times of a call; torch: the fastest of its settings; ratio = torch / fastcnn"
        names = [f"{row.name}, {ORDERS[-1]}" for row in chosen]
        table = report.table(title, [NAME, *COMPARED], names)
        with closing(sides.workers(options)) as live:
            for row in chosen:
                with table.row(row.name, precision=options.precision):
                    for found in measure(live, row, options):
                        name = f"{row.name}, {found['order']}" if row.arguments else row.name
                        table.add(name=name, precision=options.precision, **found)
        table.sum_up()
    name, *step = MEMORY
    if options.filter.lower() in f"memory {name}".lower():
        title = "Peak memory over that of model, optimizer and batch"
        memory.add_rows(report.table(title, memory.COLUMNS, [name]), [(name, step)], "memory_of_step", options)
