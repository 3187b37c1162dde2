"""Whole training steps, evaluation, single layers and an optimizer; and the peak memory of a step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from comparison import peer
from comparison.isolated import peak_of
from comparison.memory import COLUMNS as MEMORY_COLUMNS
from comparison.memory import add_row
from comparison.peak import Peak
from comparison.peer import torch
from comparison.report import NAME, OURS, Column, Report, timing_row
from fastcnn import models, nn, optim
from fastcnn.benchmark import channels_last, check_equal, duration
from fastcnn.training import Trainer

if torch is not None:
    from comparison.networks import twin

ORDERS = ("contiguous", "channels-last")
OPTIMIZERS = ("foreach", "fused")
COMPILED = "compiled"
RATE, MOMENTUM = 0.01, 0.9
# Largest difference of losses or results in three calls, relative to the largest element.
TOLERANCE = 1e-3
# Seconds of a trial between PyTorch's settings.
TRIAL = 0.5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, fastcnn's side, and a function of the options that returns PyTorch's sides."""

    name: str
    ours: Callable[[], Call]
    theirs: Callable[[argparse.Namespace], dict[str, Call]]


def _normal(*size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(size, np.float32)


def _targets(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 10, count)


def _variants(make: Callable[[str, bool], Call], options: argparse.Namespace) -> dict[str, Call]:
    """PyTorch in both memory orders, and the faster of them compiled; `make` takes order and whether to compile."""
    sides = {order: make(order, False) for order in ORDERS}
    if not options.no_compile:
        order = options.time({order: make(order, False) for order in ORDERS}, TRIAL).fastest(ORDERS)
        torch.compiler.reset()
        sides[f"{order}, {COMPILED}"] = make(order, True)
    return sides


def _ordered(network: Any, order: str) -> Any:
    return network.to(memory_format=torch.channels_last) if order == "channels-last" else network


def _compiled(network: Any, compile: bool) -> Any:
    return torch.compile(network, dynamic=False) if compile else network


# --- training steps -------------------------------------------------------------------------------------------------


def _our_step(build: Callable[..., nn.Module], size: tuple[int, ...]) -> Call:
    model = build(rng=np.random.default_rng(0))
    trainer = Trainer(model, optim.SGD(model.parameters(), RATE, MOMENTUM))
    inputs, targets = channels_last(_normal(*size)), _targets(size[0])
    return lambda: trainer.step(inputs, targets)


def torch_step(
    build: Callable[..., nn.Module], size: tuple[int, ...], optimizer: str, order: str, compile: bool
) -> Call:
    network = _ordered(twin(build(rng=np.random.default_rng(0))), order)
    sgd = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, **{optimizer: True})
    inputs, targets = peer.tensor(_normal(*size), order == "channels-last"), torch.from_numpy(_targets(size[0]))
    model = _compiled(network, compile)

    def step() -> Any:
        sgd.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        sgd.step()
        return loss.detach()

    return step


def _training(name: str, build: Callable[..., nn.Module], size: tuple[int, ...]) -> Row:
    def theirs(options: argparse.Namespace) -> dict[str, Call]:
        trial = {kind: torch_step(build, size, kind, "contiguous", False) for kind in OPTIMIZERS}
        optimizer = options.time(trial, TRIAL).fastest(OPTIMIZERS)
        sides = _variants(partial(torch_step, build, size, optimizer), options)
        return {f"{side}, {optimizer}": call for side, call in sides.items()}

    return Row(f"{name} step, batch {size[0]}", partial(_our_step, build, size), theirs)


def mobilenet_small(num_classes: int = 10, *, rng: np.random.Generator) -> nn.Sequential:
    """A network of depthwise-separable convolutions, in the manner of MobileNet, for 32x32 images.

    References
    ----------
    A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.
    """

    def convolution(c: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=groups, bias=False, rng=rng)
        return [layer, nn.BatchNorm2d(o), nn.ReLU()]

    layers, channels = convolution(3, 32, 3), 32
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers += convolution(channels, channels, 3, stride, channels) + convolution(channels, width, 1)
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes, rng=rng))


