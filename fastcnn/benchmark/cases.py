"""The computations that fastcnn and NumPy are compared on, and when two results count as equal.

A case is data: the maker that a worker calls, and its arguments. A maker takes the side that it is for and a seed, and
returns a callable without arguments, so that each side can be made in a process of its own from equal inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastcnn import functional, models, optim, reference
from fastcnn.training import Trainer

__all__ = [
    "CASES",
    "SIDES",
    "Case",
    "ComparisonError",
    "channels_last",
    "check_close",
    "check_step",
    "check_sums",
    "reference_functions",
    "select",
]

Call = Callable[[], Any]

SIDES = ("numpy", "fastcnn")
# What rounding may change, for each result: so many units of rounding of the sum of the magnitudes of what was added
# up. The largest difference of any case, with four kernels of OpenBLAS and three instruction sets, was 7.5 units.
ROUNDINGS = 64
# In float64, largest difference of a step's gradients relative to the largest element (1e-15 is usual), and in float32
# the norm of that of all gradients relative to the gradients' norm (5e-3 was the largest of 77 networks and batches):
# where an activation is within rounding of zero, rounding decides whether its gradient passes.
STEP_ERROR, STEP_NORM_ERROR, LOSS_ERROR = 1e-10, 0.05, 1e-5


class ComparisonError(ValueError):
    """The two sides of a case differ, so their times mean nothing."""


@dataclass(frozen=True)
class Case:
    """One computation, to be done by both sides.

    Attributes
    ----------
    group : str
        What is computed.
    shape : str
        On what.
    target : str
        The maker, as ``"module:function"``: of a side's name, a seed and the arguments. Beside the two sides it takes
        ``'magnitude'``, where the results are compared as sums: a callable that returns, for each result, the sum of
        the magnitudes of what is added up. Where they are compared as steps it takes ``'numpy float64'`` and
        ``'fastcnn float64'``.
    arguments : tuple
    compared : {'sums', 'steps'}
        How results are compared: `check_sums` or `check_step`.
    """

    group: str
    shape: str
    target: str
    arguments: tuple[Any, ...] = ()
    compared: str = "sums"

    @property
    def name(self) -> str:
        """Group and shape."""
        return f"{self.group} {self.shape}"

    def compare(self, result: Callable[[str], Any]) -> None:
        """Compare what both sides compute.

        Parameters
        ----------
        result : callable
            Takes a side's name, or one of the others that `target` has; returns what that callable returns.

        Raises
        ------
        ComparisonError
            If they differ.
        """
        expected, got = map(result, SIDES)
        if self.compared == "sums":
            check_sums(self.name, got, expected, result("magnitude"))
        else:
            check_step(self.name, got, expected)
            got, expected = result("fastcnn float64"), result("numpy float64")
            check_close(f"{self.name} in float64", got, expected, STEP_ERROR)


# --- comparison of results ------------------------------------------------------------------------------------------


def _arrays(name: str, *results: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield a name and the arrays of each result that belong together, once numbers and shapes agree."""
    first, *others = [list(value) if isinstance(value, tuple) else [value] for value in results]
    for other in others:
        if len(other) != len(first):
            raise ComparisonError(f"{name}: expected {len(other)} results, got {len(first)}")
    for i, values in enumerate(zip(first, *others, strict=True)):
        arrays = [np.asarray(value, np.float64) for value in values]
        for array in arrays[1:]:
            if array.shape != arrays[0].shape:
                raise ComparisonError(f"{name}, result {i}: expected shape {array.shape}, got {arrays[0].shape}")
        yield f"{name}, result {i}", arrays


def check_sums(name: str, got: Any, expected: Any, magnitudes: Any) -> None:
    """Raise ComparisonError unless two results of float32 arithmetic differ by rounding alone.

    Parameters
    ----------
    name : str
        What to call them.
    got, expected : array_like, or tuple of them
    magnitudes : array_like, or tuple of them
        For each element, the sum of the magnitudes of what was added up: sum of abs(a) * abs(b) for a product of
        matrices. Elements may differ by `ROUNDINGS` units of rounding, 2**-24, of it.
    """
    for part, (g, e, magnitude) in _arrays(name, got, expected, magnitudes):
        with np.errstate(invalid="ignore"):
            excess = np.abs(g - e) - ROUNDINGS * 2.0**-24 * magnitude
        if not (excess <= 0).all():
            at = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
            raise ComparisonError(
                f"{part}: expected a difference of at most {ROUNDINGS} units of rounding of the magnitudes added up, "
                f"{ROUNDINGS * 2.0**-24 * magnitude[at]:.4g}, got {abs(g[at] - e[at]):.4g} at {tuple(map(int, at))}"
            )


