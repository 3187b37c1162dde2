"""Every function of :mod:`fastcnn.functional` in plain NumPy.

The names, arguments, defaults and results are those of :mod:`fastcnn.functional`, where the parameters are described;
here are the formulas, written to be read. The tests use this module as their oracle and the benchmarks as their
baseline, so it is vectorised as well: no Python loop runs over pixels, at most over the taps of a window.

A *tap* is one place inside a window. Tap (i, j) of output pixel (y, x) reads the padded input at
``(y * stride + i * dilation, x * stride + j * dilation)``, so for one tap all output pixels together read a strided
slice of the plane. Windows are gathered and scattered one such slice at a time, and a 1-D function is the 2-D one on a
plane one row high.

Arguments are checked only where a wrong one would give a wrong result silently; :mod:`fastcnn.functional` checks them
all. Results are C-contiguous and have the dtype of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# --------------------------------------------------------------------------------------------------------------------
# Geometry
# --------------------------------------------------------------------------------------------------------------------


def output_size(size, kernel, stride=1, padding=0, dilation=1, ceil_mode=False) -> int:
    """Number of windows along one axis.

    Parameters
    ----------
    size, kernel, stride, dilation : int
        Length of the axis and of the window, step between windows, step between the taps of a window.
    padding : int or pair of int
        Elements added before and after the axis; an int means as many on both sides.
    ceil_mode : bool
        Keep a last window that runs over the end, unless it would start in the padding after the axis.

    Returns
    -------
    int
        ``floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1``, or that with ceil.

    Raises
    ------
    ValueError
        If not even one window fits.

    Examples
    --------
    >>> output_size(7, 2, stride=2), output_size(7, 2, stride=2, ceil_mode=True)
    (3, 4)
    >>> output_size(4, 2, stride=3, padding=1, ceil_mode=True)  # a third window would start in the padding
    2
    """
    before, after = _pair(padding)
    room = size + before + after - dilation * (kernel - 1) - 1
    if ceil_mode:
        room += stride - 1
    count = room // stride + 1
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1
    if count < 1:
        raise ValueError(
            f"input: expected at least one window of {kernel} taps (dilation {dilation}) to fit, "
            f"got size {size} with padding {(before, after)}"
        )
    return count


def _pair(value) -> tuple:
    if not isinstance(value, (tuple, list)):
        return (value, value)
    return tuple(value) * 2 if len(value) == 1 else tuple(value)


def _row(value, neutral) -> tuple:
    """The setting of a 1-D function for a plane one row high."""
    return (neutral, value[0] if isinstance(value, (tuple, list)) else value)


def _row_padding(padding):
    return padding if isinstance(padding, str) else _row(padding, 0)


def _sides(padding, kernel=(1, 1), stride=(1, 1), dilation=(1, 1)) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) for a number, a pair, 'same' or 'valid'; 'same' puts an odd zero last."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"padding: expected numbers where stride is not 1, got 'same' with stride {stride}")
        spare = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((s // 2, s - s // 2) for s in spare)
    top, left = _pair(padding)
    return (top, top), (left, left)


def _pad(planes, sides, value=0):
    (top, bottom), (left, right) = sides
    if not (top or bottom or left or right):
        return planes
    margins = [(0, 0)] * (planes.ndim - 2) + [(top, bottom), (left, right)]
    return np.pad(planes, margins, constant_values=value)


def _tap_slices(kernel, stride, dilation, out) -> Iterator[tuple]:
    """For each tap in row-major order, the slice of the padded planes that all windows together read with it."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield (
                ...,
                slice(top, top + (out[0] - 1) * stride[0] + 1, stride[0]),
                slice(left, left + (out[1] - 1) * stride[1] + 1, stride[1]),
            )