# --- evaluation -----------------------------------------------------------------------------------------------------


def _our_evaluation(build: Callable[..., nn.Module], size: tuple[int, ...]) -> Call:
    model, inputs = build(rng=np.random.default_rng(0)).eval(), channels_last(_normal(*size))

    def evaluate() -> np.ndarray:
        with nn.no_grad():
            return model(inputs)

    return evaluate


def _torch_evaluation(build: Callable[..., nn.Module], size: tuple[int, ...], order: str, compile: bool) -> Call:
    network = _ordered(twin(build(rng=np.random.default_rng(0)).eval()), order)
    inputs, model = peer.tensor(_normal(*size), order == "channels-last"), _compiled(network, compile)

    def evaluate() -> Any:
        with torch.inference_mode():
            return model(inputs)

    return evaluate


def _evaluation(name: str, build: Callable[..., nn.Module], size: tuple[int, ...]) -> Row:
    return Row(
        f"{name} evaluation, batch {size[0]}",
        partial(_our_evaluation, build, size),
        partial(_variants, partial(_torch_evaluation, build, size)),
    )


# --- layers ---------------------------------------------------------------------------------------------------------


def _our_layer(build: Callable[[], nn.Module], size: tuple[int, ...]) -> Call:
    layer, inputs = build(), channels_last(_normal(*size))
    grad = channels_last(_normal(*layer(inputs).shape))

    def run() -> tuple[np.ndarray, ...]:
        layer.zero_grad()
        return layer(inputs), layer.backward(grad), *(parameter.grad for parameter in layer.parameters())

    return run


def _torch_layer(build: Callable[[], nn.Module], size: tuple[int, ...], order: str, compile: bool) -> Call:
    last = order == "channels-last"
    network = twin(build())
    inputs = peer.tensor(_normal(*size), last).requires_grad_()
    grad = peer.tensor(_normal(*network(inputs).shape), last)
    wanted, model = (inputs, *network.parameters()), _compiled(network, compile)

    def run() -> tuple[Any, ...]:
        output = model(inputs)
        return output, *torch.autograd.grad(output, wanted, grad)

    return run


def _layer(name: str, build: Callable[[], nn.Module], size: tuple[int, ...]) -> Row:
    return Row(
        f"{name} forward and backward, {'x'.join(map(str, size))}",
        partial(_our_layer, build, size),
        partial(_variants, partial(_torch_layer, build, size)),
    )


# --- optimizer ------------------------------------------------------------------------------------------------------


def _tensors() -> list[np.ndarray]:
    """A million numbers in 60 arrays, as unequal as those of a network."""
    sizes = np.geomspace(16, 160_000, 60)
    return [_normal(int(size)) for size in np.ceil(sizes * (1e6 / sizes.sum()))]


def _our_adam() -> Call:
    parameters = [nn.Parameter(array) for array in _tensors()]
    adam = optim.Adam(parameters, 1e-3)
    for parameter in parameters:
        parameter.grad = parameter.data / 8
    learnt = tuple(parameter.data for parameter in parameters)

    def step() -> tuple[np.ndarray, ...]:
        adam.step()
        return learnt

    return step


def _torch_adam(options: argparse.Namespace) -> dict[str, Call]:
    def make(kind: str) -> Call:
        parameters = tuple(torch.from_numpy(array).requires_grad_() for array in _tensors())
        adam = torch.optim.Adam(parameters, 1e-3, **{kind: True})
        for parameter in parameters:
            parameter.grad = parameter.detach() / 8

        def step() -> tuple[Any, ...]:
            adam.step()
            return parameters

        return step

    return {kind: make(kind) for kind in OPTIMIZERS}


# --- the table ------------------------------------------------------------------------------------------------------


def _norm_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