def check_close(name: str, got: Any, expected: Any, tolerance: float) -> None:
    """Raise ComparisonError unless results differ by at most `tolerance` of the largest element of each array.

    Parameters
    ----------
    name : str
        What to call them.
    got, expected : array_like, or tuple of them
    tolerance : float
        Largest difference, relative to the largest element of each array of `expected`.
    """
    for part, (g, e) in _arrays(name, got, expected):
        difference, largest = np.abs(g - e).max(initial=0), np.abs(e).max(initial=0)
        if not difference <= tolerance * largest:
            raise ComparisonError(
                f"{part}: expected a difference of at most {tolerance:g} of the largest element, "
                f"{largest:.4g}, got {difference:.4g}"
            )


def check_step(name: str, got: Any, expected: Any) -> None:
    """Raise ComparisonError unless two float32 training steps agree: in the loss, and in the gradients as one vector.

    Parameters
    ----------
    name : str
        What to call them.
    got, expected : tuple of array_like
        The loss, then the gradients.
    """
    (_, loss), *gradients = _arrays(name, got, expected)
    check_close(f"{name}, loss", *loss, LOSS_ERROR)
    difference = np.sqrt(sum(((g - e) ** 2).sum() for _, (g, e) in gradients))
    norm = np.sqrt(sum((e**2).sum() for _, (_, e) in gradients))
    if not difference <= STEP_NORM_ERROR * norm:
        raise ComparisonError(
            f"{name}: expected gradients that differ by at most {STEP_NORM_ERROR:g} of their norm, {norm:.4g}, "
            f"got {difference:.4g}"
        )


# --- makers ---------------------------------------------------------------------------------------------------------


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


def _bound(side: str, name: str, images: Sequence[np.ndarray], *rest: Any, **options: Any) -> Call:
    """Return the function `name` for a side; `images` come first, in the memory order that suits it.

    The magnitudes of a function that is linear in each array are what it returns for the arrays' magnitudes.
    """
    if side == "fastcnn":
        arguments = [channels_last(image) if image.ndim > 2 else image for image in images]
        return partial(getattr(functional, name), *arguments, *rest, **options)
    arguments = [*map(np.ascontiguousarray, images), *rest]
    if side == "magnitude":
        arguments = [abs(value) if isinstance(value, np.ndarray) else value for value in arguments]
    return partial(getattr(reference, name), *arguments, **options)