def _gather(padded, kernel, stride, dilation):
    """The windows of every plane as columns: (..., H, W) to (..., kh, kw, oh, ow), a view."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(-2, -1))
    windows = windows[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return np.moveaxis(windows, (-2, -1), (-4, -3))


def _scatter(columns, size, stride, sides, dilation):
    """Add columns (..., kh, kw, oh, ow) into planes (..., H, W): the transpose of padding and `_gather`."""
    *lead, kh, kw, oh, ow = columns.shape
    (top, bottom), (left, right) = sides
    planes = np.zeros((*lead, size[0] + top + bottom, size[1] + left + right), columns.dtype)
    for tap, where in enumerate(_tap_slices((kh, kw), stride, dilation, (oh, ow))):
        planes[where] += columns[..., tap // kw, tap % kw, :, :]
    return np.ascontiguousarray(planes[..., top : top + size[0], left : left + size[1]])


# --------------------------------------------------------------------------------------------------------------------
# im2col and col2im
# --------------------------------------------------------------------------------------------------------------------


def im2col(input, kernel_size, dilation=1, padding=0, stride=1):
    """Copy each window into a column: (N, C, H, W) to (N, C * kh * kw, oh * ow).

    Examples
    --------
    >>> im2col(np.arange(6.0).reshape(1, 1, 2, 3), (2, 2))
    array([[[0., 1.],
            [1., 2.],
            [3., 4.],
            [4., 5.]]])
    """
    kernel, dilation, stride = _pair(kernel_size), _pair(dilation), _pair(stride)
    columns = _gather(_pad(input, _sides(padding)), kernel, stride, dilation)
    *batch, channels, kh, kw, oh, ow = columns.shape
    return columns.reshape(*batch, channels * kh * kw, oh * ow)


def col2im(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Add each column back into its window, the transpose of `im2col`: (N, C * kh * kw, oh * ow) to (N, C, H, W).

    Examples
    --------
    Elements that several windows share receive a sum:

    >>> col2im(np.ones((1, 4, 2)), (2, 3), (2, 2))
    array([[[[1., 2., 1.],
             [1., 2., 1.]]]])
    """
    size, kernel, dilation, stride = _pair(output_size), _pair(kernel_size), _pair(dilation), _pair(stride)
    sides = _sides(padding)
    out = _window_counts(size, kernel, stride, sides, dilation)
    *batch, rows, _ = input.shape
    columns = input.reshape(*batch, rows // (kernel[0] * kernel[1]), *kernel, *out)
    return _scatter(columns, size, stride, sides, dilation)


def im2col1d(input, kernel_size, dilation=1, padding=0, stride=1):
    """Copy each window into a column: (N, C, L) to (N, C * k, Lout).

    Examples
    --------
    >>> im2col1d(np.array([[[1.0, 2.0, 3.0]]]), 2)
    array([[[1., 2.],
            [2., 3.]]])
    """
    return im2col(input[..., None, :], _row(kernel_size, 1), _row(dilation, 1), _row(padding, 0), _row(stride, 1))


def col2im1d(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Add each column back into its window, the transpose of `im2col1d`: (N, C * k, Lout) to (N, C, L).

    Examples
    --------
    >>> col2im1d(np.array([[[1.0, 2.0], [10.0, 20.0]]]), 3, 2)
    array([[[ 1., 12., 20.]]])
    """
    planes = col2im(
        input, _row(output_size, 1), _row(kernel_size, 1), _row(dilation, 1), _row(padding, 0), _row(stride, 1)
    )
    return planes[..., 0, :]


def _window_counts(size, kernel, stride, sides, dilation=(1, 1), ceil_mode=False) -> tuple[int, int]:
    return tuple(
        output_size(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(size, kernel, stride, sides, dilation, strict=True)
    )


# --------------------------------------------------------------------------------------------------------------------
# Convolution
# --------------------------------------------------------------------------------------------------------------------


def _grouped_columns(input, kernel, stride, sides, dilation, groups):
    """Columns of each group of channels, (N, groups, C/groups * kh * kw, oh * ow), and (oh, ow)."""
    columns = _gather(_pad(input, sides), kernel, stride, dilation)
    n, channels, kh, kw, oh, ow = columns.shape
    return columns.reshape(n, groups, channels // groups * kh * kw, oh * ow), (oh, ow)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolve: one matrix product of the weights with the columns of `im2col`, per group of channels.

    ``output[n, o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] * window[n, c, i, j, y, x]``

    Examples
    --------
    >>> conv2d(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    if input.ndim == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    stride, dilation = _pair(stride), _pair(dilation)
    out_channels, *_, kh, kw = weight.shape
    sides = _sides(padding, (kh, kw), stride, dilation)
    columns, out = _grouped_columns(input, (kh, kw), stride, sides, dilation, groups)
    kernels = weight.reshape(groups, out_channels // groups, columns.shape[2])
    output = (kernels @ columns).reshape(len(input), out_channels, *out)
    if bias is not None:
        output += bias[:, None, None]
    return output


def conv2d_backward(
    grad_output,
    input,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    needs=(True, True, True),
    out=(None, None, None),
):
    """Gradients of `conv2d` with respect to input, weight and bias; None for those not needed.

    With ``output = weight @ columns``: the weight's gradient is ``grad_output @ columns.T`` summed over the images,
    the columns' gradient is ``weight.T @ grad_output``, and `col2im` adds it into the input's.

    Examples
    --------
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.full((1, 1, 2, 2), 0.5)
    >>> grad_input, grad_weight, grad_bias = conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> grad_input[0, 0]
    array([[0.5, 1. , 0.5],
           [1. , 2. , 1. ],
           [0.5, 1. , 0.5]])
    >>> grad_weight[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    >>> grad_bias
    array([4.])
    """
    if input.ndim == 3:
        grad_input, grad_weight, grad_bias = conv2d_backward(
            grad_output[None], input[None], weight, stride, padding, dilation, groups, needs=needs
        )
        return _into(out, None if grad_input is None else grad_input[0], grad_weight, grad_bias)
    stride, dilation = _pair(stride), _pair(dilation)
    out_channels, group_channels, kh, kw = weight.shape
    sides = _sides(padding, (kh, kw), stride, dilation)
    n, _, oh, ow = grad_output.shape
    taps = group_channels * kh * kw
    grad_rows = grad_output.reshape(n, groups, out_channels // groups, oh * ow)

    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        kernels = weight.reshape(groups, out_channels // groups, taps)
        grad_columns = kernels.swapaxes(1, 2) @ grad_rows
        grad_columns = grad_columns.reshape(n, groups * group_channels, kh, kw, oh, ow)
        grad_input = _scatter(grad_columns, input.shape[2:], stride, sides, dilation)
    if needs[1]:
        columns, _ = _grouped_columns(input, (kh, kw), stride, sides, dilation, groups)
        grad_weight = (grad_rows @ columns.swapaxes(2, 3)).sum(axis=0).reshape(weight.shape)
    if needs[2]:
        grad_bias = grad_output.sum(axis=(0, 2, 3))
    return _into(out, grad_input, grad_weight, grad_bias)


def _into(out, *grads):
    """Gradients, each in the array that is given for it, if there is one."""
    for array, grad in zip(out, grads, strict=True):
        if array is not None:
            array[...] = grad
    return tuple(grad if array is None else array for array, grad in zip(out, grads, strict=True))


def conv2d_norm(
    input,
    weight,
    bias,
    mean,
    scale,
    shift,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    residual=None,
    relu=False,
):
    """`batch_norm_apply` of `conv2d`.

    Examples
    --------
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> conv2d_norm(np.array([[[[-5.0, 2.0]]]]), 3 * np.ones((1, 1, 1, 1)), None, zero, one, one, relu=True)
    array([[[[0., 7.]]]])
    """
    made = conv2d(input, weight, bias, stride, padding, dilation, groups)
    return batch_norm_apply(made, mean, scale, shift, residual=residual, relu=relu)


def norm_conv2d(
    input,
    mean,
    scale,
    shift,
    weight,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    relu=False,
    statistics=False,
):
    """`conv2d` of `batch_norm_apply`, and mean and biased variance of its channels.

    Examples
    --------
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> norm_conv2d(np.array([[[[-5.0, 2.0]]]]), zero, one, one, np.ones((1, 1, 1, 2)), relu=True)
    array([[[[3.]]]])
    """
    made = batch_norm_apply(input, mean, scale, shift, relu=relu)
    output = conv2d(made, weight, bias, stride, padding, dilation, groups)
    if not statistics:
        return output
    if not output.size:
        return output, np.zeros((2, output.shape[1]))
    return output, np.stack([output.mean(axis=(0, 2, 3), dtype=float), output.var(axis=(0, 2, 3), dtype=float)])


def norm_conv2d_backward(
    grad_output,
    input,
    mean,
    scale,
    shift,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    relu=False,
    needs=(True, True, True),
    sums=False,
):
    """`conv2d_backward` of what `norm_conv2d` convolves, and what `batch_norm_backward` sums over grad_input.

    Examples
    --------
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> x, weight = np.array([[[[-5.0, 2.0]]]]), np.array([[[[2.0, 3.0]]]])
    >>> norm_conv2d_backward(np.ones((1, 1, 1, 1)), x, zero, one, one, weight, relu=True)
    (array([[[[2., 3.]]]]), array([[[[0., 3.]]]]), array([1.]))
    """
    made = batch_norm_apply(input, mean, scale, shift, relu=relu)
    grads = conv2d_backward(grad_output, made, weight, stride, padding, dilation, groups, needs=needs)
    if not sums:
        return grads
    masked = relu_backward(grads[0], made) if relu else grads[0]
    products = masked * (input - _over_channels(mean, 4))
    return *grads, np.stack([array.sum(axis=(0, 2, 3), dtype=float) for array in (masked, products)])


def conv2d_max_pool(
    input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, pool, relu=False, taps=True
):
    """`max_pool2d_taps` of `conv2d`; None for the taps where they are not asked for.

    Examples
    --------
    >>> x = np.array([[[[1.0, 5.0, -2.0, 1.0]]]])
    >>> conv2d_max_pool(x, np.full((1, 1, 1, 1), 2.0), pool=((1, 2),), relu=True)
    (array([[[[10.,  2.]]]]), array([[[[1, 1]]]], dtype=uint8))
    """
    found = max_pool2d_taps(conv2d(input, weight, bias, stride, padding, dilation, groups), *pool, relu=relu)
    return found if taps else (found[0], None)


def conv2d_max_pool_backward(
    grad_output,
    taps,
    input,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    pool,
    relu=False,
    needs=(True, True, True),
    out=(None, None, None),
):
    """`conv2d_backward` of what `max_pool2d_taps_backward` returns.

    Examples
    --------
    >>> x, weight, pool = np.array([[[[1.0, 5.0, -2.0, 1.0]]]]), np.full((1, 1, 1, 1), 2.0), ((1, 2),)
    >>> output, taps = conv2d_max_pool(x, weight, pool=pool)
    >>> conv2d_max_pool_backward(np.array([[[[10.0, 20.0]]]]), taps, x, weight, pool=pool)
    (array([[[[ 0., 20.,  0., 40.]]]]), array([[[[70.]]]]), array([30.]))
    """
    geometry = stride, padding, dilation, groups
    size = conv2d(input, weight, None, *geometry).shape
    grad = max_pool2d_taps_backward(grad_output, taps, size, *pool, relu=relu)
    return conv2d_backward(grad, input, weight, *geometry, needs=needs, out=out)


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolve sequences: (N, C, L) with (O, C / groups, k) to (N, O, Lout).

    Examples
    --------
    >>> conv1d(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[0.3, 0.5]]])).round(12)
    array([[[1.3, 2.1]]])
    """
    output = conv2d(
        input[..., None, :],
        weight[..., None, :],
        bias,
        _row(stride, 1),
        _row_padding(padding),
        _row(dilation, 1),
        groups,
    )
    return output[..., 0, :]


def conv1d_backward(
    grad_output,
    input,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    needs=(True, True, True),
    out=(None, None, None),
):
    """Gradients of `conv1d` with respect to input, weight and bias; None for those not needed.

    Examples
    --------
    >>> x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[0.3, 0.5]]])
    >>> grad_input, grad_weight, grad_bias = conv1d_backward(np.array([[[-0.1, 0.2]]]), x, w)
    >>> grad_input.round(12), grad_weight.round(12), grad_bias.round(12)
    (array([[[-0.03,  0.01,  0.1 ]]]), array([[[0.3, 0.4]]]), array([0.1]))
    """
    grad_input, grad_weight, grad_bias = conv2d_backward(
        grad_output[..., None, :],
        input[..., None, :],
        weight[..., None, :],
        _row(stride, 1),
        _row_padding(padding),
        _row(dilation, 1),
        groups,
        needs=needs,
    )
    if needs[0]:
        grad_input = grad_input[..., 0, :]
    if needs[1]:
        grad_weight = grad_weight[..., 0, :]
    return _into(out, grad_input, grad_weight, grad_bias)


# --------------------------------------------------------------------------------------------------------------------
# Pooling
# --------------------------------------------------------------------------------------------------------------------


def _pool_geometry(size, kernel_size, stride, padding, dilation=1, ceil_mode=False):
    """Kernel, stride, dilation, sides and window counts; the sides grow by what a ceil-mode window overhangs."""
    kernel = _pair(kernel_size)
    stride = kernel if stride is None else _pair(stride)
    dilation = _pair(dilation)
    sides = _sides(padding)
    out = _window_counts(size, kernel, stride, sides, dilation, ceil_mode)
    ends = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    sides = tuple(
        (before, max(after, end - n - before)) for n, end, (before, after) in zip(size, ends, sides, strict=True)
    )
    return kernel, stride, dilation, sides, out


def _tap_positions(size, kernel, stride, dilation, before, out):
    """Where each tap of each window lies along one axis, (out, kernel), and the first tap inside the input."""
    positions = np.arange(out)[:, None] * stride - before + np.arange(kernel) * dilation
    inside = (positions >= 0) & (positions < size)
    if not inside.any(axis=1).all():
        raise ValueError(f"padding: expected every window to hold an element of the input, got {before}")
    return positions, inside.argmax(axis=1)


def _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode):
    """Maxima, their taps, and the row and column of every tap."""
    size = input.shape[-2:]
    kernel, stride, dilation, sides, out = _pool_geometry(size, kernel_size, stride, padding, dilation, ceil_mode)
    (rows, first_row), (cols, first_col) = (
        _tap_positions(size[a], kernel[a], stride[a], dilation[a], sides[a][0], out[a]) for a in (0, 1)
    )
    kh, kw = kernel
    padded = _pad(input, sides, -np.inf)
    best, *others = (padded[where] for where in _tap_slices(kernel, stride, dilation, out))
    # Padding is -inf and never better than anything, so a window of nothing but -inf keeps its first real tap.
    taps = np.empty(best.shape, np.uint8 if kh * kw <= 256 else np.int32)
    taps[...] = first_row[:, None] * kw + first_col
    best = best.copy()
    for tap, value in enumerate(others, start=1):
        better = ~(value <= best) & (best == best)  # larger, or the first NaN
        best = np.where(better, value, best)
        np.copyto(taps, tap, where=better)
    return best, taps, rows, cols


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Largest element of each window, and optionally its index in the plane.

    The first maximum in row-major order wins, a NaN counts as the maximum, and padding is never chosen.

    Examples
    --------
    >>> max_pool2d(np.array([[[[1.0, 5.0], [5.0, 2.0]]]]), 2, return_indices=True)
    (array([[[[5.]]]]), array([[[[1]]]]))
    """
    output, taps, rows, cols = _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return output
    i, j = np.divmod(taps, cols.shape[1])
    oh, ow = output.shape[-2:]
    row, col = rows[np.arange(oh)[:, None], i], cols[np.arange(ow), j]
    return output, row * input.shape[-1] + col


def max_pool2d_backward(grad_output, indices, input_shape):
    """Add each output's gradient to the element its index names.

    Examples
    --------
    >>> max_pool2d_backward(np.array([[[[2.0, 3.0]]]]), np.array([[[[1, 1]]]]), (1, 1, 1, 3))
    array([[[[0., 5., 0.]]]])
    """
    return _add_at(grad_output, indices, input_shape, plane_ndim=2)


def _add_at(values, indices, shape, plane_ndim):
    planes, area = math.prod(shape[:-plane_ndim]), math.prod(shape[-plane_ndim:])
    output = np.zeros(planes * area, values.dtype)
    per_plane = math.prod(indices.shape[-plane_ndim:])
    flat = indices.reshape(planes, per_plane) + np.arange(planes)[:, None] * area
    np.add.at(output, flat.ravel(), values.ravel())
    return output.reshape(shape)


def max_pool2d_taps(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, relu=False, out=(None, None)
):
    """Largest element of each window and the number of its tap: ``i * kw + j``.

    With `relu`, of the input after ReLU, and where that is 0, no tap: 255, or -1 as int32, which begins at 256 taps.

    Examples
    --------
    >>> max_pool2d_taps(np.array([[[[1.0, 5.0], [5.0, 2.0]]]]), 2)
    (array([[[[5.]]]]), array([[[[1]]]], dtype=uint8))
    """
    output, taps, _, _ = _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode)
    if relu:
        output = np.maximum(output, 0)
        if math.prod(_pair(kernel_size)) >= 256:
            taps = taps.astype(np.int32)
        taps[output == 0] = 255 if taps.dtype == np.uint8 else -1
    return _into(out, output, taps)


def max_pool2d_taps_backward(
    grad_output, taps, input_shape, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, relu=False
):
    """Add each output's gradient to the element its tap names.

    Examples
    --------
    >>> max_pool2d_taps_backward(np.array([[[[7.0]]]]), np.array([[[[1]]]], np.uint8), (1, 1, 2, 2), 2)
    array([[[[0., 7.],
             [0., 0.]]]])
    """
    size = tuple(input_shape[-2:])
    kernel, stride, dilation, sides, out = _pool_geometry(size, kernel_size, stride, padding, dilation, ceil_mode)
    columns = np.empty((*input_shape[:-2], *kernel, *out), grad_output.dtype)
    for tap in range(kernel[0] * kernel[1]):
        i, j = divmod(tap, kernel[1])
        columns[..., i, j, :, :] = np.where(taps == tap, grad_output, 0)
    return _scatter(columns, size, stride, sides, dilation)


def max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Largest element of each window of a sequence, and optionally its index in the sequence.

    Examples
    --------
    >>> max_pool1d(np.array([[[3.0, 1.0, 4.0, 1.0]]]), 2, return_indices=True)
    (array([[[3., 4.]]]), array([[[0, 2]]]))
    """
    output, indices = max_pool2d(
        input[..., None, :],
        _row(kernel_size, 1),
        None if stride is None else _row(stride, 1),
        _row(padding, 0),
        _row(dilation, 1),
        ceil_mode,
        True,
    )
    output, indices = output[..., 0, :], indices[..., 0, :]
    return (output, indices) if return_indices else output


def max_pool1d_backward(grad_output, indices, input_shape):
    """Add each output's gradient to the element its index names.

    Examples
    --------
    >>> max_pool1d_backward(np.array([[[2.0, 3.0]]]), np.array([[[0, 2]]]), (1, 1, 4))
    array([[[2., 0., 3., 0.]]])
    """
    return _add_at(grad_output, indices, input_shape, plane_ndim=1)


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put each element where its index says, in planes of zeros; the last one wins where an index repeats.

    Examples
    --------
    >>> max_unpool2d(np.array([[[[5.0]]]]), np.array([[[[1]]]]), 2)
    array([[[[0., 5.],
             [0., 0.]]]])
    """
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = kernel if stride is None else _pair(stride)
    if output_size is None:
        output_size = [
            (n - 1) * s - 2 * p + k for n, s, p, k in zip(input.shape[-2:], stride, padding, kernel, strict=True)
        ]
    size = tuple(output_size)[-2:]
    lead = input.shape[:-2]
    planes = np.zeros((*lead, size[0] * size[1]), input.dtype)
    flat = (*lead, math.prod(input.shape[-2:]))
    np.put_along_axis(planes, indices.reshape(flat), input.reshape(flat), axis=-1)
    return planes.reshape(*lead, *size)


def max_unpool2d_backward(grad_output, indices):
    """Read the gradient at each index; where an index repeats, only the last one's value stayed, so the others get 0.

    Examples
    --------
    >>> max_unpool2d_backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), np.array([[[[2, 2]]]]))
    array([[[[0., 3.]]]])
    """
    return _taken(grad_output, indices, plane_ndim=2)


def _taken(planes, indices, plane_ndim):
    lead = indices.shape[:-plane_ndim]
    planes = planes.reshape(*lead, math.prod(planes.shape[-plane_ndim:]))
    flat = indices.reshape(*lead, math.prod(indices.shape[-plane_ndim:]))
    order = np.broadcast_to(np.arange(flat.shape[-1]), flat.shape)
    stayed = np.zeros(planes.shape, np.int64)
    np.put_along_axis(stayed, flat, order, axis=-1)
    is_last = np.take_along_axis(stayed, flat, axis=-1) == order
    return np.where(is_last, np.take_along_axis(planes, flat, axis=-1), 0).reshape(indices.shape)


def max_unpool1d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put each element where its index says, in sequences of zeros; the last one wins where an index repeats.

    Examples
    --------
    >>> max_unpool1d(np.array([[[3.0, 4.0]]]), np.array([[[0, 2]]]), 2)
    array([[[3., 0., 4., 0.]]])
    """
    if output_size is not None:
        output_size = (1, output_size[-1] if isinstance(output_size, (tuple, list)) else output_size)
    output = max_unpool2d(
        input[..., None, :],
        indices[..., None, :],
        _row(kernel_size, 1),
        None if stride is None else _row(stride, 1),
        _row(padding, 0),
        output_size,
    )
    return output[..., 0, :]


