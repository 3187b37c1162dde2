"""Relative error against float64 on each kernel path, by the length of the sum, in three passes."""

from __future__ import annotations

import argparse

from comparison import peer
from comparison.convolutions import PASSES, Layer, exact, fastcnn_pass, torch_pass
from comparison.isolated import isolated
from comparison.report import NAME, Column, Report, small
from fastcnn.kernels import isa

LENGTHS = [9 * 2**i for i in range(10)]  # 9 to 4608


def layer_of(which: str, length: int) -> Layer:
    """A 3x3 convolution whose pass adds up `length` products for each result."""
    if which == "weight":  # over pixels, of which an image has nine
        return Layer(length // 9, 16, (3, 3), 16, 3, 1, 1)
    channels, others = length // 9, 32
    sizes = (channels, others) if which == "forward" else (others, channels)
    return Layer(16, sizes[0], (12, 12), sizes[1], 3, 1, 1)  # tiles enough for whatever a precision allows


def _error(layer: Layer, which: str, order: str | None) -> float:
    expected = exact(layer, which)
    call = fastcnn_pass(layer, which) if order is None else torch_pass(layer, which, order)
    return peer.error(call()[: len(expected)], expected)


def all_errors(order: str | None) -> list[float]:
    """Errors of PyTorch in the given memory order, or of fastcnn on the path that FASTCNN_ISA names."""
    return [_error(layer_of(which, length), which, order) for which in PASSES for length in LENGTHS]


def errors_at(precision: str) -> list[float]:
    """Errors of fastcnn on the path that FASTCNN_ISA names, at a precision."""
    peer.set_precision(precision)
    return all_errors(None)


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    found = {} if peer.torch is None else {order: all_errors(order) for order in ("contiguous", "channels-last")}
    found |= {path: isolated(errors_at, options.precision, FASTCNN_ISA=path) for path in isa.available()}
    names = [f"{which} {length}" for which in PASSES for length in LENGTHS]
    columns = [Column(name, name, max(8, len(name)), small) for name in found]
    title = "Relative errors (root mean square) against float64, by pass and length of the sum"
    table = report.table(title, [NAME, Column("precision", "precision", 9), *columns], names)
    for i, name in enumerate(names):
        if options.filter.lower() in name:
            table.add(name=name, precision=options.precision, **{side: values[i] for side, values in found.items()})