def convolution(
    side: str, seed: int, which: str, size: tuple[int, ...], outputs: int, kernel: int, options: tuple[Any, ...]
) -> Call:
    """A convolution ``'forward'`` or ``'backward'``; `size` is (N, C, L) or (N, C, H, W), `options` pairs."""
    geometry = dict(options)
    rng, dims = np.random.default_rng(seed), len(size) - 2
    weight_size = (outputs, size[1] // geometry.get("groups", 1)) + (kernel,) * dims
    x, weight, bias = _normal(rng, *size), _normal(rng, *weight_size), _normal(rng, outputs)
    if which == "forward":
        return _bound(side, f"conv{dims}d", [x], weight, bias, **geometry)
    stride, padding = geometry.get("stride", 1), geometry.get("padding", 0)
    output_size = (reference.output_size(extent, kernel, stride, padding) for extent in size[2:])
    grad = _normal(rng, size[0], outputs, *output_size)
    return _bound(side, f"conv{dims}d_backward", [grad, x], weight, **geometry)


def columns(side: str, seed: int, name: str, size: tuple[int, ...], *rest: Any) -> Call:
    """im2col or col2im, whose columns have one order only; C-contiguous images suit it on both sides."""
    array = _normal(np.random.default_rng(seed), *size)
    if side == "magnitude":
        array = abs(array)
    return partial(getattr(functional if side == "fastcnn" else reference, name), array, *rest, 3, padding=1)


def pooling(
    side: str, seed: int, name: str, size: tuple[int, int, int, int], kernel: int, stride: int, padding: int
) -> Call:
    """A function that pools, or the gradient of one."""
    rng, window = np.random.default_rng(seed), (kernel, stride, padding)
    x = _normal(rng, *size)
    grad = _normal(rng, *size[:2], *(reference.output_size(extent, *window) for extent in size[2:]))
    if name == "max_pool2d_backward":
        indices = reference.max_pool2d(x, *window, return_indices=True)[1]
        return _bound(side, name, [grad, indices], size)
    if name == "avg_pool2d_backward":
        return _bound(side, name, [grad], size, *window)
    options = {"return_indices": True} if name == "max_pool2d" else {}
    return _bound(side, name, [x], *window, **options)


def max_pooling_step(side: str, seed: int, by: str, size: tuple[int, int, int, int], *window: int) -> Call:
    """Max-pooling and its gradient, ``by`` indices in the plane or taps of the window."""
    rng = np.random.default_rng(seed)
    x = _normal(rng, *size)
    grad = _normal(rng, *size[:2], *(reference.output_size(extent, *window) for extent in size[2:]))
    module = functional if side == "fastcnn" else reference
    if side == "fastcnn":
        x, grad = channels_last(x), channels_last(grad)

    def by_indices(grad: np.ndarray = grad) -> tuple[np.ndarray, np.ndarray]:
        output, indices = module.max_pool2d(x, *window, return_indices=True)
        return output, module.max_pool2d_backward(grad, indices, size)

    def by_taps(grad: np.ndarray = grad) -> tuple[np.ndarray, np.ndarray]:
        output, taps = module.max_pool2d_taps(x, *window)
        return output, module.max_pool2d_taps_backward(grad, taps, size, *window)

    call = {"indices": by_indices, "taps": by_taps}[by]
    return call if side != "magnitude" else lambda: tuple(map(abs, call(abs(grad))))


def norm(side: str, seed: int) -> Call:
    """Batch norm in training."""
    rng = np.random.default_rng(seed)
    x, weight, bias, mean = _normal(rng, 128, 16, 32, 32), *(_normal(rng, 16) for _ in range(3))
    if side != "magnitude":
        return _bound(side, "batch_norm", [x], mean, np.ones(16, np.float32), weight, bias, training=True)
    return lambda: _norm_magnitude(x) * _column(abs(weight)) + _column(abs(bias))


def norm_backward(side: str, seed: int) -> Call:
    """The gradients of batch norm."""
    rng = np.random.default_rng(seed)
    grad, x = (_normal(rng, 128, 16, 32, 32) for _ in range(2))
    weight = _normal(rng, 16)
    _, mean, invstd = reference.batch_norm(x, None, None, training=True, return_saved=True)
    if side != "magnitude":
        return _bound(side, "batch_norm_backward", [grad, x], weight, mean, invstd)

    def magnitude() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dy, normal = abs(grad), _norm_magnitude(x)
        axes, count = (0, 2, 3), x.size / 16
        of_weight, of_bias = (dy * normal).sum(axes), dy.sum(axes)
        inner = dy + _column(of_bias / count) + normal * _column(of_weight / count)
        return _column(abs(weight) * invstd) * inner, of_weight, of_bias

    return magnitude


def _column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1)


def _norm_magnitude(x: np.ndarray) -> np.ndarray:
    """Magnitudes of what is added up for a normalised value: the value, and the mean of all."""
    return (abs(x) + abs(x).mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)


def relu(side: str, seed: int) -> Call:
    """ReLU."""
    return _bound(side, "relu", [_normal(np.random.default_rng(seed), 128, 16, 32, 32)])


def relu_backward(side: str, seed: int) -> Call:
    """The gradient of ReLU."""
    rng = np.random.default_rng(seed)
    output = reference.relu(_normal(rng, 128, 16, 32, 32))
    return _bound(side, "relu_backward", [_normal(rng, *output.shape), output])


def linear(side: str, seed: int) -> Call:
    """A matrix product with a bias."""
    rng = np.random.default_rng(seed)
    return _bound(side, "linear", [_normal(rng, 128, 400)], _normal(rng, 120, 400), _normal(rng, 120))


def linear_backward(side: str, seed: int) -> Call:
    """The gradients of a matrix product with a bias."""
    rng = np.random.default_rng(seed)
    return _bound(side, "linear_backward", [_normal(rng, 128, 120), _normal(rng, 128, 400)], _normal(rng, 120, 400))


def cross_entropy(side: str, seed: int) -> Call:
    """Cross-entropy and its gradient."""
    rng = np.random.default_rng(seed)
    scores, targets = _normal(rng, 128, 100), rng.integers(0, 100, 128)
    if side != "magnitude":
        return _bound(side, "cross_entropy", [scores], targets)

    def magnitude() -> tuple[np.ndarray, np.ndarray]:
        # A score's rounding is relative to the score, and that of its exponential to the exponential.
        largest = abs(scores).max(1, keepdims=True)
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        loss = (2 * largest + np.log(100)).mean()
        return loss, (shares * (1 + 2 * largest) + np.eye(100)[targets]) / 128

    return magnitude


