"""Softmax and its logarithm, and the losses, which return their gradient along with their value."""

from __future__ import annotations

import math
import operator
from typing import Literal, SupportsIndex, cast, overload

import numpy as np

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import empty, flat, memory_axes, new, required
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import choice
from fastcnn.functional._types import Array

_REDUCTIONS = ("mean", "sum", "none")  # as the kernels number them


def _axis(array: np.ndarray, dim: object) -> int:
    try:
        axis = None if isinstance(dim, (bool, np.bool_)) else operator.index(cast(SupportsIndex, dim))
    except TypeError:  # a class has __index__, too, and an array of one element has it in vain
        axis = None
    if axis is None:
        check.fail("dim", "an int", check.shown(dim), TypeError)
    number_of_axes = max(array.ndim, 1)
    if not -number_of_axes <= axis < number_of_axes:
        check.fail("dim", f"an int from {-number_of_axes} to {number_of_axes - 1}", axis)
    return axis % number_of_axes


def _row_axes(array: np.ndarray, axis: int) -> tuple[int, ...]:
    """Axes in memory order, with `axis` moved last: without a copy where it is last in memory."""
    return (*(a for a in memory_axes(array) if a != axis), axis)


def _rows(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return flat(array, axes).reshape(-1, array.shape[axes[-1]])


def _like(array: np.ndarray, rows: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Rows as an array of the shape and memory order of `array`."""
    result = rows.reshape([array.shape[axis] for axis in axes]).transpose(np.argsort(axes))
    order = memory_axes(array)
    if order == axes:
        return result
    output, _ = empty(array.shape, order, array.dtype)
    output[...] = result
    return output


@remembered
def _softmax(input: Array, dim: int, logarithm: bool) -> Call | np.ndarray:
    (input,) = required(input=input)
    axis = _axis(input, dim)
    if input.ndim == 0:
        return _softmax(input[None], 0, logarithm)[0, ...]
    axes = _row_axes(input, axis)
    if not input.size:
        return np.empty_like(input)
    if memory_axes(input) != axes:
        return _like(input, _softmax(_rows(input, axes), 1, logarithm), axes)
    columns = input.shape[axis]
    result = new(input.shape, input.dtype, axes)
    return Call("softmax", (_rows(input, axes),), (result,), integers=(input.size // columns, columns, logarithm))


@remembered
def _softmax_backward(grad_output: Array, output: Array, dim: int, logarithm: bool) -> Call | np.ndarray:
    output, grad_output = required(output=output, grad_output=grad_output)
    check.shape("grad_output", grad_output, output.shape)
    axis = _axis(output, dim)
    if output.ndim == 0:
        return _softmax_backward(grad_output[None], output[None], 0, logarithm)[0, ...]
    axes = _row_axes(output, axis)
    if not output.size:
        return np.empty_like(output)
    if memory_axes(output) != axes:
        rows = _softmax_backward(_rows(grad_output, axes), _rows(output, axes), 1, logarithm)
        return _like(output, rows, axes)
    columns = output.shape[axis]
    arrays, result = (_rows(grad_output, axes), _rows(output, axes)), new(output.shape, output.dtype, axes)
    return Call("softmax_backward", arrays, (result,), integers=(output.size // columns, columns, logarithm))


def softmax(input: Array, dim: int = -1) -> np.ndarray:
    """Return exp(input) / sum(exp(input)) along one axis, computed so that nothing overflows.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    dim : int, default -1
        The axis along which the results add up to 1.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`. NaN or plus infinity makes NaN of all that share its sum.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `dim` none of its axes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _softmax(input, dim, False)


def log_softmax(input: Array, dim: int = -1) -> np.ndarray:
    """Return the logarithm of `softmax`, accurate also where that is 0.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    dim : int, default -1
        The axis along which the exponentials of the results add up to 1.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`. NaN or plus infinity makes NaN of all that share its sum.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `dim` none of its axes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.log_softmax(np.array([1000.0, 0.0]))
    array([    0., -1000.])
    """
    return _softmax(input, dim, True)


def softmax_backward(grad_output: Array, output: Array, dim: int = -1) -> np.ndarray:
    """Return the gradient of softmax's input: output * (grad_output - sum(grad_output * output)).

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    output : ndarray of the same shape
        What `softmax` returned.
    dim : int, default -1
        As it was in `softmax`.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `output`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return _softmax_backward(grad_output, output, dim, False)


def log_softmax_backward(grad_output: Array, output: Array, dim: int = -1) -> np.ndarray:
    """Return the gradient of log_softmax's input: grad_output - exp(output) * sum(grad_output).

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    output : ndarray of the same shape
        What `log_softmax` returned.
    dim : int, default -1
        As it was in `log_softmax`.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `output`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]))
    array([ 0.5, -0.5])
    """
    return _softmax_backward(grad_output, output, dim, True)


# --- losses ---------------------------------------------------------------------------------------------------------


def _targets(target: object, shape: tuple[int, ...], classes: int, ignore_index: int) -> np.ndarray:
    """Check the class numbers and return them as int64."""
    target = check.array("target", target, "an array of integers")
    if target.dtype.kind not in "iu":
        check.fail("target", "an array of integers", target.dtype, TypeError)
    check.shape("target", target, shape)
    wrong = (target < 0) | (target >= classes)
    wrong &= target != ignore_index
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(np.flatnonzero(wrong)[0], shape)) if shape else ()
        wanted = f"class numbers from 0 to {classes - 1}, or ignore_index {ignore_index}"
        check.fail("target", wanted, f"{target[place]} at position {place}")
    return np.require(target, np.int64, ["A"])


@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
) -> tuple[float, np.ndarray]: ...
@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    *,
    reduction: Literal["none"],
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[float | np.ndarray, np.ndarray]: ...
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[float | np.ndarray, np.ndarray]:
    """Return the cross-entropy of class scores, softmax included, and its gradient.

    Parameters
    ----------
    input : ndarray of shape (N, C), (N, C, d1, ...) or (C,)
        Scores (logits) of the C classes; float32 or float64.
    target : ndarray of any integer type, shape (N,), (N, d1, ...) or ()
        Class numbers.
    weight : ndarray of shape (C,), optional
        A weight for each class.
    ignore_index : int, default -100
        A target that counts for nothing, neither in the loss nor in the gradient nor in the mean.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides the sum by the sum of the targets' weights; of no targets it is NaN, as in torch.
    label_smoothing : float, default 0
        Part of each target, from 0 to 1, that is spread evenly over the classes.

    Returns
    -------
    loss : float, or for 'none' ndarray of the shape of `target`
    grad_input : ndarray
        Of the shape, type and memory order of `input`; for 'none' the gradient of each loss by itself.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range, a target that is no class included.

    Notes
    -----
    With q[c] = weight[c] * ((1 - label_smoothing) * (c == target) + label_smoothing / C), the loss of one target is
    -sum over c of q[c] * log_softmax(input)[c], and its gradient softmax(input) * sum(q) - q. Both come from one pass
    over the scores. Scores that are NaN or plus infinity make NaN of their loss and gradient.

    References
    ----------
    C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception Architecture for Computer
    Vision", CVPR 2016 (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> loss, grad_input = F.cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(loss, 4), grad_input
    (0.6931, array([[ 0.5, -0.5]]))
    """
    smoothing = number("label_smoothing", label_smoothing, 0, 1)
    return _cross_entropy(input, target, weight, ignore_index, reduction, smoothing)


