"""How far the loader with augmentation is ahead of the networks that it feeds."""

from __future__ import annotations

import argparse
from contextlib import closing

from comparison import sides
from comparison.report import NAME, STATE, Column, Report, duration, factor, interval
from comparison.sides import OURS
from fastcnn.benchmark.timing import Side, take_turns

# Network, size of an image, batch, padding of the random crop, whether images are flipped.
ROWS = [
    *(("LeNet-5", (1, 28, 28), batch, 2, False) for batch in (1, 8, 32, 128, 512)),
    *(("ResNet-20", (3, 32, 32), batch, 4, True) for batch in (32, 128)),
]
TARGETS = {"loader": "next_batch", "step": "step_on_batch"}


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table. Both take turns in one process, which is where a program has them."""
    names = [f"{name}, batch {batch}" for name, _, batch, *_ in ROWS]
    table = report.table(
        "Time of a batch from the loader, and of a training step; ratio = step / loader",
        [
            NAME,
            Column("step", "step", 9, duration),
            Column("loader", "loader", 9, duration),
            Column("rate", "images/s", 10, "{:,.0f}".format),
            Column("ratio", "ratio", 6, factor),
            Column("interval", "95% interval", 14, interval),
            *(column for column in STATE if column.key != "pair"),
        ],
        names,
    )
    with closing(sides.workers(options)) as live:
        for name, row in zip(names, ROWS, strict=True):
            if options.filter.lower() not in name.lower():
                continue
            with table.row(name) as add, live:
                for key, target in TARGETS.items():
                    live[OURS].make(key, f"comparison.ours:{target}", *row)
                both = [Side(key, live[OURS]) for key in TARGETS]
                timing = take_turns(both, options.seconds, processor_time=options.cpu_time)
                ratio = timing.ratio("step", "loader")
                add(
                    **{key: timing.median(key) for key in TARGETS},
                    rate=row[2] / timing.median("loader"),
                    ratio=ratio.value,
                    interval=[ratio.low, ratio.high],
                    rounds=timing.rounds,
                    **timing.state(),
                    turns=timing.raw(),
                )
    table.sum_up()