def step(side: str, seed: int, name: str, size: tuple[int, ...]) -> Call:
    """A training step by SGD with momentum; NumPy's side has the same layers with NumPy under them."""
    rng = np.random.default_rng(seed)
    inputs, targets = _normal(rng, *size), rng.integers(0, 10, size[0])
    side, _, dtype = side.partition(" ")
    inputs = inputs.astype(dtype or np.float32)
    model = getattr(models, name)(rng=np.random.default_rng(seed), dtype=inputs.dtype)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, momentum=0.9))
    learnt = [parameter.grad for parameter in model.parameters()]
    if side == "fastcnn":
        batch = channels_last(inputs)
        return lambda: (trainer.step(batch, targets), *learnt)

    def by_numpy() -> tuple[Any, ...]:
        with reference_functions():
            return trainer.step(inputs, targets), *learnt

    return by_numpy


# --- the table ------------------------------------------------------------------------------------------------------


def _case(group: str, shape: str, maker: Callable[..., Call], *arguments: Any, compared: str = "sums") -> Case:
    return Case(group, shape, f"{__name__}:{maker.__name__}", arguments, compared)


def _text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _convolution(size: tuple[int, ...], outputs: int, kernel: int, **geometry: int) -> list[Case]:
    dims = len(size) - 2
    words = [f"{outputs} of {'x'.join([str(kernel)] * dims)}", *(f"{name} {n}" for name, n in geometry.items())]
    shape = f"{_text(size)}, {', '.join(words)}"
    return [
        _case(f"conv{dims}d{suffix}", shape, convolution, which, size, outputs, kernel, tuple(geometry.items()))
        for which, suffix in (("forward", ""), ("backward", "_backward"))
    ]


def _pooling(size: tuple[int, int, int, int], *window: int) -> list[Case]:
    kernel, stride, padding = window
    shape = f"{_text(size)}, {kernel}x{kernel}, stride {stride}, padding {padding}"
    return [
        _case("max_pool2d", shape, pooling, "max_pool2d", size, *window),
        _case("max_pool2d_backward", shape, pooling, "max_pool2d_backward", size, *window),
        _case("max_pool2d and backward", shape, max_pooling_step, "indices", size, *window),
        _case("max_pool2d_taps and backward", shape, max_pooling_step, "taps", size, *window),
        _case("avg_pool2d", shape, pooling, "avg_pool2d", size, *window),
        _case("avg_pool2d_backward", shape, pooling, "avg_pool2d_backward", size, *window),
    ]


def _step(group: str, name: str, size: tuple[int, ...]) -> Case:
    return _case(group, f"batch {size[0]}", step, name, size, compared="steps")


COLUMNS_SHAPE = "32x16x32x32, 3x3, padding 1"
CASES = [
    *_convolution((128, 16, 32, 32), 16, 3, padding=1),
    *_convolution((64, 1, 28, 28), 6, 5, padding=2),
    *_convolution((64, 16, 32, 32), 32, 3, stride=2, padding=1),
    *_convolution((8, 64, 28, 28), 128, 1),
    *_convolution((8, 96, 28, 28), 96, 3, padding=1, groups=96),
    *_convolution((32, 16, 500), 32, 9, padding=4),
    _case("im2col", COLUMNS_SHAPE, columns, "im2col", (32, 16, 32, 32)),
    _case("col2im", COLUMNS_SHAPE, columns, "col2im", (32, 16 * 9, 32 * 32), (32, 32)),
    *_pooling((128, 16, 32, 32), 2, 2, 0),
    *_pooling((8, 32, 56, 56), 3, 2, 1),
    _case("batch_norm", "128x16x32x32", norm),
    _case("batch_norm_backward", "128x16x32x32", norm_backward),
    _case("relu", "128x16x32x32", relu),
    _case("relu_backward", "128x16x32x32", relu_backward),
    _case("linear", "128x400, 120", linear),
    _case("linear_backward", "128x400, 120", linear_backward),
    _case("cross_entropy", "128x100", cross_entropy),
    _step("LeNet-5 step", "lenet5", (32, 1, 28, 28)),
    _step("LeNet-5 step", "lenet5", (128, 1, 28, 28)),
    _step("ResNet-20 step", "resnet20", (8, 3, 32, 32)),
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
