"""The linear (fully connected) map: a 1x1 convolution over a row of N pixels, and so the same kernels."""

from __future__ import annotations

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional.conv import conv_scratch
from fastcnn.kernels import conv as _conv_kernel


def _pixels(array: np.ndarray) -> np.ndarray:
    """Rows (N, features) as the channels-last image (1, features, 1, N)."""
    return array[None, None].transpose(0, 3, 1, 2)


def _rows(input: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Check the shapes: the input as contiguous rows, and the geometry of the convolution that it stands for."""
    check.ndim("weight", weight, 2)
    if min(weight.shape) < 1:
        check.fail("weight", "no extent of zero", f"shape {weight.shape}")
    if input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        check.fail("input", f"{weight.shape[1]} features (of weight) in the last axis", f"shape {input.shape}")
    check.fits("input", (*input.shape[:-1], weight.shape[0]))
    rows = np.ascontiguousarray(input.reshape(-1, weight.shape[1]))
    one, none = (1, 1), (0, 0)
    return rows, check.window((1, weight.shape[1], 1, len(rows)), (1, len(rows)), one, one, none, one, True)


def linear(input, weight, bias=None):
    """Return input @ weight.T + bias.

    Parameters
    ----------
    input : ndarray of shape (..., in_features)
        float32 or float64.
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), optional

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
    input, weight, bias = check.floats(input=input, weight=weight, bias=bias)
    rows, window = _rows(input, weight)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    output = np.empty((len(rows), weight.shape[0]), input.dtype)
    if output.size:
        weight = np.ascontiguousarray(weight)[:, :, None, None]
        memory, threads = conv_scratch("forward", window, len(weight), 1, input.itemsize)
        _conv_kernel.forward(_pixels(rows), weight, bias, _pixels(output), window, 1, memory, threads)
    return output.reshape(*input.shape[:-1], output.shape[1])


def linear_backward(grad_output, input, weight, *, needs=(True, True, True)):
    """Return the gradients of `linear`.

    Parameters
    ----------
    grad_output : ndarray of shape (..., out_features)
        Gradient of the loss with respect to the output.
    input, weight
        What the forward call had.
    needs : three bools
        Which of the three gradients to compute.

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
    grad_output, input, weight = check.floats(grad_output=grad_output, input=input, weight=weight)
    rows, window = _rows(input, weight)
    check.shape("grad_output", grad_output, (*input.shape[:-1], weight.shape[0]))
    needs = check.needs(needs)
    dy = _pixels(np.ascontiguousarray(grad_output.reshape(-1, weight.shape[0])))
    kernel = np.ascontiguousarray(weight)[:, :, None, None]
    outputs = len(weight)
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = np.empty(rows.shape, rows.dtype)
        if grad_input.size:
            memory, threads = conv_scratch("backward_data", window, outputs, 1, rows.itemsize)
            _conv_kernel.backward_data(dy, kernel, _pixels(grad_input), window, 1, memory, threads)
        grad_input = grad_input.reshape(input.shape)
    if needs[1] or needs[2]:
        grad_weight, grad_bias = np.zeros(kernel.shape, kernel.dtype), np.zeros(outputs, kernel.dtype)
        if rows.size:
            memory, threads = conv_scratch("backward_weight", window, outputs, 1, rows.itemsize)
            _conv_kernel.backward_weight(
                dy, _pixels(rows), grad_weight, grad_bias if needs[2] else None, window, 1, memory, threads
            )
        grad_weight = grad_weight.reshape(weight.shape) if needs[1] else None
        grad_bias = grad_bias if needs[2] else None
    return grad_input, grad_weight, grad_bias
