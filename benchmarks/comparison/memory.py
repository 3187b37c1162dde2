"""Peak memory, each side in a process of its own: a convolution's two passes, and a training step. Linux only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from comparison import sides
from comparison.problems import ORDERS, SUITE, Setting
from comparison.report import NAME, Column, Report, Table, factor, megabytes
from comparison.sides import MODULES, OURS, THEIRS

SETTINGS = [Setting(optimizer="fused"), Setting("channels-last", "channels-last", optimizer="fused")]
COLUMNS = (
    NAME,
    Column("contiguous", "torch MB", 9, megabytes),
    Column("channels-last", "CL MB", 9, megabytes),
    Column("fastcnn NCHW", "fastcnn MB", 10, megabytes),
    Column("fastcnn channels-last", "CL MB", 9, megabytes),
    Column("share", "fastcnn/torch", 13, factor),
)


def _peak(process: str, target: str, arguments: Sequence[Any], options: argparse.Namespace) -> int:
    with sides.worker(process, options) as worker:
        return worker.call(f"{MODULES[process]}:{target}", *arguments)


def add_rows(table: Table, rows: Sequence[tuple[str, Sequence[Any]]], target: str, options: argparse.Namespace) -> None:
    """Measure a function of each row's arguments and a memory order, or a setting, in a new process for each."""
    for name, arguments in rows:
        with table.row(name) as add:
            row = {f"{OURS} {order}": _peak(OURS, target, (*arguments, order), options) for order in ORDERS}
            ours = min(row.values())
            if sides.has_torch():
                theirs = {found.order: _peak(THEIRS, target, (*arguments, found), options) for found in SETTINGS}
                row |= theirs | {"share": ours / min(theirs.values())}
            add(**row)


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table of the suite's largest row, or of all rows that --filter names."""
    layers = [layer for layer in SUITE if options.filter.lower() in layer.name.lower()]
    if not options.filter:
        layers = [max(SUITE, key=lambda layer: layer.bytes)]
    title = "Forward and backward pass of a convolution: peak memory over that of input, weight and output gradient"
    table = report.table(title, COLUMNS, [layer.name for layer in layers])
    add_rows(table, [(layer.name, (layer,)) for layer in layers], "memory_of_convolution", options)
