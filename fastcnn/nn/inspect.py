"""Looking at networks: a table of the layers, the memory of a step, a check of gradients, a watch on outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._memory import restart_peak, used_bytes
from fastcnn.nn.fusion import Run
from fastcnn.nn.module import Module, Parameter, no_grad
from fastcnn.random import default_generator

__all__ = ["GradientError", "LayerSummary", "Plan", "Summary", "gradcheck", "plan", "summary", "watch"]


@contextmanager
def watch(module: Module, callback: Callable[[str, Module, np.ndarray], None]) -> Iterator[None]:
    """Within this context, call `callback` after the forward pass of each module inside `module`, and of itself.

    Parameters
    ----------
    module : Module
    callback : callable
        Gets the dotted name ('' for `module` itself), the module and its output.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with nn.watch(model, lambda name, layer, output: print(name or "model", output.shape)):
    ...     _ = model(np.ones((1, 2), np.float32))
    0 (1, 3)
    1 (1, 3)
    model (1, 3)
    """

    def watched(name: str, inner: Module, forward: Callable) -> Callable:
        def run(input: np.ndarray) -> np.ndarray:
            output = forward(input)
            callback(name, inner, output)
            return output

        return run

    modules = list(module.named_modules())
    for name, inner in modules:
        inner.forward = watched(name, inner, inner.forward)  # shadows the method of the class
    try:
        yield
    finally:
        for _, inner in modules:
            del inner.forward


class LayerSummary(NamedTuple):
    """One row of a `Summary`; `output_shape` and `output_bytes` are those of one element of the batch."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    output_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `summary` found; ``str`` of it is a table.

    Attributes
    ----------
    rows : list of LayerSummary
        In the order in which the layers ran.
    parameters : int
        Numbers that are learnt; a shared parameter counts once.
    parameter_bytes : int
        Their size; training needs as much again for the gradients, and what the optimizer keeps.
    activation_bytes : int
        Size of all layers' outputs for one element of the batch.
    """

    rows: list[LayerSummary]
    parameters: int
    parameter_bytes: int
    activation_bytes: int

    def __str__(self) -> str:
        head = ("Layer", "Type", "Output shape", "Parameters", "Output bytes")
        cells = [head] + [
            (row.name, row.type, _batch_shape(row.output_shape), f"{row.parameters:,}", f"{row.output_bytes:,}")
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        template = "  ".join(f"{{:{'<' if i < 3 else '>'}{width}}}" for i, width in enumerate(widths))
        lines = [template.format(*row) for row in cells]
        rule = "-" * len(lines[0])
        return "\n".join(
            [
                lines[0],
                rule,
                *lines[1:],
                rule,
                f"Parameters: {self.parameters:,} ({self.parameter_bytes:,} bytes)",
                f"Layer outputs for N = 1: {self.activation_bytes:,} bytes",
            ]
        )


def summary(module: Module, input_shape: tuple[int, ...]) -> Summary:
    """Return a table of the layers: output shapes, parameters and bytes.

    One input of zeros runs through the module in evaluation mode; the module is left as it was. A container that only
    passes on what its layers return has no row.

    Parameters
    ----------
    module : Module
    input_shape : tuple of int
        Shape of one input without the batch axis, such as (1, 28, 28).

    Returns
    -------
    Summary

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, or the module does not take such an input.

    Examples
    --------
    >>> from fastcnn import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    >>> print(nn.summary(model, (1, 4, 4)))
    Layer  Type     Output shape  Parameters  Output bytes
    ------------------------------------------------------
    0      Conv2d   (N, 4, 4, 4)          40           256
    1      ReLU     (N, 4, 4, 4)           0           256
    2      Flatten  (N, 64)                0           256
    3      Linear   (N, 10)              650            40
    ------------------------------------------------------
    Parameters: 690 (2,760 bytes)
    Layer outputs for N = 1: 808 bytes
    """
    _check_module(module)
    if not isinstance(input_shape, (tuple, list)):
        check.fail("input_shape", "a tuple of ints", repr(input_shape), TypeError)
    sizes = tuple(check.integer("input_shape", size, 1) for size in input_shape)
    check.fits("input_shape", sizes)
    parameters = list(module.parameters())
    input = np.zeros((1, *sizes), parameters[0].dtype if parameters else np.float32)
    rows = []
    outputs = []

    def add_row(name: str, layer: Module, output: np.ndarray) -> None:
        own = sum(value.size for value in vars(layer).values() if isinstance(value, Parameter))
        passes_on = any(layer.children()) and any(output is other for other in outputs)
        if own or not passes_on:
            rows.append(LayerSummary(name, type(layer).__name__, output.shape[1:], own, output.nbytes))
            outputs.append(output)

    modes = [(inner, inner.training) for inner in module.modules()]
    try:
        with no_grad(), watch(module, add_row):
            module.eval()(input)
    finally:
        for inner, training in modes:
            inner.training = training
    return Summary(
        rows,
        sum(p.size for p in parameters),
        sum(p.data.nbytes for p in parameters),
        sum(row.output_bytes for row in rows),
    )


@dataclass(frozen=True)
class Plan:
    """What `plan` found, in bytes; ``str`` of it is a table.

    Attributes
    ----------
    activations : int
        What the layers keep from the forward pass for the backward pass; not the input, which is the caller's.
    indices : int
        As much of that as tells where a maximum was or what dropout left, kept as small integers.
    scratch : int
        What a step takes beyond that where it takes most: outputs and gradients on their way from layer to layer, and
        the working memory of the kernels for the number of threads set.
    parameters : int
        Parameters, their gradients, and buffers such as running statistics. The optimizer's state comes on top: SGD
        with momentum as much again as the parameters, Adam twice as much.
    """

    activations: int
    indices: int
    scratch: int
    parameters: int

    @property
    def total(self) -> int:
        """The sum of the four."""
        return self.activations + self.indices + self.scratch + self.parameters

    def __str__(self) -> str:
        names = ("activations", "indices", "scratch", "parameters", "total")
        return "\n".join(f"{name.capitalize():11} {getattr(self, name):>15,} bytes" for name in names)


def plan(module: Module, input_shape: tuple[int, ...]) -> Plan:
    """Return the memory that a training step takes, before there is any data.

    An input of zeros runs through the module in training mode, forward and backward but for the gradient of the input,
    and what is kept and what is in use at most is counted. The module is left as it was, but for what an earlier
    forward pass saved.

    Parameters
    ----------
    module : Module
    input_shape : tuple of int
        Shape of a batch, such as (128, 3, 32, 32).

    Returns
    -------
    Plan

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, or the module does not take such an input.

    Examples
    --------
    >>> from fastcnn import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> found = nn.plan(model, (64, 1, 28, 28))
    >>> found.indices == 64 * 4 * 14 * 14  # one byte for each maximum
    True
    >>> found.parameters == 2 * sum(p.data.nbytes for p in model.parameters())
    True
    """
    _check_module(module)
    if not isinstance(input_shape, (tuple, list)):
        check.fail("input_shape", "a tuple of ints", repr(input_shape), TypeError)
    sizes = tuple(check.integer("input_shape", size, 1) for size in input_shape)
    check.fits("input_shape", sizes)
    parameters = list(module.parameters())
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    input = np.zeros((sizes[0], *sizes[2:], sizes[1]), dtype)  # channels-last, as activations are inside a model
    input = np.moveaxis(input, -1, 1) if len(sizes) > 2 else input.reshape(sizes)
    modes = [(inner, inner.training, inner.needs_input_grad) for inner in module.modules()]
    restore = _state(module)
    try:
        module.train().requires_input_grad(False)
        for parameter in parameters:  # as a step's optimizer does, so that layers write gradients where they belong
            parameter.zero_grad(later=True)
        before, _ = used_bytes()
        restart_peak()
        output = module(input)
        kept = [(array.nbytes, array.dtype.kind == "f") for array in _kept(module, input)]
        module.backward(np.zeros_like(output))
        _, most = used_bytes()
    finally:
        for inner, training, needed in modes:
            inner.training, inner.needs_input_grad = training, needed
        restore()
    activations = sum(size for size, is_float in kept if is_float)
    indices = sum(size for size, is_float in kept if not is_float)
    own = sum(2 * p.data.nbytes for p in parameters) + sum(array.nbytes for array in module.buffers())
    return Plan(activations, indices, max(most - before - activations - indices, 0), own)


def _kept(module: Module, input: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays that a module and all that runs inside it hold for backward, each memory once; without the input's."""
    seen = {id(_memory(input))}

    def walk(value: Any, saved: bool) -> Iterator[np.ndarray]:
        if isinstance(value, np.ndarray):
            if saved and id(_memory(value)) not in seen:
                seen.add(id(_memory(value)))
                yield value
        elif isinstance(value, (Module, Run)):
            if id(value) not in seen:
                seen.add(id(value))
                for name, inner in vars(value).items():
                    yield from walk(inner, name == "_saved")
        elif isinstance(value, (tuple, list, dict)):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from walk(inner, saved)

    return walk(module, False)


