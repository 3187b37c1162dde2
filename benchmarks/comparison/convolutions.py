"""The convolutions of well-known networks, in three passes: speed and error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from comparison import sides
from comparison.peak import Peak
from comparison.problems import ORDERS, PASSES, SUITE, Layer, Setting
from comparison.report import COMPARED, NAME, Column, Report, percent, small
from comparison.sides import OURS, THEIRS, Candidate
from fastcnn.benchmark.cases import ComparisonError
from fastcnn.benchmark.worker import Workers

# The largest relative error (root mean square) at which a result is still timed.
TOLERANCE = {"highest": 1e-5, "high": 1e-5, "medium": 5e-3}
# Images whose forward pass or input gradient is compared with float64; they do not depend on the others of the batch.
IMAGES = 4
SETTINGS = [Setting(), Setting("channels-last", "channels-last")]


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of what was expected."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def exact(live: Workers, layer: Layer, which: str) -> np.ndarray:
    """The result of one pass in float64, of the first images."""
    return live["NumPy"].call("comparison.ours:exact", layer, which, IMAGES)


def candidates(layer: Layer, which: str) -> list[Candidate]:
    """PyTorch in both memory orders, if it is there, and fastcnn."""
    settings = SETTINGS if sides.has_torch() else []
    arguments = {setting.name: (layer, which, setting) for setting in settings}
    theirs = [Candidate(name, THEIRS, found, found) for name, found in arguments.items()]
    arguments = {f"{OURS} {order}": (layer, which, order) for order in ORDERS}
    return theirs + [Candidate(name, OURS, found, found) for name, found in arguments.items()]


def rows(filter: str) -> Iterator[tuple[str, Layer, str]]:
    """Names, layers and passes whose name contains `filter`."""
    for layer in SUITE:
        for which in PASSES:
            name = f"{layer.name} {which}"
            if filter.lower() in name.lower():
                yield name, layer, which


def _measure(
    live: Workers, name: str, layer: Layer, which: str, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    errors: dict[str, float] = {}

    def compare(found: Mapping[str, tuple[np.ndarray, ...]]) -> None:
        expected = exact(live, layer, which)
        for side, (got,) in found.items():
            errors[side] = error(got[: len(expected)], expected)
            if not errors[side] <= TOLERANCE[options.precision]:
                limit = f"expected an error of at most {TOLERANCE[options.precision]:g}, got {errors[side]:.2g}"
                raise ComparisonError(f"{name}, {side}: {limit}")

    timing = sides.measure(live, "convolution", candidates(layer, which), 1, compare, options)
    return sides.order_rows(timing, SETTINGS), errors


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table of the suite."""
    peak = Peak()
    highest = peak.rate(options.threads)
    report.add_header("float32 peak", f"{highest / 1e9:.0f} GF/s: {peak.how}")
    chosen = list(rows(options.filter))
    table = report.table(
        "Convolutions: median times; ratio = fastest of PyTorch's settings / fastcnn; relative errors against float64",
        [
            NAME,
            *COMPARED,
            Column("gflops", "GF/s", 6, lambda value: f"{value:.0f}"),
            Column("fraction", "peak", 5, percent),
            Column("torch error", "torch err", 9, small),
            Column("error", "our err", 8, small),
        ],
        [f"{name}, {ORDERS[-1]}" for name, _, _ in chosen],
    )
    with closing(sides.workers(options)) as live:
        for name, layer, which in chosen:
            with table.row(name, precision=options.precision):
                found, errors = _measure(live, name, layer, which, options)
                for row in found:
                    speed = layer.flops / row["fastcnn"]
                    table.add(
                        name=f"{name}, {row['order']}",
                        precision=options.precision,
                        **row,
                        gflops=speed / 1e9,
                        fraction=speed / highest,
                        error=errors[f"{OURS} {row['order']}"],
                        **({"torch error": errors[row["best"]]} if "best" in row else {}),
                    )
    table.sum_up()
    worse = [row["name"] for row in table.rows if row["error"] > row.get("torch error", math.inf)]
    if sides.has_torch():
        print(f"rows with a larger error than PyTorch's fastest setting: {len(worse)}", *worse, sep="\n  ")
