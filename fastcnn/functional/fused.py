"""Functions that go together in networks, in fewer passes over memory than one after another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import required
from fastcnn.functional._types import Array, Size
from fastcnn.functional.conv import _conv_window, conv2d, conv2d_backward
from fastcnn.functional.norm import batch_norm_apply

# Bytes of input that go through both functions at once: what is between them then stays in the cache.
PART = 2 << 20


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Cut a batch into images that together have about PART bytes."""
    images = array.shape[0]
    count = max(1, min(images, round(array.nbytes / PART)))
    for part in range(count):
        yield slice(part * images // count, (part + 1) * images // count)


def norm_conv2d(
    input: Array,
    mean: Array,
    scale: Array,
    shift: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    relu: bool = False,
) -> np.ndarray:
    """Convolve what `batch_norm_apply` makes of the input; that is never in memory as a whole.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W)
        float32 or float64, in either memory order.
    mean, scale, shift : ndarray of shape (C,)
    relu : bool, default False
        What `batch_norm_apply` is given.
    weight, bias, stride, padding, dilation, groups
        What `conv2d` is given.

    Returns
    -------
    ndarray of shape (N, O, oh, ow)
        conv2d(batch_norm_apply(input, mean, scale, shift, relu=relu), weight, bias, ...).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> F.norm_conv2d(np.array([[[[-5.0, 2.0]]]]), zero, one, one, np.ones((1, 1, 1, 2)), relu=True)
    array([[[[3.]]]])
    """
    input, weight = required(input=input, weight=weight)
    check.ndim("input", input, 4)
    geometry = stride, padding, dilation, groups
    parts = list(_parts(input))
    if len(parts) == 1:
        return conv2d(batch_norm_apply(input, mean, scale, shift, relu=relu), weight, bias, *geometry)
    _, window, size = _conv_window(input, weight, *geometry, 2)
    output = check.empty(size, input.dtype, window["channels_last"])
    for part in parts:
        conv2d(batch_norm_apply(input[part], mean, scale, shift, relu=relu), weight, bias, *geometry, out=output[part])
    return output


def norm_conv2d_backward(
    grad_output: Array,
    input: Array,
    mean: Array,
    scale: Array,
    shift: Array,
    weight: Array,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    relu: bool = False,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the gradients of the convolution in `norm_conv2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, O, oh, ow)
        Gradient of the output.
    input, mean, scale, shift, weight, stride, padding, dilation, groups, relu
        What the forward call had.
    needs : three bools
        Which of the three gradients to compute.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of what is convolved (that of ReLU's output, where there is one), weight and bias; None where not needed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> x, weight = np.array([[[[-5.0, 2.0]]]]), np.array([[[[2.0, 3.0]]]])
    >>> F.norm_conv2d_backward(np.ones((1, 1, 1, 1)), x, zero, one, one, weight, relu=True)
    (array([[[[2., 3.]]]]), array([[[[0., 3.]]]]), array([1.]))
    """
    input, grad_output = required(input=input, grad_output=grad_output)
    check.ndim("input", input, 4)
    needs = check.needs(needs)
    geometry = stride, padding, dilation, groups
    parts = list(_parts(input))
    if len(parts) == 1 or grad_output.shape[:1] != input.shape[:1]:
        made = batch_norm_apply(input, mean, scale, shift, relu=relu)
        return conv2d_backward(grad_output, made, weight, *geometry, needs=needs)
    grad_input = check.empty(input.shape, input.dtype, check.is_channels_last(input)) if needs[0] else None
    sums: list[np.ndarray | None] = [None, None]
    for part in parts:
        made = batch_norm_apply(input[part], mean, scale, shift, relu=relu)
        out = None if grad_input is None else grad_input[part]
        _, *grads = conv2d_backward(grad_output[part], made, weight, *geometry, needs=needs, out=(out, None, None))
        for i, grad in enumerate(grads):
            total = sums[i]
            if total is None or grad is None:
                sums[i] = grad
            else:
                np.add(total, grad, out=total)
    return grad_input, sums[0], sums[1]
