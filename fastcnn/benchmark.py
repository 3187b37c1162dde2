"""One table of cases, each a computation by NumPy and by fastcnn, and a timer that treats both sides alike.

`fastcnn bench` prints the table, the files in ``benchmarks/`` run the same cases under pytest-benchmark. No case is
timed before the results of its two sides were compared.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastcnn import functional, models, optim, reference
from fastcnn.config import show_config
from fastcnn.nn import Module
from fastcnn.training import Trainer

__all__ = [
    "CASES",
    "Case",
    "ComparisonError",
    "Timing",
    "channels_last",
    "check_equal",
    "interleave",
    "machine",
    "reference_functions",
    "report",
    "select",
]

Sides = dict[str, Callable[[], Any]]

# How long the threads of another library may keep a core busy after its last call: libgomp's were seen to wait actively
# for 3 ms; OpenBLAS's do so for 2**26 cycles, and after a pause of 30 ms still disturbed what came next.
SETTLE = 0.1


class ComparisonError(ValueError):
    """The two sides of a case differ, so their times mean nothing."""


# --- cases ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One computation, to be done by both sides.

    Attributes
    ----------
    group : str
        What is computed.
    shape : str
        On what.
    make : callable
        Takes a `numpy.random.Generator`, returns ``{'reference': callable, 'fastcnn': callable}``. Both compute the
        same from inputs of their own, in the memory order that is best for them.
    tolerance : float
        Largest difference of the results, relative to the largest element.
    heavy : bool
        Whether a call of the reference takes longer than a second.
    """

    group: str
    shape: str
    make: Callable[[np.random.Generator], Sides]
    tolerance: float = 1e-4
    heavy: bool = False

    @property
    def name(self) -> str:
        """Group and shape."""
        return f"{self.group} {self.shape}"

    def sides(self, seed: int = 0) -> Sides:
        """Return the two callables, after comparing what they return.

        Raises
        ------
        ComparisonError
            If the results differ.
        """
        sides = self.make(np.random.default_rng(seed))
        check_equal(self.name, sides["fastcnn"](), sides["reference"](), self.tolerance)
        return sides


def check_equal(name: str, got: Any, expected: Any, tolerance: float) -> None:
    """Raise ComparisonError unless two results are as good as equal.

    Parameters
    ----------
    name : str
        What to call them.
    got, expected : array_like, or sequence of them
    tolerance : float
        Largest difference, relative to the largest element of each array of `expected`.
    """
    got, expected = (list(value) if isinstance(value, tuple) else [value] for value in (got, expected))
    if len(got) != len(expected):
        raise ComparisonError(f"{name}: expected {len(expected)} results, got {len(got)}")
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        g, e = np.asarray(g, np.float64), np.asarray(e, np.float64)
        if g.shape != e.shape:
            raise ComparisonError(f"{name}, result {i}: expected shape {e.shape}, got {g.shape}")
        difference, largest = np.abs(g - e).max(initial=0), np.abs(e).max(initial=0)
        if not difference <= tolerance * largest:
            raise ComparisonError(
                f"{name}, result {i}: expected a difference of at most {tolerance:g} of the largest element, "
                f"{largest:.4g}, got {difference:.4g}"
            )


def channels_last(array: np.ndarray) -> np.ndarray:
    """Return an array (N, C, ...) whose memory has the channels last.

    Examples
    --------
    >>> channels_last(np.zeros((2, 3, 4, 5), np.float32)).strides
    (240, 4, 60, 12)
    """
    last = np.moveaxis(array, 1, -1)
    # A new array, as with one channel NumPy calls either order contiguous and keeps the strides there are.
    return np.moveaxis(np.array(last, order="C").reshape(last.shape), -1, 1)


