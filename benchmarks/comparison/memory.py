"""Peak memory, each side in a process of its own: a convolution's two passes, and a training step."""

from __future__ import annotations

import argparse
from typing import Any

from comparison import peer
from comparison.convolutions import SUITE, Layer
from comparison.isolated import isolated, peak_of
from comparison.report import NAME, Column, Report, factor, megabytes
from fastcnn import functional
from fastcnn.benchmark import channels_last

SIDES = ("fastcnn",) if peer.torch is None else ("fastcnn", "contiguous", "channels-last")
COLUMNS = (
    NAME,
    Column("contiguous", "torch MB", 9, megabytes),
    Column("channels-last", "CL MB", 9, megabytes),
    Column("fastcnn", "fastcnn MB", 10, megabytes),
    Column("share", "fastcnn/torch", 13, factor),
)


def _convolution(layer: Layer, side: str, threads: int) -> int:
    """Peak of a forward pass and both gradients, with their results, over input, weight and output gradient."""
    peer.set_threads(threads)
    x, weight, grad = layer.arrays()
    geometry = layer.s, layer.p, 1, layer.g
    if side == "fastcnn":
        x, grad = channels_last(x), channels_last(grad)
        forward = getattr(functional, f"conv{layer.dims}d")
        backward = getattr(functional, f"conv{layer.dims}d_backward")
        return peak_of(
            lambda: (
                forward(x, weight, None, *geometry),
                backward(grad, x, weight, *geometry, needs=(True, True, False)),
            )
        )
    import torch

    x, weight, grad = (peer.tensor(array, side == "channels-last") for array in (x, weight, grad))
    x.requires_grad_()
    weight.requires_grad_()
    function = getattr(torch.nn.functional, f"conv{layer.dims}d")

    def run() -> Any:
        output = function(x, weight, None, *geometry)
        return output, torch.autograd.grad(output, (x, weight), grad)

    return peak_of(run)


def add_row(table: Any, name: str, function: Any, argument: Any, threads: int) -> None:
    """Measure a function of (argument, side, threads) in a new process for each side."""
    row = {side: isolated(function, argument, side, threads) for side in SIDES}
    peers = [row[side] for side in SIDES if side != "fastcnn"]
    table.add(name=name, **row, share=row["fastcnn"] / min(peers) if peers else None)


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table of the suite's largest row, or of all rows that --filter names."""
    layers = [layer for layer in SUITE if options.filter.lower() in layer.name.lower()]
    if not options.filter:
        layers = [max(SUITE, key=lambda layer: layer.bytes)]
    title = "Forward and backward pass of a convolution: peak memory over that of input, weight and output gradient"
    table = report.table(title, COLUMNS, [layer.name for layer in layers])
    for layer in layers:
        add_row(table, layer.name, _convolution, layer, options.threads)
