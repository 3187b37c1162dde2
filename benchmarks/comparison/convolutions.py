"""The convolutions of well-known networks, in three passes: speed and error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from comparison import peer
from comparison.peak import Peak
from comparison.peer import torch
from comparison.report import NAME, OURS, TIMES, Column, Report, percent, small, timing_row
from fastcnn import functional, get_float32_matmul_precision, reference
from fastcnn.benchmark import ComparisonError, channels_last

PASSES = ("forward", "data", "weight")
# The largest relative error (root mean square) at which a result is still timed.
TOLERANCE = {"highest": 1e-5, "high": 1e-5, "medium": 5e-3}
# Images whose forward pass or input gradient is compared with float64; they do not depend on the others of the batch.
COMPARED = 4


@dataclass(frozen=True)
class Layer:
    """A convolution: batch, input channels, size, output channels, kernel, stride, padding, groups."""

    n: int
    c: int
    size: tuple[int, ...]
    o: int
    k: int
    s: int
    p: int
    g: int = 1

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(reference.output_size(extent, self.k, self.s, self.p) for extent in self.size)

    @property
    def flops(self) -> int:
        """Multiplications and additions of any of the three passes."""
        return 2 * self.n * self.o * math.prod(self.places) * (self.c // self.g) * self.k**self.dims

    @property
    def bytes(self) -> int:
        """Size of input and output in float32."""
        return 4 * self.n * (self.c * math.prod(self.size) + self.o * math.prod(self.places))

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.size))
        extras = [f"{word}{value}" for word, value, usual in (("/", self.s, 1), ("g", self.g, 1)) if value != usual]
        return " ".join([f"{self.n}x{self.c}x{size} -> {self.o}", "x".join([str(self.k)] * self.dims), *extras])

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input, weight and gradient of the output, normally distributed."""
        rng = np.random.default_rng(0)
        weight_size = (self.o, self.c // self.g) + (self.k,) * self.dims
        sizes = (self.n, self.c, *self.size), weight_size, (self.n, self.o, *self.places)
        return tuple(rng.standard_normal(size, np.float32) for size in sizes)


def _square(n: int, c: int, h: int, o: int, k: int, s: int, p: int, g: int = 1) -> Layer:
    return Layer(n, c, (h, h), o, k, s, p, g)


SUITE = [
    _square(64, 1, 28, 6, 5, 1, 2),  # LeNet
    _square(64, 6, 14, 16, 5, 1, 0),
    _square(128, 3, 32, 16, 3, 1, 1),  # networks for CIFAR
    _square(128, 16, 32, 16, 3, 1, 1),
    _square(128, 16, 32, 32, 3, 2, 1),
    _square(128, 32, 16, 32, 3, 1, 1),
    _square(128, 64, 8, 64, 3, 1, 1),
    _square(64, 3, 32, 32, 7, 1, 3),
    _square(8, 3, 224, 64, 7, 2, 3),  # networks for ImageNet
    _square(8, 64, 56, 64, 3, 1, 1),
    _square(8, 128, 28, 128, 3, 1, 1),
    _square(8, 256, 14, 256, 3, 1, 1),
    _square(8, 512, 7, 512, 3, 1, 1),
    _square(8, 64, 56, 256, 1, 1, 0),
    _square(8, 1024, 14, 256, 1, 1, 0),
    _square(8, 96, 56, 96, 3, 1, 1, 96),  # depthwise
    _square(8, 96, 112, 96, 3, 2, 1, 96),
    Layer(64, 32, (1000,), 64, 9, 1, 4),  # 1-D
]


# --- one pass -------------------------------------------------------------------------------------------------------


def compute(
    module: ModuleType, layer: Layer, which: str, x: np.ndarray, weight: np.ndarray, grad: np.ndarray
) -> np.ndarray:
    """One pass by `fastcnn.functional` or `fastcnn.reference`."""
    name = f"conv{layer.dims}d"
    if which == "forward":
        return getattr(module, name)(x, weight, None, layer.s, layer.p, 1, layer.g)
    needs = (which == "data", which == "weight", False)
    grads = getattr(module, f"{name}_backward")(grad, x, weight, layer.s, layer.p, 1, layer.g, needs=needs)
    return grads[PASSES.index(which) - 1]


def fastcnn_pass(layer: Layer, which: str) -> Callable[[], np.ndarray]:
    """Return a callable that computes one pass by fastcnn, channels last."""
    x, weight, grad = layer.arrays()
    x, grad = channels_last(x), channels_last(grad)
    return lambda: compute(functional, layer, which, x, weight, grad)


def torch_pass(layer: Layer, which: str, order: str) -> Callable[[], Any]:
    """Return a callable that computes one pass by PyTorch, contiguous or channels last.

    Sequences have no channels-last order in PyTorch; there they are images of one row.
    """
    arrays, dims = layer.arrays(), layer.dims
    lift = order == "channels-last" and dims == 1
    if lift:
        arrays, dims = tuple(array[:, :, None] for array in arrays), 2
    x, weight, grad = (peer.tensor(array, order == "channels-last") for array in arrays)
    stride, padding = ([1, layer.s], [0, layer.p]) if lift else ([layer.s] * dims, [layer.p] * dims)
    unlifted = (lambda value: value[:, :, 0]) if lift else (lambda value: value)

    @torch.inference_mode()
    def run() -> Any:
        ones, zeros = [1] * dims, [0] * dims
        if which == "forward":
            return (
                unlifted(torch.conv2d(x, weight, None, stride, padding, ones, layer.g))
                if dims == 2
                else (torch.conv1d(x, weight, None, stride, padding, ones, layer.g))
            )
        needs = [which == "data", which == "weight", False]
        grads = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, ones, False, zeros, layer.g, needs
        )
        return unlifted(grads[PASSES.index(which) - 1])

    return run


