"""The linear (fully connected) map and its gradients, and the joining of axes before it."""

from __future__ import annotations

import math

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import gradients, new, required, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import flag
from fastcnn.functional._types import Array, Gradients, Shape


def _rows(input: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check the shapes, and return input and weight as contiguous matrices."""
    check.ndim("weight", weight, 2)
    if min(weight.shape) < 1:
        check.fail("weight", "no extent of zero", f"shape {weight.shape}")
    if input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        check.fail("input", f"{weight.shape[1]} features (of weight) in the last axis", f"shape {input.shape}")
    check.fits("input", (*input.shape[:-1], weight.shape[0]))
    return np.ascontiguousarray(input.reshape(-1, weight.shape[1])), np.ascontiguousarray(weight)


@remembered
def _linear(input, weight, bias, relu, out):
    given = {"input": input, "weight": weight, "bias": bias}
    input, weight = required(input=input, weight=weight)
    _, bias = check.floats(weight=weight, bias=bias)
    rows, matrix = _rows(input, weight)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    size, relu = (*input.shape[:-1], len(matrix)), flag("relu", relu)
    if out is not None:
        target = check.destination(out, size, rows.dtype, **given)
        if not target.flags.c_contiguous:
            check.fail("out", "C-contiguous memory", f"strides {target.strides}")
    result = new(size, rows.dtype) if out is None else out
    if not rows.size:
        return zeros((result,))
    return Call("linear", (rows, matrix, bias), (result,), integers=(len(rows), *matrix.shape[::-1], relu))


@remembered
def _linear_backward(grad_output, input, weight, relu, needs, out):
    apart = {"grad_output": grad_output, "input": input, "weight": weight, "relu": relu}
    grad_output, input, weight = required(grad_output=grad_output, input=input, weight=weight)
    rows, matrix = _rows(input, weight)
    check.shape("grad_output", grad_output, (*input.shape[:-1], len(matrix)))
    _, relu = check.floats(input=input, relu=relu)
    if relu is not None:
        check.shape("relu", relu, grad_output.shape)
        relu = np.ascontiguousarray(relu)
    needs = check.needs(needs)
    dy = np.ascontiguousarray(grad_output.reshape(-1, len(matrix)))
    made = [new(shape, rows.dtype) for shape in (input.shape, weight.shape, weight.shape[:1])]
    results = gradients(needs, out, made, **apart)
    if not rows.size:
        return zeros(results)
    return Call("linear_backward", (dy, rows, matrix, relu), results, integers=(len(rows), *matrix.shape[::-1]))


def linear(
    input: Array, weight: Array, bias: Array | None = None, *, relu: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Return input @ weight.T + bias.

    Parameters
    ----------
    input : ndarray of shape (..., in_features)
        float32 or float64.
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), optional
    relu : bool, default False
        Whether ReLU is taken of the sums.
    out : ndarray of shape (..., out_features), optional
        Array to write the output to and to return: of its type, C-contiguous, apart from the inputs.

    Returns
    -------
    ndarray of shape (..., out_features)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.linear(np.array([[1., 2.]]), np.array([[3., 4.], [5., 6.]]), np.array([0.5, 0.]))
    array([[11.5, 17. ]])
    """
    return _linear(input, weight, bias, relu, out)


def linear_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    *,
    relu: Array | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the gradients of `linear`.

    Parameters
    ----------
    grad_output : ndarray of shape (..., out_features)
        Gradient of the loss with respect to the output.
    input, weight
        What the forward call had.
    relu : ndarray of the shape of `grad_output`, optional
        What the forward call returned, if it took ReLU.
    needs : three bools
        Which of the three gradients to compute.
    out : three ndarrays or None
        Arrays to write gradients to and to return in their place: of their shape and type, C-contiguous, apart from
        all others.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of the shapes of `input`, `weight` and (out_features,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x, w = np.array([[1., 2.]]), np.array([[3., 4.], [5., 6.]])
    >>> dx, dw, db = F.linear_backward(np.array([[1., 10.]]), x, w)
    >>> dx, dw, db
    (array([[53., 64.]]), array([[ 1.,  2.],
           [10., 20.]]), array([ 1., 10.]))
    """
    return _linear_backward(grad_output, input, weight, relu, needs, out)


def _joined(name: str, shape: tuple[int, ...], start_dim: int, end_dim: int) -> tuple[int, ...]:
    """The shape, which argument `name` has or is, with the axes joined."""
    start_dim, end_dim = check.integer("start_dim", start_dim, -(2**63)), check.integer("end_dim", end_dim, -(2**63))
    first, last = (dim + len(shape) if dim < 0 else dim for dim in (start_dim, end_dim))
    if not 0 <= first <= last < len(shape):
        check.fail(name, f"axes {start_dim} to {end_dim}, in that order", f"shape {shape}")
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _pixels(shape: tuple[int, ...]) -> dict[str, int]:
    """The window of one tap that visits each pixel of a channels-last image: im2col with it is a transposition."""
    places, one = (1, math.prod(shape[2:])), (1, 1)
    return check.window((*shape[:2], *places), places, one, one, (0, 0), one, True)


@remembered
def _flatten(input, start_dim, end_dim):
    input = check.array("input", input)
    shape = _joined("input", input.shape, start_dim, end_dim)
    if not input.size or not check.channels_run_fastest(input) or input.dtype not in check.FLOATS:
        return input.reshape(shape)
    return Call("im2col", (input,), (new(shape, input.dtype),), window=_pixels(input.shape))


@remembered
def _flatten_backward(grad_output, input_shape, start_dim, end_dim, channels_last):
    (grad_output,) = required(grad_output=grad_output)
    input_shape = check.shape_argument("input_shape", input_shape, *range(1, 65))
    check.shape("grad_output", grad_output, _joined("input_shape", input_shape, start_dim, end_dim))
    if not flag("channels_last", channels_last) or not grad_output.size or len(input_shape) < 3:
        return grad_output.reshape(input_shape)
    axes = (0, *range(2, len(input_shape)), 1)
    rows = np.ascontiguousarray(grad_output)
    return Call("col2im", (rows,), (new(input_shape, rows.dtype, axes),), window=_pixels(input_shape))


def flatten(input: Array, start_dim: int = 0, end_dim: int = -1) -> np.ndarray:
    """Join the axes from `start_dim` to `end_dim` into one, the elements in the order of the shape.

    Parameters
    ----------
    input : ndarray of any shape and type
    start_dim, end_dim : int
        First and last axis to join; counted from the end where negative.

    Returns
    -------
    ndarray
        A view of `input` where its memory has that order; else a copy, as of channels-last images.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array, or does not have those axes in that order.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.flatten(np.zeros((8, 16, 5, 5)), 1).shape
    (8, 400)
    """
    return _flatten(input, start_dim, end_dim)


def flatten_backward(
    grad_output: Array, input_shape: Shape, start_dim: int = 0, end_dim: int = -1, *, channels_last: bool = False
) -> np.ndarray:
    """Return the gradient of the input of `flatten`.

    Parameters
    ----------
    grad_output : ndarray
        float32 or float64, of the shape that `flatten` returned.
    input_shape : tuple of int
    start_dim, end_dim : int
        As they were in `flatten`.
    channels_last : bool
        Whether the channels (axis 1) of the gradient run fastest in memory, as those of the input did.

    Returns
    -------
    ndarray of shape input_shape
        A view of `grad_output` where that is possible.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.flatten_backward(np.zeros((8, 400)), (8, 16, 5, 5), 1).shape
    (8, 16, 5, 5)
    """
    return _flatten_backward(grad_output, input_shape, start_dim, end_dim, channels_last)