def max_unpool1d_backward(grad_output, indices):
    """Read the gradient at each index; where an index repeats, only the last one's value stayed, so the others get 0.

    Examples
    --------
    >>> max_unpool1d_backward(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[2, 0]]]))
    array([[[3., 1.]]])
    """
    return _taken(grad_output, indices, plane_ndim=1)


def _divisors(size, kernel, stride, sides, out, padding, count_include_pad, divisor_override):
    """What each window's sum is divided by: (oh, ow)."""
    if divisor_override is not None:
        return np.full(out, divisor_override)
    counts = []
    for a in (0, 1):
        start = np.arange(out[a]) * stride[a] - sides[a][0]
        end = np.minimum(start + kernel[a], size[a] + padding[a])  # the padded input, without the overhang
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size[a])
        counts.append(end - start)
    return np.outer(*counts)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Sum of each window over its divisor.

    The divisor is `divisor_override`, or the elements of the window inside the input and its padding, or with
    ``count_include_pad=False`` inside the input alone. What a ceil-mode window overhangs is never counted.

    Examples
    --------
    >>> avg_pool2d(np.array([[[[1.0, 2.0], [3.0, 6.0]]]]), 2)
    array([[[[3.]]]])
    """
    size = input.shape[-2:]
    kernel, stride, dilation, sides, out = _pool_geometry(size, kernel_size, stride, padding, 1, ceil_mode)
    divisors = _divisors(size, kernel, stride, sides, out, _pair(padding), count_include_pad, divisor_override)
    padded = _pad(input, sides)
    first, *others = (padded[where] for where in _tap_slices(kernel, stride, dilation, out))
    total = first.copy()
    for value in others:
        total += value
    return total / divisors.astype(input.dtype)


def avg_pool2d_backward(
    grad_output,
    input_shape,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
    *,
    channels_last=None,
):
    """Give every element of a window the output's gradient over the divisor of the forward pass.

    (`channels_last`, a memory order, changes nothing here.)

    Examples
    --------
    >>> avg_pool2d_backward(np.array([[[[4.0]]]]), (1, 1, 2, 2), 2)
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    size = tuple(input_shape[-2:])
    kernel, stride, dilation, sides, out = _pool_geometry(size, kernel_size, stride, padding, 1, ceil_mode)
    divisors = _divisors(size, kernel, stride, sides, out, _pair(padding), count_include_pad, divisor_override)
    share = (grad_output / divisors.astype(grad_output.dtype))[..., None, None, :, :]
    columns = np.broadcast_to(share, (*input_shape[:-2], *kernel, *out))
    return _scatter(columns, size, stride, sides, dilation)