def exact(layer: Layer, which: str) -> np.ndarray:
    """The result of one pass in float64; of the first images alone, where they do not depend on the others."""
    x, weight, grad = (array.astype(np.float64) for array in layer.arrays())
    pieces = (
        compute(reference, layer, which, x[i : i + COMPARED], weight, grad[i : i + COMPARED])
        for i in range(0, layer.n, COMPARED)
    )
    return sum(pieces) if which == "weight" else next(pieces)


def errors(layer: Layer, which: str, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the error of each side; ComparisonError if one is not right."""
    expected = exact(layer, which)
    found = {name: peer.error(side()[: len(expected)], expected) for name, side in sides.items()}
    tolerance = TOLERANCE[get_float32_matmul_precision()]
    for name, value in found.items():
        if not value <= tolerance:
            raise ComparisonError(f"{layer.name}, {which}, {name}: expected an error up to {tolerance}, got {value}")
    return found


def all_sides(layer: Layer, which: str) -> dict[str, Callable[[], Any]]:
    """PyTorch in both memory orders, if it is there, and fastcnn."""
    orders = () if torch is None else ("contiguous", "channels-last")
    return {order: torch_pass(layer, which, order) for order in orders} | {"fastcnn": fastcnn_pass(layer, which)}


# --- the table ------------------------------------------------------------------------------------------------------


def rows(filter: str) -> Iterator[tuple[str, Layer, str]]:
    """Names, layers and passes whose name contains `filter`."""
    for layer in SUITE:
        for which in PASSES:
            name = f"{layer.name} {which}"
            if filter.lower() in name.lower():
                yield name, layer, which


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table of the suite."""
    peak = Peak()
    highest = peak.rate(options.threads)
    report.add_header("float32 peak", f"{highest / 1e9:.0f} GF/s: {peak.how}")
    chosen = list(rows(options.filter))
    table = report.table(
        "Convolutions: median times; ratio = faster of PyTorch's two / fastcnn; relative errors against float64",
        [
            NAME,
            Column("precision", "precision", 9),
            *TIMES,
            *OURS,
            Column("gflops", "GF/s", 6, lambda value: f"{value:.0f}"),
            Column("fraction", "peak", 5, percent),
            Column("error contiguous", "torch err", 9, small),
            Column("error channels-last", "CL err", 8, small),
            Column("error fastcnn", "our err", 8, small),
        ],
        [name for name, _, _ in chosen],
    )
    for name, layer, which in chosen:
        sides = all_sides(layer, which)
        found = errors(layer, which, sides)
        row = timing_row(options.time(sides), [side for side in sides if side != "fastcnn"])
        speed = layer.flops / row["fastcnn"]
        row |= {f"error {side}": value for side, value in found.items()}
        table.add(name=name, precision=options.precision, **row, gflops=speed / 1e9, fraction=speed / highest)
    table.sum_up()
    worse = [row["name"] for row in table.rows if row["error fastcnn"] > row.get("error channels-last", math.inf)]
    if torch is not None:
        print(f"rows with a larger error than PyTorch's channels-last: {len(worse)}", *worse, sep="\n  ")