@remembered
def _cross_entropy(input, target, weight, ignore_index, reduction, smoothing):
    (input,) = required(input=input)
    _, weight = check.floats(input=input, weight=weight)
    if input.ndim < 1:
        check.fail("input", "shape (N, C), (N, C, d1, ...) or (C,)", f"shape {input.shape}")
    class_axis = min(input.ndim - 1, 1)
    classes = input.shape[class_axis]
    if classes < 1:
        check.fail("input", "at least one class", f"shape {input.shape}")
    if weight is not None:
        check.shape("weight", weight, (classes,))
        weight = np.ascontiguousarray(weight)
    ignore_index = check.integer("ignore_index", ignore_index, -(2**63))
    choice("reduction", reduction, *_REDUCTIONS)
    shape = input.shape[:class_axis] + input.shape[class_axis + 1 :]
    target = _targets(target, shape, classes, ignore_index)
    if not input.size:
        nothing = {"mean": math.nan, "sum": 0.0, "none": np.empty(shape, input.dtype)}
        return nothing[reduction], np.empty_like(input)

    axes = _row_axes(input, class_axis)
    order = tuple(axis - (axis > class_axis) for axis in axes[:-1])
    rows, targets = _rows(input, axes), flat(target, order)
    each = new(shape, input.dtype, order)
    if memory_axes(input) != axes:
        loss, grad_input = _cross_entropy(rows, targets, weight, ignore_index, reduction, smoothing)
        if reduction == "none":
            flat_losses, (loss, memory) = loss, empty(*each)
            memory[:] = flat_losses
        return loss, _like(input, grad_input, axes)
    results = (each,) * (reduction == "none") + (new(input.shape, input.dtype, axes),)
    integers = (*rows.shape, ignore_index, _REDUCTIONS.index(reduction))
    return Call("cross_entropy", (rows, targets, weight), results, integers=integers, number=reduction != "none")


@overload
def mse_loss(input: Array, target: Array, reduction: Literal["mean", "sum"] = "mean") -> tuple[float, np.ndarray]: ...
@overload
def mse_loss(input: Array, target: Array, reduction: Literal["none"]) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def mse_loss(input: Array, target: Array, reduction: str = "mean") -> tuple[float | np.ndarray, np.ndarray]: ...
def mse_loss(input: Array, target: Array, reduction: str = "mean") -> tuple[float | np.ndarray, np.ndarray]:
    """Return the squared difference, and its gradient with respect to `input`.

    Parameters
    ----------
    input, target : ndarray
        Of one shape and type, float32 or float64.
    reduction : {'mean', 'sum', 'none'}
        Whether the squares are averaged (of none: NaN), added up, or returned one by one.

    Returns
    -------
    loss : float, or for 'none' ndarray of the shape of `input`
    grad_input : ndarray
        Of the shape, type and memory order of `input`; for 'none' the gradient of each square by itself.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.mse_loss(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    (2.5, array([ 1., -2.]))
    """
    return _mse_loss(input, target, reduction)


@remembered
def _mse_loss(input, target, reduction):
    input, target = required(input=input, target=target)
    check.shape("target", target, input.shape)
    choice("reduction", reduction, *_REDUCTIONS)
    if not input.size:
        return {"mean": math.nan, "sum": 0.0, "none": np.empty_like(input)}[reduction], np.empty_like(input)
    axes = memory_axes(input)
    arrays, result = (flat(input, axes), flat(target, axes)), new(input.shape, input.dtype, axes)
    results = (result,) * (1 + (reduction == "none"))
    integers = (input.size, _REDUCTIONS.index(reduction))
    return Call("mse", arrays, results, integers=integers, number=reduction != "none")