ROWS = [
    *(_training("LeNet-5", models.lenet5, (batch, 1, 28, 28)) for batch in (1, 8, 32, 128, 512)),
    *(_training("ResNet-20", models.resnet20, (batch, 3, 32, 32)) for batch in (32, 128)),
    _training("VGG-small", models.vgg_small, (64, 3, 32, 32)),
    _training("depthwise-separable net", mobilenet_small, (64, 3, 32, 32)),
    _evaluation("LeNet-5", models.lenet5, (1, 1, 28, 28)),
    _evaluation("ResNet-20", models.resnet20, (128, 3, 32, 32)),
    _layer("max-pool 2x2", partial(nn.MaxPool2d, 2), (128, 16, 32, 32)),
    _layer("max-pool 3x3 /2", partial(nn.MaxPool2d, 3, 2, 1), (8, 64, 112, 112)),
    _layer("batch norm and ReLU", partial(_norm_relu, 16), (128, 16, 32, 32)),
    _layer("batch norm and ReLU", partial(_norm_relu, 64), (8, 64, 56, 56)),
    Row("Adam, 1 million parameters in 60 tensors", _our_adam, _torch_adam),
]
MEMORY = ("ResNet-20 step, batch 128", models.resnet20, (128, 3, 32, 32))


def _results(call: Call) -> tuple[np.ndarray, ...]:
    """What three calls return, one after another."""
    found: list[np.ndarray] = []
    for _ in range(3):
        result = call()
        found += [peer.numpy(value).copy() for value in (result if isinstance(result, tuple) else (result,))]
    return tuple(found)


def _compared(name: str, sides: dict[str, Call]) -> dict[str, Call]:
    """Return the sides without one that does not compile; ComparisonError unless three calls of all return the same."""
    expected, good = _results(sides["fastcnn"]), {}
    for side, call in sides.items():
        if side == "fastcnn":
            good[side] = call
            continue
        try:
            results = _results(call)
        except Exception as error:  # any of the compiler's, or of the C++ compiler that it calls
            if COMPILED not in side:
                raise
            print(f"{name}: torch.compile failed: {str(error).strip().splitlines()[0]}")
        else:
            check_equal(f"{name}, {side}", results, expected, TOLERANCE)
            good[side] = call
    return good


def _step_memory(step: tuple[Callable[..., nn.Module], tuple[int, ...]], side: str, threads: int) -> int:
    """Peak of a training step over what model, optimizer and batch take."""
    peer.set_threads(threads)
    build, size = step
    make = _our_step if side == "fastcnn" else partial(torch_step, optimizer="fused", order=side, compile=False)
    make(build, (1, *size[1:]))()  # loads what is loaded at the first call
    call = make(build, size)
    return peak_of(lambda: [call() for _ in range(3)])


def run(options: argparse.Namespace, report: Report) -> None:
    """Print both tables."""
    chosen = [row for row in ROWS if options.filter.lower() in row.name.lower()]
    if chosen:
        _time(chosen, options, report)
    name, *step = MEMORY
    if options.filter.lower() in f"memory {name}".lower():
        table = report.table("Peak memory over that of model, optimizer and batch", MEMORY_COLUMNS, [name])
        add_row(table, name, _step_memory, step, options.threads)


def _time(rows: Sequence[Row], options: argparse.Namespace, report: Report) -> None:
    table = report.table(
        "Median times of a call; torch: the fastest of its settings; ratio = torch / fastcnn",
        [
            NAME,
            Column("precision", "precision", 9),
            Column("torch", "torch", 9, duration),
            *OURS,
            Column("cores", "cores", 5, "{:.1f}".format),
            Column("best", "torch's fastest setting", -23),
        ],
        [row.name for row in rows],
    )
    peak = Peak()
    for row in rows:
        theirs = {} if torch is None else row.theirs(options)
        sides = _compared(row.name, theirs | {"fastcnn": row.ours()})
        timing, cores = options.time(sides), peak.cores(options.threads)
        figures = timing_row(timing, [side for side in sides if side != "fastcnn"])
        best = figures.get(figures.get("best"))
        table.add(name=row.name, precision=options.precision, torch=best, cores=cores, **figures)
    table.sum_up()