def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean of each window of a sequence.

    Examples
    --------
    >>> avg_pool1d(np.array([[[1.0, 3.0, 5.0, 7.0]]]), 2)
    array([[[2., 6.]]])
    """
    output = avg_pool2d(
        input[..., None, :],
        _row(kernel_size, 1),
        None if stride is None else _row(stride, 1),
        _row(padding, 0),
        ceil_mode,
        count_include_pad,
    )
    return output[..., 0, :]


def avg_pool1d_backward(
    grad_output, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    """Give every element of a window the output's gradient over the divisor of the forward pass.

    Examples
    --------
    >>> avg_pool1d_backward(np.array([[[2.0, 4.0]]]), (1, 1, 4), 2)
    array([[[1., 1., 2., 2.]]])
    """
    grad_input = avg_pool2d_backward(
        grad_output[..., None, :],
        (*input_shape[:-1], 1, input_shape[-1]),
        _row(kernel_size, 1),
        None if stride is None else _row(stride, 1),
        _row(padding, 0),
        ceil_mode,
        count_include_pad,
    )
    return grad_input[..., 0, :]


def _adaptive_bounds(size, out) -> list[tuple[int, int]]:
    """Window i of `out` covers ``floor(i * size / out)`` up to ``ceil((i + 1) * size / out)``."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_avg_pool1d(input, output_size):
    """Mean of `output_size` windows that cover the sequence evenly.

    Examples
    --------
    >>> adaptive_avg_pool1d(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), 2)  # windows 1 2 3 and 3 4 5
    array([[[2., 4.]]])
    """
    out = output_size[0] if isinstance(output_size, (tuple, list)) else output_size
    bounds = _adaptive_bounds(input.shape[-1], out)
    return np.stack([input[..., start:end].mean(axis=-1) for start, end in bounds], axis=-1)


