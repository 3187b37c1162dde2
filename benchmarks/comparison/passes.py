"""Where the time of a ResNet-20 step goes: each kind of call with the bytes it moves, and the least that would do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from comparison import sides
from comparison.problems import classes, normal, ordered
from comparison.report import NAME, Column, Report, duration, factor, percent
from comparison.sides import OURS
from fastcnn import functional, models, optim
from fastcnn.training import Trainer

BATCH, STEPS = 128, 20
COLUMNS = (
    NAME,
    Column("calls", "calls", 5),
    Column("seconds", "time", 9, duration),
    Column("share", "share", 5, percent),
    Column("moved", "MB", 8, lambda value: f"{value / 1e6:.1f}"),
    Column("least", "least", 8, lambda value: f"{value / 1e6:.1f}"),
    Column("rate", "GB/s", 6, factor),
    Column("flops", "GFLOP", 7, lambda value: f"{value / 1e9:.2f}"),
    Column("speed", "GFLOP/s", 8, lambda value: f"{value / 1e9:.0f}"),
)


def _products(output: tuple[int, ...], weight: np.ndarray) -> float:
    return 2.0 * np.prod(output) * np.prod(weight.shape[1:])


# What a call moves and the least that would do, in bytes, and its floating-point operations: of a call's result and
# arguments. Weights and vectors of one number a channel are left out; an array counts each time it is read or written.


def _conv(out: Any, /, x: np.ndarray, weight: np.ndarray, *_: Any, **__: Any) -> tuple[float, float, float]:
    return x.nbytes + out.nbytes, x.nbytes + out.nbytes, _products(out.shape, weight)


def _conv_backward(grads: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, *_: Any, **__: Any) -> tuple:
    dx = 0 if grads[0] is None else grads[0].nbytes  # grad_output is read for it, and once more for the weight
    passes = 1 + bool(dx)
    return passes * dy.nbytes + x.nbytes + dx, dy.nbytes + x.nbytes + dx, passes * _products(dy.shape, weight)


# Where Winograd's algorithm convolves, as in this network, statistics and sums are passes of their own within the call.


def _norm_conv(
    out: Any, /, x: Any, mean: Any, scale: Any, shift: Any, weight: Any, *_: Any, statistics: bool = False, **__: Any
) -> tuple:
    output = out[0] if statistics else out
    moved, least, products = _conv(output, x, weight)
    return moved + statistics * output.nbytes, least, products


def _norm_conv_backward(
    grads: Any, dy: Any, x: Any, mean: Any, scale: Any, shift: Any, weight: Any, *_: Any, sums: bool = False, **__: Any
) -> tuple:
    moved, least, products = _conv_backward(grads, dy, x, weight)
    return moved + sums * (x.nbytes + grads[0].nbytes), least, products


def _factors(_: Any, x: np.ndarray, *__: Any, statistics: Any = None, **___: Any) -> tuple:
    return x.nbytes if statistics is None else 0, 0, 0  # none, were the sums taken where the convolution writes x


def _apply(y: Any, x: Any, *_: Any, residual: Any = None, **__: Any) -> tuple:
    moved = x.nbytes + y.nbytes + (0 if residual is None else residual.nbytes)
    return moved, moved, 0


def _norm_backward(grads: Any, dy: Any, x: Any, *_: Any, relu: Any = None, sums: Any = None, **__: Any) -> tuple:
    mask = relu.nbytes if isinstance(relu, np.ndarray) else 0
    masked = grads[3].nbytes if len(grads) > 3 else 0
    # The sums read gradient and input once before the pass that uses them: less only where what gives the gradient
    # takes them as it writes.
    first = dy.nbytes + x.nbytes + mask + masked if sums is None else 0
    second = dy.nbytes + x.nbytes + x.nbytes
    return first + second, second + mask + masked, 0


def _add(out: Any, /, *_: Any, **__: Any) -> tuple:
    return 3 * out.nbytes, out.nbytes, 0  # were it done where the convolution writes its gradient: the other summand


def _mean(out: Any, /, x: np.ndarray, *_: Any, **__: Any) -> tuple:
    return x.nbytes + out.nbytes, x.nbytes + out.nbytes, 0


KINDS: dict[str, tuple[str, Callable[..., tuple]]] = {
    "conv2d": ("convolution, forward", _conv),
    "norm_conv2d": ("norm, ReLU and convolution, forward", _norm_conv),
    "batch_norm_factors": ("batch norm's statistics", _factors),
    "batch_norm_apply": ("batch norm, residual and ReLU, forward", _apply),
    "adaptive_avg_pool2d": ("global mean, forward", _mean),
    "conv2d_backward": ("convolution, backward", _conv_backward),
    "norm_conv2d_backward": ("norm, ReLU and convolution, backward", _norm_conv_backward),
    "batch_norm_backward": ("batch norm, residual and ReLU, backward", _norm_backward),
    "add": ("gradients of two branches", _add),
    "adaptive_avg_pool2d_backward": ("global mean, backward", _mean),
}


@contextmanager
def _recorded(found: dict[str, list]) -> Iterator[None]:
    """Within this context, calls of the functions are timed: lists of (seconds, moved, least, operations) by name."""

    def timed(name: str, function: Callable) -> Callable:
        count = KINDS[name][1]

        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **options)
            seconds = time.perf_counter() - start
            found.setdefault(name, []).append((seconds, *count(result, *args, **options)))
            return result

        return call

    with mock.patch.multiple(functional, **{name: timed(name, getattr(functional, name)) for name in KINDS}):
        yield


def measure(batch: int, steps: int) -> tuple[float, list[dict[str, Any]]]:
    """Return the time of a step, at the lower quartile of so many, and the table's rows."""
    model = models.resnet20(rng=np.random.default_rng(0))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, 0.9))
    inputs, targets = ordered(normal(batch, 3, 32, 32), "channels-last"), classes(batch)
    for _ in range(3):
        trainer.step(inputs, targets)
    timed: list[tuple[float, dict[str, list]]] = []
    for _ in range(steps):
        found: dict[str, list] = {}
        with _recorded(found):
            start = time.perf_counter()
            trainer.step(inputs, targets)
            timed.append((time.perf_counter() - start, found))
    whole, found = sorted(timed, key=lambda step: step[0])[steps // 4]
    rows, total = [], np.zeros(4)
    for name, (heading, _) in KINDS.items():
        calls = np.array(found[name])
        seconds, moved, least, flops = map(float, calls.sum(axis=0))
        total += seconds, moved, least, flops
        row = {"name": heading, "calls": len(calls), "seconds": seconds, "share": seconds / whole}
        row |= {"moved": moved, "least": least, "rate": moved / seconds / 1e9}
        rows.append(row | ({"flops": flops, "speed": flops / seconds} if flops else {}))
    seconds, moved, least, flops = map(float, total)
    rows.append({"name": "all else", "seconds": whole - seconds, "share": 1 - seconds / whole})
    rows.append({"name": "sum", "seconds": whole, "share": 1.0, "moved": moved, "least": least, "flops": flops})
    return whole, rows


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    with sides.worker(OURS, options) as worker:
        whole, rows = worker.call("comparison.passes:measure", BATCH, STEPS)
    title = f"A ResNet-20 step of batch {BATCH}, {duration(whole)}: the lower quartile of {STEPS}"
    table = report.table(title, COLUMNS, [row["name"] for row in rows])
    for row in rows:
        table.add(**row)
