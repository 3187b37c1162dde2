"""Whether trained weights depend, to the bit, on the number of threads: hashes on each kernel path."""

from __future__ import annotations

import argparse

from comparison import sides
from comparison.report import NAME, Column, Report
from comparison.sides import OURS
from fastcnn.benchmark.cases import ComparisonError
from fastcnn.kernels import isa

THREADS = (1, 2, 3, 8)
STEPS, BATCH = 50, 32


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table; a path on which a hash depends on the number of threads is a row that failed."""
    paths = [path for path in isa.available() if options.filter.lower() in path]
    title = f"SHA-256 of LeNet-5's weights after {STEPS} steps of batch {BATCH}, by kernel path and number of threads"
    columns = [NAME, Column("threads", "threads", 7), Column("hash", "SHA-256", 64)]
    table = report.table(title, columns, paths)
    for path in paths:
        with table.row(path):
            hashes = {}
            for threads in THREADS:
                some = argparse.Namespace(**vars(options) | {"threads": threads})
                with sides.worker(OURS, some, FASTCNN_ISA=path) as worker:
                    hashes[threads] = worker.call("comparison.ours:trained_hash", STEPS, BATCH)
                table.add(name=path, threads=threads, hash=hashes[threads])
            if len(set(hashes.values())) > 1:
                raise ComparisonError(f"{path}: expected one hash for any number of threads, got {hashes}")