def adaptive_avg_pool1d_backward(grad_output, input_shape):
    """Share each output's gradient equally over its window.

    Examples
    --------
    >>> adaptive_avg_pool1d_backward(np.array([[[3.0, 6.0]]]), (1, 1, 5))
    array([[[1., 1., 3., 2., 2.]]])
    """
    grad_input = np.zeros(input_shape, grad_output.dtype)
    for i, (start, end) in enumerate(_adaptive_bounds(input_shape[-1], grad_output.shape[-1])):
        grad_input[..., start:end] += grad_output[..., i : i + 1] / (end - start)
    return grad_input


def adaptive_avg_pool2d(input, output_size):
    """Mean of windows that cover the plane evenly: the 1-D means along the columns, then along the rows.

    Examples
    --------
    >>> adaptive_avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 1)
    array([[[[7.5]]]])
    """
    rows, cols = (n if o is None else o for n, o in zip(input.shape[-2:], _pair(output_size), strict=True))
    means = adaptive_avg_pool1d(input, cols)
    return np.ascontiguousarray(adaptive_avg_pool1d(means.swapaxes(-1, -2), rows).swapaxes(-1, -2))


def adaptive_avg_pool2d_backward(grad_output, input_shape, *, channels_last=None):
    """Share each output's gradient equally over its window. (`channels_last`, a memory order, changes nothing here.)

    Examples
    --------
    >>> adaptive_avg_pool2d_backward(np.array([[[[4.0]]]]), (1, 1, 2, 2))
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    *lead, height, _ = input_shape
    out_width = grad_output.shape[-1]
    grad_rows = adaptive_avg_pool1d_backward(grad_output.swapaxes(-1, -2), (*lead, out_width, height))
    return adaptive_avg_pool1d_backward(grad_rows.swapaxes(-1, -2), input_shape)


# --------------------------------------------------------------------------------------------------------------------
# Batch norm
# --------------------------------------------------------------------------------------------------------------------


def _put(result, out):
    """The result, moved to `out` where that is given."""
    if out is None:
        return result
    np.copyto(out, result)
    return out


def _over_channels(vector, ndim):
    """Reshape (C,) so that it broadcasts over (N, C, ...)."""
    return vector.reshape(-1, *[1] * (ndim - 2))


def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    return_saved=False,
):
    """Normalise each channel: ``(input - mean) / sqrt(var + eps) * weight + bias``.

    In training, mean and (biased) variance are the batch's, and the running ones move towards the batch's by
    `momentum`, the variance by its unbiased estimate; an empty batch leaves them alone. Otherwise the running ones are
    used.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    2015.

    Examples
    --------
    >>> batch_norm(np.array([[1.0], [3.0]]), None, None, training=True, eps=0.0)
    array([[-1.],
           [ 1.]])
    """
    mean, invstd, scale, shift = batch_norm_factors(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )
    output = batch_norm_apply(input, mean, scale, shift)
    return (output, mean, invstd) if return_saved else output


def batch_norm_factors(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *, statistics=None
):
    """Mean, 1 / sqrt(var + eps), and the scale and shift with which `batch_norm_apply` is `batch_norm`.

    `statistics` has mean and biased variance of the batch, if they are known.

    Examples
    --------
    >>> batch_norm_factors(np.array([[1.0], [3.0]]), None, None, np.array([2.0]), training=True, eps=0.0)
    (array([2.]), array([1.]), array([2.]), array([0.]))
    """
    channels = input.shape[1]
    count = input.size // channels
    if training and count == 1:
        raise ValueError(f"input: expected more than one value per channel when training, got shape {input.shape}")
    if training and count:
        axes = (0, *range(2, input.ndim))
        mean = input.mean(axis=axes)
        var = np.square(input - _over_channels(mean, input.ndim)).mean(axis=axes)
        if statistics is not None:
            mean, var = statistics.astype(input.dtype)
        if running_mean is not None:
            running_mean += momentum * (mean - running_mean)
            running_var += momentum * (var * (count / (count - 1)) - running_var)
    elif training:
        mean, var = np.zeros(channels, input.dtype), np.zeros(channels, input.dtype)
    else:
        mean, var = running_mean, running_var
    invstd = 1 / np.sqrt(var + eps)
    scale = invstd if weight is None else invstd * weight
    return mean, invstd, scale, np.zeros_like(mean) if bias is None else bias


def batch_norm_apply(input, mean, scale, shift, *, residual=None, relu=False, out=None):
    """``(input - mean) * scale + shift``, plus the residual, and ReLU of that.

    Examples
    --------
    >>> one = np.ones(1)
    >>> batch_norm_apply(np.array([[1.0], [3.0]]), one, 2 * one, one, residual=np.array([[-9.0], [1.0]]), relu=True)
    array([[0.],
           [6.]])
    """
    mean, scale, shift = (_over_channels(vector, input.ndim) for vector in (mean, scale, shift))
    output = (input - mean) * scale + shift
    if residual is not None:
        output += residual
    return _put(np.maximum(output, 0) if relu else output, out)


def batch_norm_backward(
    grad_output, input, weight, mean, invstd, training=True, *, relu=None, return_masked=False, sums=None, out=None
):
    """Gradients of `batch_norm` with respect to input, weight and bias.

    With ``xhat = (input - mean) * invstd``, sums and means over everything but the channels: the bias's gradient is
    ``sum(grad_output)``, the weight's is ``sum(grad_output * xhat)``, and the input's in training is
    ``weight * invstd * (grad_output - mean(grad_output) - xhat * mean(grad_output * xhat))``; in evaluation, where
    mean and variance are constants, the two means are left out. Where `relu`, the output of a ReLU behind batch norm or
    the (scale, shift) that it is computed by, is 0, so is grad_output; `return_masked` returns it like that, too.
    `sums` has the sums of that and of its product with input - mean, if they are known.

    Examples
    --------
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> gi, gw, gb = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, np.array([2.0]), np.array([1.0]))
    >>> gi.ravel().round(3), gw, gb
    (array([ 0.333, -0.333,  0.   ]), array([-1.]), array([1.]))
    """
    if isinstance(relu, tuple):
        relu = batch_norm_apply(input, mean, *relu, relu=True)
    if relu is not None:
        grad_output = relu_backward(grad_output, relu)
    axes = (0, *range(2, input.ndim))
    xhat = (input - _over_channels(mean, input.ndim)) * _over_channels(invstd, input.ndim)
    grad_bias = grad_output.sum(axis=axes)
    grad_weight = (grad_output * (input - _over_channels(mean, input.ndim))).sum(axis=axes) * invstd
    if sums is not None:
        grad_bias, grad_weight = sums[0].astype(input.dtype), (sums[1] * invstd).astype(input.dtype)
    scale = invstd if weight is None else invstd * weight
    grad_input = grad_output
    if training:
        count = max(input.size // input.shape[1], 1)
        mean_grad = _over_channels(grad_bias / count, input.ndim)
        mean_product = _over_channels(grad_weight / count, input.ndim)
        grad_input = grad_output - mean_grad - xhat * mean_product
    grads = _put(grad_input * _over_channels(scale, input.ndim), out), grad_weight, grad_bias
    return (*grads, grad_output) if return_masked else grads


# --------------------------------------------------------------------------------------------------------------------
# Activations
# --------------------------------------------------------------------------------------------------------------------


def add(input, other, *, out=None):
    """The sum of two arrays of one shape.

    Examples
    --------
    >>> add(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([4., 6.])
    """
    return _put(input + other, out)


def relu(input):
    """``max(input, 0)``; NaN stays NaN.

    Examples
    --------
    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return np.maximum(input, 0)


def relu_backward(grad_output, output):
    """Pass the gradient where the output is not zero.

    Examples
    --------
    >>> relu_backward(np.array([5.0, 5.0, 5.0]), np.array([0.0, 0.0, 2.0]))
    array([0., 0., 5.])
    """
    return np.where(output <= 0, 0, grad_output)


def leaky_relu(input, negative_slope=0.01):
    """``input`` where it is positive, ``negative_slope * input`` elsewhere.

    Examples
    --------
    >>> leaky_relu(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """
    return np.where(input > 0, input, input * negative_slope)


def leaky_relu_backward(grad_output, input, negative_slope=0.01):
    """Pass the gradient where the input is positive, times `negative_slope` elsewhere.

    Examples
    --------
    >>> leaky_relu_backward(np.array([1.0, 1.0]), np.array([0.0, 2.0]))
    array([0.01, 1.  ])
    """
    return np.where(input > 0, grad_output, grad_output * negative_slope)


def sigmoid(input):
    """``1 / (1 + exp(-input))``, written so that exp cannot overflow.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    decay = np.exp(-np.abs(input))
    return np.where(input < 0, decay, 1) / (1 + decay)


def sigmoid_backward(grad_output, output):
    """``grad_output * output * (1 - output)``.

    Examples
    --------
    >>> sigmoid_backward(np.array([1.0]), np.array([0.5]))
    array([0.25])
    """
    return grad_output * output * (1 - output)


def tanh(input):
    """Hyperbolic tangent.

    Examples
    --------
    >>> tanh(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7616])
    """
    return np.tanh(input)


def tanh_backward(grad_output, output):
    """``grad_output * (1 - output**2)``.

    Examples
    --------
    >>> tanh_backward(np.array([1.0, 1.0]), np.array([0.0, 0.5]))
    array([1.  , 0.75])
    """
    return grad_output * (1 - output * output)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _gelu_tanh_argument(input):
    return math.sqrt(2 / math.pi) * (input + 0.044715 * input**3)


def gelu(input, approximate="none"):
    """``input`` times the normal distribution's probability of a value below it, or its tanh approximation.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    >>> gelu(np.array([-1.0, 0.0, 1.0]), approximate="tanh").round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    if approximate == "tanh":
        return 0.5 * input * (1 + np.tanh(_gelu_tanh_argument(input)))
    return (0.5 * input * _erfc(-input / math.sqrt(2))).astype(input.dtype)