@contextlib.contextmanager
def reference_functions() -> Iterator[None]:
    """Within this context, layers, losses and optimizers compute with `fastcnn.reference`.

    It holds for the whole process, so nothing else should run a model meanwhile.

    Examples
    --------
    >>> from fastcnn import nn
    >>> with reference_functions():
    ...     nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    before = {name: getattr(functional, name) for name in functional.__all__ if hasattr(reference, name)}
    vars(functional).update({name: getattr(reference, name) for name in before})
    try:
        yield
    finally:
        vars(functional).update(before)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _both(name: str, images: Sequence[np.ndarray], *rest: Any, **options: Any) -> Sides:
    """Return the function `name` of both modules; `images` come first, in the memory order that suits each."""

    def bind(module: Any, order: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Any]:
        arguments = [order(image) for image in images]
        # Copies, because running statistics and the like are updated in place.
        arguments += [value.copy() if isinstance(value, np.ndarray) else value for value in rest]
        return partial(getattr(module, name), *arguments, **options)

    return {
        "reference": bind(reference, np.ascontiguousarray),
        "fastcnn": bind(functional, lambda image: channels_last(image) if image.ndim > 2 else image),
    }


def _convolution(size: tuple[int, ...], outputs: int, kernel: int, **geometry: int) -> list[Case]:
    """Cases of a convolution forward and backward; `size` is (N, C, L) or (N, C, H, W)."""
    dims = len(size) - 2
    weight_size = (outputs, size[1] // geometry.get("groups", 1)) + (kernel,) * dims

    def forward(rng: np.random.Generator) -> Sides:
        x, weight, bias = _normal(rng, *size), _normal(rng, *weight_size), _normal(rng, outputs)
        return _both(f"conv{dims}d", [x], weight, bias, **geometry)

    def backward(rng: np.random.Generator) -> Sides:
        x, weight = _normal(rng, *size), _normal(rng, *weight_size)
        stride, padding = geometry.get("stride", 1), geometry.get("padding", 0)
        places = (reference.output_size(extent, kernel, stride, padding) for extent in size[2:])
        grad = _normal(rng, size[0], outputs, *places)
        return _both(f"conv{dims}d_backward", [grad, x], weight, **geometry)

    words = [f"{outputs} of {'x'.join([str(kernel)] * dims)}", *(f"{name} {n}" for name, n in geometry.items())]
    shape = f"{_text(size)}, {', '.join(words)}"
    return [Case(f"conv{dims}d", shape, forward), Case(f"conv{dims}d_backward", shape, backward)]


def _text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _columns(name: str, size: tuple[int, ...], *rest: Any) -> Case:
    """Case of im2col or col2im, whose columns have one order only; C-contiguous images suit it on both sides."""

    def make(rng: np.random.Generator) -> Sides:
        array = _normal(rng, *size)
        modules = {"reference": reference, "fastcnn": functional}
        return {side: partial(getattr(module, name), array, *rest, 3, padding=1) for side, module in modules.items()}

    return Case(name, "32x16x32x32, 3x3, padding 1", make)


def _pooling(size: tuple[int, int, int, int], kernel: int, stride: int, padding: int) -> list[Case]:
    """Cases of max-pooling and average pooling."""
    window = (kernel, stride, padding)
    out = tuple(reference.output_size(extent, *window) for extent in size[2:])

    def forward(rng: np.random.Generator) -> Sides:
        return _both("max_pool2d", [_normal(rng, *size)], *window, return_indices=True)

    def backward(rng: np.random.Generator) -> Sides:
        _, indices = reference.max_pool2d(_normal(rng, *size), *window, return_indices=True)
        return _both("max_pool2d_backward", [_normal(rng, *size[:2], *out), indices], size)

    def by_indices(module: Any, image: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output, indices = module.max_pool2d(image, *window, return_indices=True)
        return output, module.max_pool2d_backward(grad, indices, size)

    def by_taps(module: Any, image: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output, taps = module.max_pool2d_taps(image, *window)
        return output, module.max_pool2d_taps_backward(grad, taps, size, *window)

    def both(way: Callable[..., Any], rng: np.random.Generator) -> Sides:
        x, grad = _normal(rng, *size), _normal(rng, *size[:2], *out)
        return {
            "reference": partial(way, reference, x, grad),
            "fastcnn": partial(way, functional, channels_last(x), channels_last(grad)),
        }

    def average(rng: np.random.Generator) -> Sides:
        return _both("avg_pool2d", [_normal(rng, *size)], *window)

    def average_backward(rng: np.random.Generator) -> Sides:
        return _both("avg_pool2d_backward", [_normal(rng, *size[:2], *out)], size, *window)

    shape = f"{_text(size)}, {kernel}x{kernel}, stride {stride}, padding {padding}"
    return [
        Case("max_pool2d", shape, forward),
        Case("max_pool2d_backward", shape, backward),
        Case("max_pool2d and backward", shape, partial(both, by_indices)),
        Case("max_pool2d_taps and backward", shape, partial(both, by_taps)),
        Case("avg_pool2d", shape, average),
        Case("avg_pool2d_backward", shape, average_backward),
    ]


def _batch_norm(rng: np.random.Generator) -> Sides:
    x, weight, bias, mean = _normal(rng, 128, 16, 32, 32), *(_normal(rng, 16) for _ in range(3))
    return _both("batch_norm", [x], mean, np.ones(16, np.float32), weight, bias, training=True)


def _batch_norm_backward(rng: np.random.Generator) -> Sides:
    grad, x = (_normal(rng, 128, 16, 32, 32) for _ in range(2))
    _, mean, invstd = reference.batch_norm(x, None, None, training=True, return_saved=True)
    return _both("batch_norm_backward", [grad, x], _normal(rng, 16), mean, invstd)


def _relu(rng: np.random.Generator) -> Sides:
    return _both("relu", [_normal(rng, 128, 16, 32, 32)])


def _relu_backward(rng: np.random.Generator) -> Sides:
    output = reference.relu(_normal(rng, 128, 16, 32, 32))
    return _both("relu_backward", [_normal(rng, *output.shape), output])


def _linear(rng: np.random.Generator) -> Sides:
    return _both("linear", [_normal(rng, 128, 400)], _normal(rng, 120, 400), _normal(rng, 120))


def _linear_backward(rng: np.random.Generator) -> Sides:
    return _both("linear_backward", [_normal(rng, 128, 120), _normal(rng, 128, 400)], _normal(rng, 120, 400))


def _cross_entropy(rng: np.random.Generator) -> Sides:
    return _both("cross_entropy", [_normal(rng, 128, 100)], rng.integers(0, 100, 128))


def _step(name: str, build: Callable[..., Module], size: tuple[int, ...], **options: Any) -> Case:
    """Case of a training step by SGD with momentum; the reference side has the same layers with NumPy under them.

    Loss, gradients and weights are compared. Their tolerance is wide because, where an activation is all but zero,
    rounding decides whether its gradient passes: one such place changed a gradient of ResNet-20 by 1 %.
    """

    def make(rng: np.random.Generator) -> Sides:
        inputs, targets = _normal(rng, *size), rng.integers(0, 10, size[0])
        seed = int(rng.integers(2**32))

        def bind(batch: np.ndarray) -> Callable[[], Any]:
            model = build(rng=np.random.default_rng(seed))
            trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, momentum=0.9))
            learnt = [array for parameter in model.parameters() for array in (parameter.grad, parameter.data)]
            return lambda: (trainer.step(batch, targets), *learnt)

        plain, ours = bind(inputs), bind(channels_last(inputs))

        def numpy_step() -> Any:
            with reference_functions():
                return plain()

        return {"reference": numpy_step, "fastcnn": ours}

    return Case(name, f"batch {size[0]}", make, tolerance=0.03, **options)


CASES = [
    *_convolution((128, 16, 32, 32), 16, 3, padding=1),
    *_convolution((64, 1, 28, 28), 6, 5, padding=2),
    *_convolution((64, 16, 32, 32), 32, 3, stride=2, padding=1),
    *_convolution((8, 64, 28, 28), 128, 1),
    *_convolution((8, 96, 28, 28), 96, 3, padding=1, groups=96),
    *_convolution((32, 16, 500), 32, 9, padding=4),
    _columns("im2col", (32, 16, 32, 32)),
    _columns("col2im", (32, 16 * 9, 32 * 32), (32, 32)),
    *_pooling((128, 16, 32, 32), 2, 2, 0),
    *_pooling((8, 32, 56, 56), 3, 2, 1),
    Case("batch_norm", "128x16x32x32", _batch_norm),
    Case("batch_norm_backward", "128x16x32x32", _batch_norm_backward),
    Case("relu", "128x16x32x32", _relu),
    Case("relu_backward", "128x16x32x32", _relu_backward),
    Case("linear", "128x400, 120", _linear),
    Case("linear_backward", "128x400, 120", _linear_backward),
    Case("cross_entropy", "128x100", _cross_entropy),
    _step("LeNet-5 step", models.lenet5, (32, 1, 28, 28)),
    _step("LeNet-5 step", models.lenet5, (128, 1, 28, 28)),
    _step("ResNet-20 step", models.resnet20, (8, 3, 32, 32), heavy=True),
]


def select(filter: str = "") -> list[Case]:
    """Return the cases whose name contains `filter`, in upper or lower case.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> [case.name for case in select("resnet")]
    ['ResNet-20 step batch 8']
    """
    found = [case for case in CASES if filter.lower() in case.name.lower()]
    if not found:
        groups = ", ".join(dict.fromkeys(case.group for case in CASES))
        raise ValueError(f"filter: expected part of a case's name, such as {groups}; got {filter!r}")
    return found


# --- timing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds that one call took, for each side and round.

    Attributes
    ----------
    seconds : dict of str to list of float
        By side; element i of every list is from round i.
    """

    seconds: Mapping[str, Sequence[float]]

    @property
    def rounds(self) -> int:
        """How often each side was timed."""
        return len(next(iter(self.seconds.values())))

    def median(self, side: str) -> float:
        """Median of the seconds of one side."""
        return statistics.median(self.seconds[side])

    def fastest(self, sides: Sequence[str]) -> str:
        """Return the one of `sides` with the least median."""
        return min(sides, key=self.median)

    def ratios(self, side: str, base: str) -> tuple[float, float, float]:
        """Quartiles of the ratios, round by round, of the times of `side` and `base`.

        Examples
        --------
        >>> Timing({"slow": [4.0, 6.0, 16.0], "fast": [2.0, 2.0, 2.0]}).ratios("slow", "fast")
        (2.5, 3.0, 5.5)
        """
        ratios = [s / b for s, b in zip(self.seconds[side], self.seconds[base], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


def interleave(
    functions: Mapping[str, Callable[[], Any]],
    seconds: float = 1.0,
    *,
    block: float = 0.01,
    least: int = 3,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Timing:
    """Time functions in turns, so that whatever else the machine does falls on all of them alike.

    A round gives every function one turn, in an order that is reversed from round to round. A turn is a pause, until
    the threads of the function before it sleep; a block of calls that is not timed; and one that is.

    Parameters
    ----------
    functions : mapping of str to callable
        What to time, by name.
    seconds : float
        Begin no further round after this time; warm-up does not count.
    block : float
        Seconds of calls in a turn; a function that takes longer is called once.
    least : int
        Rounds that are made however long they take.
    settle : float
        Seconds of the pause.
    clock, sleep : callable
        What measures and spends time.

    Returns
    -------
    Timing

    Examples
    --------
    >>> timing = interleave({"a": lambda: sum(range(1000)), "b": lambda: sum(range(10))}, 0.01, block=1e-4, settle=0)
    >>> timing.ratios("a", "b")[1] > 1
    True
    """

    def turn(function: Callable[[], Any], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            function()
        return (clock() - start) / calls

    def calls_for(function: Callable[[], Any]) -> int:
        """Warm up, and count the calls that fill a block."""
        function()
        calls = 1
        while (took := turn(function, calls)) * calls < block / 2:
            calls *= 2
        return max(1, round(block / took))

    calls = {name: calls_for(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        while len(times[order[0]]) < least or clock() - start < seconds:
            for name in order:
                sleep(settle)
                turn(functions[name], calls[name])
                times[name].append(turn(functions[name], calls[name]))
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return Timing(times)


# --- report ---------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """Return what a timing depends on: processor, versions, threads, instruction set."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        **show_config(mode="dicts"),
        "NumPy's products": _blas(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    """Which library NumPy's matrix products call, and with how many threads."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{found['name']} {found['version']}"
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        counts = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        if counts:
            return f"{name}, threads: {max(counts)}"
    return f"{name}, as many threads as it chooses"


@contextlib.contextmanager
def _blas_threads(count: int) -> Iterator[None]:
    """Limit the threads of NumPy's matrix products, where threadpoolctl is installed to do so."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(count, user_api="blas"):
        yield


def report(cases: Sequence[Case], seconds: float, threads: int, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Compare and time cases, and print a line for each as it is done.

    Parameters
    ----------
    cases : sequence of Case
    seconds : float
        Time for each case.
    threads : int
        Threads of NumPy's matrix products, which should be as many as fastcnn has.
    show : callable
        What to do with a line of text.

    Returns
    -------
    dict
        ``'machine'``, and ``'cases'``: a list of dicts with group, shape, median seconds, ratio and its quartiles,
        and the number of rounds.

    Raises
    ------
    ComparisonError
        If the two sides of a case differ.
    """
    with _blas_threads(threads):
        found = machine()
        width = max(map(len, found))
        for name, value in found.items():
            show(f"{name:{width}}  {value}")
        width = max(len(case.name) for case in cases)
        show(f"\n{'case':{width}}  {'NumPy':>10} {'fastcnn':>10} {'ratio':>7}  {'middle half':^15} {'rounds':>6}")
        rows = []
        for case in cases:
            row = _measure(case, seconds)
            rows.append(row)
            times = f"{duration(row['reference']):>10} {duration(row['fastcnn']):>10}"
            spread = f"{row['low']:6.1f} to {row['high']:<5.1f}"
            show(f"{case.name:{width}}  {times} {row['ratio']:7.1f}  {spread} {row['rounds']:6}")
    return {"machine": found, "cases": rows}


def _measure(case: Case, seconds: float) -> dict[str, Any]:
    timing = interleave(case.sides(), seconds)
    low, ratio, high = timing.ratios("reference", "fastcnn")
    return {
        "group": case.group,
        "shape": case.shape,
        "reference": timing.median("reference"),
        "fastcnn": timing.median("fastcnn"),
        "ratio": ratio,
        "low": low,
        "high": high,
        "rounds": timing.rounds,
    }


def duration(seconds: float) -> str:
    """Return a time as text with three digits.

    Examples
    --------
    >>> duration(0.01234), duration(5.2e-6)
    ('12.3 ms', '5.20 us')
    """
    scale, unit = 1.0, "s"
    if seconds < 1:
        scale, unit = (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "us")
    value = seconds / scale
    digits = max(0, 2 - math.floor(math.log10(max(value, 1))))
    return f"{value:.{digits}f} {unit}"
