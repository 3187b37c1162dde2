"""Convolution in one and two dimensions with its three gradients, and im2col / col2im as functions of their own."""

from __future__ import annotations

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.kernels import im2col as _im2col


# --- im2col, col2im -------------------------------------------------------------------------------------------------


def _unfold_window(input_shape, kernel_size, dilation, padding, stride, channels_last):
    kernel = check.integers("kernel_size", kernel_size, 2, 1)
    step = check.integers("stride", stride, 2, 1)
    pad = check.integers("padding", padding, 2, 0)
    spread = check.integers("dilation", dilation, 2, 1)
    places = tuple(
        check.output_size(input_shape[2 + axis], kernel[axis], step[axis], pad[axis], spread[axis]) for axis in (0, 1)
    )
    if min(places) < 1:
        check.fail("kernel_size", f"a window that fits the padded image {input_shape[2:]} + 2*{pad}", kernel)
    n, c = input_shape[:2]
    columns_shape = (n, c * kernel[0] * kernel[1], places[0] * places[1])
    check.fits("kernel_size", columns_shape)
    return check.window(input_shape, places, kernel, step, pad, spread, channels_last), columns_shape


def im2col(input, kernel_size, dilation=1, padding=0, stride=1):
    """Lay every window of an image out as a column (torch's `unfold`).

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    kernel_size, dilation, padding, stride : int or pair of int
        Geometry of the window as (height, width); an int stands for both.

    Returns
    -------
    ndarray of shape (N, C*kh*kw, L), or (C*kh*kw, L)
        Row (channel, i, j) holds what tap (i, j) of the window reads, 0 in the padding; L = oh*ow places, row-major.
        C-contiguous.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    See Also
    --------
    col2im : its adjoint, and so its backward function.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    >>> F.im2col(image, kernel_size=2)[0]
    array([[0., 1.],
           [1., 2.],
           [3., 4.],
           [4., 5.]], dtype=float32)
    """
    (input,) = check.floats(input=input)
    check.ndim("input", input, 4, 3)
    if input.ndim == 3:
        return im2col(input[None], kernel_size, dilation, padding, stride)[0]
    input, channels_last = check.ordered(input)
    window, size = _unfold_window(input.shape, kernel_size, dilation, padding, stride, channels_last)
    columns = np.empty(size, input.dtype)
    if columns.size:
        _im2col.im2col(input, columns, window)
    return columns