def gelu_backward(grad_output, input, approximate="none"):
    """``grad_output * (Phi(input) + input * phi(input))``, or the derivative of the tanh approximation.

    Examples
    --------
    >>> gelu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 1.0833])
    """
    input = np.clip(input, -1000, 1000)  # the limits are reached long before, and inf * 0 is not a number
    if approximate == "tanh":
        t = np.tanh(_gelu_tanh_argument(input))
        inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * input**2)
        return grad_output * (0.5 * (1 + t) + 0.5 * input * (1 - t * t) * inner)
    below = 0.5 * _erfc(-input / math.sqrt(2))
    density = np.exp(-0.5 * input * input) / math.sqrt(2 * math.pi)
    return (grad_output * (below + input * density)).astype(input.dtype)


def silu(input):
    """``input * sigmoid(input)``.

    Examples
    --------
    >>> silu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7311])
    """
    return input * sigmoid(input)


def silu_backward(grad_output, input):
    """``grad_output * s * (1 + input * (1 - s))`` with ``s = sigmoid(input)``.

    Examples
    --------
    >>> silu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 0.9277])
    """
    input = np.clip(input, -1000, 1000)  # the limits are reached long before, and inf * 0 is not a number
    s = sigmoid(input)
    return grad_output * s * (1 + input * (1 - s))