def _memory(array: np.ndarray) -> object:
    """What owns an array's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if array.base is None else array.base


def _state(module: Module) -> Callable[[], None]:
    """Return a function that puts buffers, gradients and random generators back to what they are now."""
    generators = [default_generator(), *(inner.rng for inner in module.modules() if getattr(inner, "rng", None))]
    states = [copy.deepcopy(generator.bit_generator.state) for generator in generators]

    def arrays() -> list[np.ndarray]:
        return [*module.buffers(), *(parameter.grad for parameter in module.parameters())]

    before = [array.copy() for array in arrays()]

    def restore() -> None:
        for array, copied in zip(arrays(), before, strict=True):
            np.copyto(array, copied)
        for generator, state in zip(generators, states, strict=True):
            generator.bit_generator.state = state

    return restore


class GradientError(AssertionError):
    """A gradient that `backward` returned differs from the finite difference."""


def gradcheck(
    layer: Module | Callable,
    input: np.ndarray,
    target: np.ndarray | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
) -> bool:
    """Compare a layer's or loss's backward with central differences, in float64.

    Every element of the input and of every parameter is moved by `eps` in both directions, and the output, weighted by
    fixed random numbers, compared. Random layers draw the same numbers each time. Afterwards the layer's parameters,
    gradients, buffers and random state are as they were. At a kink (ReLU at zero, a tie in a max-pool) no backward
    agrees with the difference: choose an input away from it.

    Parameters
    ----------
    layer : Module or loss
        A layer or network with float64 parameters, or a loss such as `CrossEntropyLoss`.
    input : ndarray of float64
    target : ndarray, optional
        What a loss needs beside the input.
    eps : float, default 1e-6
        How far an element is moved.
    atol, rtol : float
        A gradient g may differ from the difference d by atol + rtol * abs(d).

    Returns
    -------
    bool
        True

    Raises
    ------
    GradientError
        An AssertionError that names the worst difference: what it is in, the index, both numbers.
    TypeError
        If the input or a parameter is not float64, or `layer` is neither a layer nor a loss.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> rng = np.random.default_rng(0)
    >>> nn.gradcheck(nn.Conv2d(2, 3, 3, dtype=np.float64), rng.normal(size=(1, 2, 5, 5)))
    True
    >>> nn.gradcheck(nn.CrossEntropyLoss(), rng.normal(size=(2, 3)), np.array([0, 2]))
    True
    """
    if not isinstance(input, np.ndarray) or input.dtype != np.float64:
        got = getattr(input, "dtype", type(input).__name__)
        check.fail("input", "a float64 array (differences of float32 are too coarse)", got, TypeError)
    input = np.array(check.array("input", input))
    if isinstance(layer, Module):
        return _gradcheck_module(layer, input, eps, atol, rtol)
    if not callable(layer):
        check.fail("layer", "a Module or a loss", repr(layer), TypeError)
    _, grad = layer(input, target)
    _compare({"input": (input, np.array(grad))}, lambda: np.sum(layer(input, target)[0]), eps, atol, rtol)
    return True


def _gradcheck_module(module: Module, input: np.ndarray, eps: float, atol: float, rtol: float) -> bool:
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dtype != np.float64:
            check.fail("layer", f"float64 parameters (dtype=np.float64), as {name}", parameter.dtype, TypeError)
    generators = [default_generator(), *(inner.rng for inner in module.modules() if getattr(inner, "rng", None))]
    random_states = [copy.deepcopy(generator.bit_generator.state) for generator in generators]
    buffers = [(array, array.copy()) for array in module.buffers()]
    grads = [(parameter.grad, parameter.grad.copy()) for parameter in parameters.values()]
    values = [(parameter.data, parameter.data.copy()) for parameter in parameters.values()]

    def restore(arrays: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for array, copied in arrays:
            np.copyto(array, copied)
        for generator, state in zip(generators, random_states, strict=True):
            generator.bit_generator.state = state

    def run() -> np.ndarray:
        restore(buffers)
        return module(input)

    try:
        module.zero_grad()
        output = run()
        weights = np.random.default_rng(0).normal(size=output.shape)
        grad_input = module.backward(weights)
        pairs = {name: (parameter.data, parameter.grad.copy()) for name, parameter in parameters.items()}
        if grad_input is not None:
            pairs = {"input": (input, np.array(grad_input)), **pairs}
        with no_grad():
            _compare(pairs, lambda: np.vdot(weights, run()), eps, atol, rtol)
    finally:
        restore(buffers + grads + values)
    return True


def _compare(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], value: Callable[[], float], eps: float, atol: float, rtol: float
) -> None:
    """Compare each (array, gradient) with the central differences of `value` as the array's elements move."""
    worst, message = 1.0, ""
    for name, (array, analytic) in pairs.items():
        if analytic.shape != array.shape:
            raise GradientError(f"{name}: expected a gradient of shape {array.shape}, got {analytic.shape}")
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + eps
            above = value()
            array[index] = kept - eps
            below = value()
            array[index] = kept
            numeric = (above - below) / (2 * eps)
            got = analytic[index]
            excess = abs(got - numeric) / (atol + rtol * abs(numeric))
            if not excess <= worst:
                place = ", ".join(map(str, index))
                message = f"{name}[{place}]: expected {numeric:.9g} (finite difference), got {got:.9g} (backward)"
                worst = np.inf if np.isnan(excess) else excess
        if message:
            raise GradientError(message)


def _batch_shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


def _check_module(module: object) -> None:
    if not isinstance(module, Module):
        check.fail("module", "a Module", repr(module), TypeError)
