"""The linear (fully connected) map and its gradients."""

from __future__ import annotations

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import gradients, new, required, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._types import Array, Gradients


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
def _linear(input, weight, bias, out):
    input, weight = required(input=input, weight=weight)
    _, bias = check.floats(weight=weight, bias=bias)
    rows, matrix = _rows(input, weight)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    size = (*input.shape[:-1], len(matrix))
    if out is not None:
        check.destination(out, size, rows.dtype, input=input, weight=weight, bias=bias)
        if not out.flags.c_contiguous:
            check.fail("out", "C-contiguous memory", f"strides {out.strides}")
    result = new(size, rows.dtype) if out is None else out
    if not rows.size:
        return zeros((result,))
    return Call("linear", (rows, matrix, bias), (result,), integers=(len(rows), *matrix.shape[::-1]))


@remembered
def _linear_backward(grad_output, input, weight, needs, out):
    grad_output, input, weight = required(grad_output=grad_output, input=input, weight=weight)
    rows, matrix = _rows(input, weight)
    check.shape("grad_output", grad_output, (*input.shape[:-1], len(matrix)))
    needs = check.needs(needs)
    dy = np.ascontiguousarray(grad_output.reshape(-1, len(matrix)))
    made = [new(shape, rows.dtype) for shape in (input.shape, weight.shape, weight.shape[:1])]
    results = gradients(needs, out, made, grad_output=grad_output, input=input, weight=weight)
    if not rows.size:
        return zeros(results)
    return Call("linear_backward", (dy, rows, matrix), results, integers=(len(rows), *matrix.shape[::-1]))


def linear(input: Array, weight: Array, bias: Array | None = None, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return input @ weight.T + bias.

    Parameters
    ----------
    input : ndarray of shape (..., in_features)
        float32 or float64.
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), optional
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
    return _linear(input, weight, bias, out)


def linear_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    *,
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
    return _linear_backward(grad_output, input, weight, needs, out)