# --------------------------------------------------------------------------------------------------------------------
# Dropout
# --------------------------------------------------------------------------------------------------------------------


def _splitmix64(seed, count):
    """The first `count` outputs of the SplitMix64 generator, each computed from its place in the sequence."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dropout(input, p=0.5, training=True, *, rng=None, return_mask=False):
    """Set elements to zero with probability `p` and scale the others by ``1 / (1 - p)``.

    One 64-bit number is drawn from `rng` (None: a new generator with a seed of its own). It seeds SplitMix64, and
    element i, counted in logical order, is kept if the upper half of output i is below ``(1 - p) * 2**32``.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.

    Examples
    --------
    >>> dropout(np.ones(8), 0.5, rng=np.random.default_rng(0)).tolist()
    [0.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0]
    """
    mask = None
    output = input.copy()
    if training:
        rng = np.random.default_rng() if rng is None else rng
        seed = rng.integers(0, 2**64, dtype=np.uint64)
        keep = _splitmix64(seed, input.size) >> np.uint64(32) < np.uint64(math.floor((1 - p) * 2**32))
        mask = keep.reshape(input.shape).astype(np.uint8)
        output = dropout_backward(input, mask, p)
    return (output, mask) if return_mask else output


def dropout_backward(grad_output, mask, p=0.5):
    """The gradient goes through the same elements with the same scale; unchanged where `mask` is None.

    Examples
    --------
    >>> dropout_backward(np.array([1.0, 1.0]), np.array([0, 1], np.uint8), 0.75)
    array([0., 4.])
    """
    if mask is None:
        return grad_output.copy()
    scale = 1 / (1 - p) if p < 1 else 0
    return np.where(mask, grad_output * scale, 0)


# --------------------------------------------------------------------------------------------------------------------
# Linear
# --------------------------------------------------------------------------------------------------------------------


def linear(input, weight, bias=None, *, relu=False):
    """``input @ weight.T + bias`` over the last axis, perhaps behind ReLU.

    Examples
    --------
    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0.5, 0.0]))
    array([[11.5, 17. ]])
    """
    output = input @ weight.T
    output = output if bias is None else output + bias
    return np.maximum(output, 0) if relu else output


def linear_backward(grad_output, input, weight, *, relu=None, needs=(True, True, True), out=(None, None, None)):
    """Gradients of `linear` with respect to input, weight and bias; None for those not needed.

    `relu` is the output of `linear` that took it.

    Examples
    --------
    >>> linear_backward(np.array([[1.0, 10.0]]), np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]))
    (array([[53., 64.]]), array([[ 1.,  2.],
           [10., 20.]]), array([ 1., 10.]))
    """
    out_features, in_features = weight.shape
    rows = math.prod(input.shape[:-1])
    if relu is not None:
        grad_output = np.where(relu <= 0, 0, grad_output)
    grad_rows = grad_output.reshape(rows, out_features)
    return _into(
        out,
        grad_output @ weight if needs[0] else None,
        grad_rows.T @ input.reshape(rows, in_features) if needs[1] else None,
        grad_rows.sum(axis=0) if needs[2] else None,
    )


def flatten(input, start_dim=0, end_dim=-1):
    """Join the axes from `start_dim` to `end_dim` into one.

    Examples
    --------
    >>> flatten(np.zeros((2, 3, 4, 5)), 1).shape
    (2, 60)
    """
    first, last = start_dim % input.ndim, end_dim % input.ndim
    return input.reshape(*input.shape[:first], math.prod(input.shape[first : last + 1]), *input.shape[last + 1 :])


def flatten_backward(grad_output, input_shape, start_dim=0, end_dim=-1, *, channels_last=False):
    """Gradient of `flatten`'s input; `channels_last` is its order in memory.

    Examples
    --------
    >>> flatten_backward(np.zeros((2, 60)), (2, 3, 4, 5), 1).shape
    (2, 3, 4, 5)
    """
    grad = grad_output.reshape(input_shape)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(grad, 1, -1)), -1, 1) if channels_last else grad


# --------------------------------------------------------------------------------------------------------------------
# Softmax and losses
# --------------------------------------------------------------------------------------------------------------------


def softmax(input, dim=-1):
    """``exp(input) / sum(exp(input))`` along `dim`, with the largest element taken off first.

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0])), softmax(np.array([1000.0, 0.0]))
    (array([0.5, 0.5]), array([1., 0.]))
    """
    powers = np.exp(input - input.max(axis=dim, keepdims=True))
    return powers / powers.sum(axis=dim, keepdims=True)


def log_softmax(input, dim=-1):
    """Logarithm of `softmax`, accurate where that would be zero.

    Examples
    --------
    >>> log_softmax(np.array([1000.0, 0.0]))
    array([    0., -1000.])
    """
    shifted = input - input.max(axis=dim, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def softmax_backward(grad_output, output, dim=-1):
    """``output * (grad_output - sum(grad_output * output))``.

    Examples
    --------
    >>> softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return output * (grad_output - (grad_output * output).sum(axis=dim, keepdims=True))