def col2im(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Add columns back into the image that their windows lie on (torch's `fold`); pixels of several windows get sums.

    Parameters
    ----------
    input : ndarray of shape (N, C*kh*kw, L) or (C*kh*kw, L)
        float32 or float64 columns, laid out as `im2col` returns them.
    output_size : pair of int
        Height and width of the image.
    kernel_size, dilation, padding, stride : int or pair of int
        Geometry of the window as (height, width); an int stands for both.

    Returns
    -------
    ndarray of shape (N, C, H, W), or (C, H, W)
        C-contiguous.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    See Also
    --------
    im2col : its adjoint, and so its backward function.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.col2im(np.ones((1, 4, 2), np.float32), output_size=(2, 3), kernel_size=2)[0, 0]
    array([[1., 2., 1.],
           [1., 2., 1.]], dtype=float32)
    """
    (input,) = check.floats(input=input)
    check.ndim("input", input, 3, 2)
    if input.ndim == 2:
        return col2im(input[None], output_size, kernel_size, dilation, padding, stride)[0]
    height, width = check.integers("output_size", output_size, 2, 1)
    kh, kw = check.integers("kernel_size", kernel_size, 2, 1)
    if input.shape[1] % (kh * kw):
        check.fail("input", f"a multiple of kernel height * width = {kh * kw} rows", f"shape {input.shape}")
    image = (input.shape[0], input.shape[1] // (kh * kw), height, width)
    check.fits("output_size", image)
    window, size = _unfold_window(image, kernel_size, dilation, padding, stride, False)
    check.shape("input", input, size)
    output = np.empty(image, input.dtype)
    if output.size:
        _im2col.col2im(np.ascontiguousarray(input), output, window)
    return output


def _row(name, value, minimum):
    """The pair that a 1-D window's argument stands for: a row of height one."""
    (number,) = check.integers(name, value, 1, minimum)
    return (0 if name == "padding" else 1), number


def im2col1d(input, kernel_size, dilation=1, padding=0, stride=1):
    """Lay every window of a sequence out as a column: `im2col` in one dimension.

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        float32 or float64.
    kernel_size, dilation, padding, stride : int
        Geometry of the window.

    Returns
    -------
    ndarray of shape (N, C*k, Lout), or (C*k, Lout)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.im2col1d(np.array([[1., 2., 3.]]), kernel_size=2)
    array([[1., 2.],
           [2., 3.]])
    """
    (input,) = check.floats(input=input)
    check.ndim("input", input, 3, 2)
    return im2col(
        input[..., None, :],
        _row("kernel_size", kernel_size, 1),
        _row("dilation", dilation, 1),
        _row("padding", padding, 0),
        _row("stride", stride, 1),
    )


def col2im1d(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Add columns back into the sequence that their windows lie on: `col2im` in one dimension.

    Parameters
    ----------
    input : ndarray of shape (N, C*k, Lout) or (C*k, Lout)
        float32 or float64.
    output_size : int
        Length of the sequence.
    kernel_size, dilation, padding, stride : int
        Geometry of the window.

    Returns
    -------
    ndarray of shape (N, C, L), or (C, L)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.col2im1d(np.array([[1., 2.], [2., 3.]]), output_size=3, kernel_size=2)
    array([[1., 4., 3.]])
    """
    return col2im(
        input,
        _row("output_size", output_size, 1),
        _row("kernel_size", kernel_size, 1),
        _row("dilation", dilation, 1),
        _row("padding", padding, 0),
        _row("stride", stride, 1),
    )[..., 0, :]


# --- convolution ----------------------------------------------------------------------------------------------------


def _padding(padding, kernel, stride, dilation):
    """(before, after) per axis from an int, a tuple, 'same' or 'valid'."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0,) * len(kernel), (0,) * len(kernel)
        if padding != "same":
            check.fail("padding", "an int, a tuple of int, 'same' or 'valid'", repr(padding))
        if any(step != 1 for step in stride):
            check.fail("padding", "'same' only with stride 1", f"stride {stride}")
        total = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = check.integers("padding", padding, len(kernel), 0)
    return both, both


def _conv_window(input, weight, stride, padding, dilation, groups, dims):
    """Check a convolution's arguments: its geometry (with groups, outputs and the order) and its output shape."""
    check.ndim("input", input, 4)
    step = check.integers("stride", stride, dims, 1)
    spread = check.integers("dilation", dilation, dims, 1)
    groups = check.integer("groups", groups, 1)
    kernel = weight.shape[4 - dims :]
    if min(weight.shape) < 1:
        check.fail("weight", "no extent of zero", f"shape {weight.shape}")
    before, after = _padding(padding, kernel, step, spread)
    n, c, h, w = input.shape
    if c != weight.shape[1] * groups:
        check.fail("input", f"{weight.shape[1]} (of weight) * {groups} (groups) channels", f"shape {input.shape}")
    if weight.shape[0] % groups:
        check.fail("groups", f"a divisor of the {weight.shape[0]} output channels", groups)
    places = tuple(
        (size + b + a - d * (k - 1) - 1) // s + 1
        for size, b, a, d, k, s in zip((h, w)[2 - dims :], before, after, spread, kernel, step, strict=True)
    )
    if min(places) < 1 or min(h, w) < 1:
        check.fail("weight", f"a kernel that fits the padded input {(h, w)[2 - dims :]} + {before} + {after}", kernel)
    if dims == 1:
        places, step, before, spread = (1, *places), (1, *step), (0, *before), (1, *spread)
    output = (n, weight.shape[0], *places)
    check.fits("input", (n, c * weight.shape[2] * weight.shape[3], *places))
    check.fits("input", output)
    input, channels_last = check.ordered(input)
    return input, check.window(input.shape, places, weight.shape[2:], step, before, spread, channels_last), output


def _conv(input, weight, bias, stride, padding, dilation, groups, dims):
    input, weight, bias = check.floats(input=input, weight=weight, bias=bias)
    check.ndim("weight", weight, dims + 2)
    check.ndim("input", input, dims + 2, dims + 1)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
    unbatched = input.ndim == dims + 1
    x = input[None] if unbatched else input
    w = weight
    if dims == 1:
        x, w = x[:, :, None, :], w[:, :, None, :]
    x, g, size = _conv_window(x, w, stride, padding, dilation, groups, dims)
    output = check.empty(size, input.dtype, g["channels_last"])
    columns = np.empty((size[0], x.shape[1] * g["kh"] * g["kw"], size[2] * size[3]), input.dtype)
    if columns.size:
        _im2col.im2col(x, columns, g)
    o = size[1] // groups
    k = w[0].size
    for i in range(groups):
        part = np.matmul(w[i * o : (i + 1) * o].reshape(o, k), columns[:, i * k : (i + 1) * k])
        output[:, i * o : (i + 1) * o] = part.reshape(size[0], o, *size[2:])
    if bias is not None:
        output += bias[:, None, None]
    if dims == 1:
        output = output[:, :, 0, :]
    return output[0] if unbatched else output


def _conv_backward(grad_output, input, weight, stride, padding, dilation, groups, needs, dims):
    grad_output, input, weight = check.floats(grad_output=grad_output, input=input, weight=weight)
    check.ndim("weight", weight, dims + 2)
    check.ndim("input", input, dims + 2, dims + 1)
    unbatched = input.ndim == dims + 1
    x = input[None] if unbatched else input
    dy = grad_output[None] if unbatched else grad_output
    w = weight
    if dims == 1:
        x, w = x[:, :, None, :], w[:, :, None, :]
        dy = dy[:, :, None, :]
    x, g, size = _conv_window(x, w, stride, padding, dilation, groups, dims)
    check.shape("grad_output", dy, size)
    n, o, k, places = size[0], size[1] // groups, w[0].size, size[2] * size[3]
    dy = dy.reshape(n, size[1], places)
    gi = gw = gb = None
    if needs[2]:
        gb = dy.sum((0, 2))
    if needs[1]:
        columns = np.empty((n, groups * k, places), input.dtype)
        if columns.size:
            _im2col.im2col(x, columns, g)
        gw = np.empty_like(w)
        for i in range(groups):
            gw[i * o : (i + 1) * o] = np.einsum(
                "nol,nkl->ok", dy[:, i * o : (i + 1) * o], columns[:, i * k : (i + 1) * k], optimize=True
            ).reshape(o, *w.shape[1:])
        gw = gw.reshape(weight.shape)
    if needs[0]:
        columns = np.empty((n, groups * k, places), input.dtype)
        for i in range(groups):
            np.matmul(
                w[i * o : (i + 1) * o].reshape(o, k).T, dy[:, i * o : (i + 1) * o], out=columns[:, i * k : (i + 1) * k]
            )
        gi = check.empty(x.shape, x.dtype, g["channels_last"])
        if gi.size:
            _im2col.col2im(columns, gi, g)
        if dims == 1:
            gi = gi[:, :, 0, :]
        if unbatched:
            gi = gi[0]
    return gi, gw, gb


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2)


def conv1d_backward(grad_output, input, weight, stride=1, padding=0, dilation=1, groups=1, *, needs=(True, True, True)):
    return _conv_backward(grad_output, input, weight, stride, padding, dilation, groups, needs, 1)


def conv2d_backward(grad_output, input, weight, stride=1, padding=0, dilation=1, groups=1, *, needs=(True, True, True)):
    return _conv_backward(grad_output, input, weight, stride, padding, dilation, groups, needs, 2)