def log_softmax_backward(grad_output, output, dim=-1):
    """``grad_output - exp(output) * sum(grad_output)``.

    Examples
    --------
    >>> log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]))
    array([ 0.5, -0.5])
    """
    return grad_output - np.exp(output) * grad_output.sum(axis=dim, keepdims=True)


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Loss of the logits (N, C, ...) for the classes `target` (N, ...), and its gradient.

    Each target is a distribution q over the classes, ``weight[c] * ((1 - label_smoothing) * (c == target) +
    label_smoothing / C)``; the loss is ``-sum over c of q[c] * log_softmax(input)[c]``, and its gradient
    ``softmax(input) * sum(q) - q``. The mean divides by the sum of ``weight[target]`` over the targets that are not
    ignored; with none of them it is NaN.

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016 (label smoothing).

    Examples
    --------
    >>> loss, grad = cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(loss, 4), grad
    (0.6931, array([[ 0.5, -0.5]]))
    """
    classes = input.shape[1]
    counted = target != ignore_index
    chosen = np.where(counted, target, 0)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < classes:
        raise ValueError(f"target: expected classes from 0 to {classes - 1} or {ignore_index}, got others")
    weight = np.ones(classes, input.dtype) if weight is None else weight
    scale = np.where(counted, weight[chosen], 0).astype(input.dtype)

    log_probabilities = log_softmax(input, dim=1)
    at_target = np.expand_dims(chosen, 1)
    losses = -scale * np.take_along_axis(log_probabilities, at_target, axis=1)[:, 0]
    q = np.zeros_like(input)
    np.put_along_axis(q, at_target, np.expand_dims(scale, 1), axis=1)
    if label_smoothing:
        smooth = _over_channels(weight, input.ndim) * np.expand_dims(counted, 1) / input.dtype.type(classes)
        spread = -(smooth * log_probabilities).sum(axis=1)
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
        q = (1 - label_smoothing) * q + label_smoothing * smooth
    losses = np.where(counted, losses, 0)
    grad_input = np.exp(log_probabilities) * q.sum(axis=1, keepdims=True) - q
    grad_input = np.where(np.expand_dims(counted, 1), grad_input, 0)

    if reduction == "none":
        return losses, grad_input
    total = float(losses.sum(dtype=np.float64))
    if reduction == "sum":
        return total, grad_input
    divisor = float(scale.sum(dtype=np.float64)) or math.nan
    return total / divisor, np.where(np.expand_dims(counted, 1), grad_input / divisor, 0)


def mse_loss(input, target, reduction="mean"):
    """Squared difference, and its gradient with respect to `input`; the mean of nothing is NaN.

    Examples
    --------
    >>> mse_loss(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    (2.5, array([ 1., -2.]))
    """
    difference = input - target
    losses = difference * difference
    if reduction == "none":
        return losses, 2 * difference
    total = float(losses.sum(dtype=np.float64))
    if reduction == "sum":
        return total, 2 * difference
    return (total / input.size, difference * (2 / input.size)) if input.size else (math.nan, difference)


# --------------------------------------------------------------------------------------------------------------------
# Updates, in place
# --------------------------------------------------------------------------------------------------------------------


def sgd_update(
    param,
    grad,
    momentum_buffer,
    lr,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    *,
    first_step=False,
):
    """One step of gradient descent; on the first step the momentum buffer becomes the gradient, without dampening.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> param = np.array([1.0])
    >>> sgd_update(param, np.array([0.5]), None, lr=0.1)
    >>> param
    array([0.95])
    """
    step = grad + weight_decay * param if weight_decay else grad
    if momentum:
        if first_step:
            momentum_buffer[:] = step
        else:
            momentum_buffer *= momentum
            momentum_buffer += (1 - dampening) * step
        step = step + momentum * momentum_buffer if nesterov else momentum_buffer
    param -= lr * step


def adam_update(
    param, grad, exp_avg, exp_avg_sq, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False
):
    """Step number `step` (from 1) of Adam, or of AdamW where `decoupled`.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015.
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    Examples
    --------
    >>> param = np.array([1.0])
    >>> adam_update(param, np.array([0.5]), np.zeros(1), np.zeros(1), step=1, lr=0.1)
    >>> param.round(6)
    array([0.9])
    """
    if weight_decay and decoupled:
        param *= 1 - lr * weight_decay
    elif weight_decay:
        grad = grad + weight_decay * param
    exp_avg += (1 - beta1) * (grad - exp_avg)
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * grad * grad
    denominator = np.sqrt(exp_avg_sq) / math.sqrt(1 - beta2**step) + eps
    param -= lr / (1 - beta1**step) * exp_avg / denominator


def clip_grad_norm(grad, max_norm) -> float:
    """Euclidean norm of the gradient, which is scaled in place so that the norm is at most `max_norm`.

    Examples
    --------
    >>> grad = np.array([3.0, 4.0])
    >>> clip_grad_norm(grad, 1.0), grad.round(4)
    (5.0, array([0.6, 0.8]))
    """
    norm = math.sqrt(np.square(grad, dtype=np.float64).sum())
    coefficient = max_norm / (norm + 1e-6)
    if not coefficient >= 1:
        grad *= coefficient
    return norm


# --------------------------------------------------------------------------------------------------------------------
# Arrays of other classes
# --------------------------------------------------------------------------------------------------------------------


def _plain(name, value):
    """The memory of a subclass of ndarray as an ndarray proper; a mask that hides elements would be lost halfway."""
    if isinstance(value, (tuple, list)):
        return type(value)([_plain(name, item) for item in value])
    if type(value) is np.ndarray or not isinstance(value, np.ndarray):
        return value
    if np.ma.is_masked(value):
        kind = type(value).__name__
        raise TypeError(f"{name}: expected an array without masked elements, got {kind} that masks some")
    return np.asarray(value)


def _of_plain_arrays(function):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]

    def call(*arguments, **options):
        plain = [_plain(name, value) for name, value in zip(names, arguments, strict=False)]
        options = {name: _plain(name, value) for name, value in options.items()}
        return function(*plain, *arguments[len(names) :], **options)

    for attribute in ("__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(call, attribute, getattr(function, attribute))
    call.__wrapped__ = function  # whose signature it has
    return call


for _name, _value in list(globals().items()):
    if not _name.startswith("_") and type(_value) is type(_plain):
        globals()[_name] = _of_plain_arrays(_value)
