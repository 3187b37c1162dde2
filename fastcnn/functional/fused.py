"""Functions that go together in networks, in fewer passes over memory than one after another."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, overload

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import new, new_images, required, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import flag
from fastcnn.functional._types import Algorithm, Array, Gradients, Size
from fastcnn.functional.conv import _checked, _checked_geometry, _conv_window, _gradients
from fastcnn.functional.norm import _vectors
from fastcnn.functional.pooling import _checked_taps, _taps_dtype
from fastcnn.functional.pooling import _geometry as _pool_geometry
from fastcnn.kernels import norm_conv, winners

# Bytes of what is between two functions that go through them at once: they then stay in the cache.
PART = norm_conv.part_bytes()

_FACTORS = "mean", "scale", "shift"


@overload
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
    statistics: Literal[False] = False,
    algorithm: Algorithm | None = None,
) -> np.ndarray: ...
@overload
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
    statistics: Literal[True],
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...
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
    statistics: bool = False,
    algorithm: Algorithm | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
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
    statistics : bool, default False
        Whether to return those of the output as well: `batch_norm_factors` takes them.
    algorithm : {'auto', 'direct'}, optional
        As of `conv2d`.

    Returns
    -------
    output : ndarray of shape (N, O, oh, ow)
        conv2d(batch_norm_apply(input, mean, scale, shift, relu=relu), weight, bias, ...).
    statistics : ndarray of float64, of shape (2, O)
        Only with `statistics`: mean and biased variance of each channel of the output.

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
    factors, geometry = (mean, scale, shift), (stride, padding, dilation, groups)
    return _norm_conv(input, factors, weight, bias, geometry, relu, statistics, PART, algorithm)


def _checked_norm_conv(input, factors, weight, bias, geometry, relu, algorithm):
    """As `_checked`, with mean, scale, shift and relu."""
    input, *factors, weight = required(input=input, **dict(zip(_FACTORS, factors, strict=True)), weight=weight)
    check.ndim("input", input, 4)
    _vectors(input.shape[1], **dict(zip(_FACTORS, factors, strict=True)))
    relu = flag("relu", relu)
    x, w, bias, window, size = _checked(input, weight, bias, *geometry, 2, algorithm)
    return x, [np.ascontiguousarray(vector) for vector in factors], w, bias, window, size, relu


@remembered
def _norm_conv(input, factors, weight, bias, geometry, relu, statistics, part_bytes, algorithm):
    checked = _checked_norm_conv(input, factors, weight, bias, geometry, relu, algorithm)
    x, factors, w, bias, window, size, relu = checked
    results = (new_images(size, 2, True, window["channels_last"], x.dtype),)
    statistics = flag("statistics", statistics)
    if statistics:
        results = (*results, new((2, size[1]), np.dtype(np.float64)))
    if not x.size:
        return zeros(results)
    integers = size[1], int(geometry[3]), relu, part_bytes, statistics
    return Call("norm_conv", (x, *factors, w, bias), results, window=window, integers=integers)


@overload
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
    sums: Literal[False] = False,
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]: ...
@overload
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
    sums: Literal[True],
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]: ...
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
    sums: bool = False,
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray | None, ...]:
    """Return the gradients of the convolution in `norm_conv2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, O, oh, ow)
        Gradient of the output.
    input, mean, scale, shift, weight, stride, padding, dilation, groups, relu
        What the forward call had.
    needs : three bools
        Which of the three gradients to compute.
    sums : bool, default False
        Whether to return those of grad_input as well, which is then needed: `batch_norm_backward` takes them, with
        scale and shift as its `relu` if there is one.
    algorithm : {'auto', 'direct'}, optional
        As of `conv2d`.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of what is convolved (that of ReLU's output, where there is one), weight and bias; None where not needed.
    sums : ndarray of float64, of shape (2, C)
        Only with `sums`: over each channel of grad_input where ReLU lets it through, and of its product with
        input - mean.

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
    factors, geometry = (mean, scale, shift), (stride, padding, dilation, groups)
    return _norm_conv_backward(grad_output, input, factors, weight, geometry, relu, needs, sums, PART, algorithm)


@remembered
def _norm_conv_backward(grad_output, input, factors, weight, geometry, relu, needs, sums, part_bytes, algorithm):
    (grad_output,) = required(grad_output=grad_output)
    checked = _checked_norm_conv(input, factors, weight, None, geometry, relu, algorithm)
    x, factors, w, _, window, size, relu = checked
    needs, channels_last, sums = check.needs(needs), window["channels_last"], flag("sums", sums)
    if sums and not needs[0]:
        check.fail("sums", "False, as the gradient that they are of is not needed", True)
    check.floats(input=x, grad_output=grad_output)
    check.shape("grad_output", grad_output, size)
    results = _gradients(x, w.shape, needs, (None, None, None), 2, True, channels_last)
    if sums:
        results = (*results, new((2, x.shape[1]), np.dtype(np.float64)))
    if not x.size:
        return zeros(results)
    arrays = check.ordered(grad_output, channels_last)[0], x, *factors, w
    integers = size[1], int(geometry[3]), relu, part_bytes, sums
    return Call("norm_conv_backward", arrays, results, window=window, integers=integers)


# --- convolution and max-pool -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)  # a network asks for the same few, step after step
def _conv_size(input_shape, weight_shape, *geometry):
    batch = input_shape if len(input_shape) == 4 else (1, *input_shape)
    return _checked_geometry(batch, weight_shape, *geometry, 2, False)[1][4 - len(input_shape) :]


def conv_size(input: np.ndarray, weight: np.ndarray, geometry: tuple) -> tuple[int, ...]:
    """The shape of the convolution's output."""
    try:
        return _conv_size(input.shape, weight.shape, *geometry)
    except TypeError:  # it has a list, or is wrong
        return _conv_size.__wrapped__(input.shape, weight.shape, *geometry)


def _window(size: tuple[int, ...], pool: object) -> tuple:
    """Check a pool over images of this size: its arguments, and its geometry."""
    if not isinstance(pool, (tuple, list)) or not 1 <= len(pool) <= 5:
        check.fail(
            "pool",
            "a tuple of kernel_size, stride, padding, dilation, ceil_mode or the first of them",
            check.shown(pool),
        )
    try:
        return tuple(pool), _pool_geometry(size, 2, *pool)
    except (TypeError, ValueError) as error:  # which names an argument of `max_pool2d_taps`
        raise type(error)(f"pool: {error}") from None


@remembered
def _conv_pool(input, weight, bias, stride, padding, dilation, groups, pool, relu, taps, algorithm):
    """What is between is scratch, a few images at a time."""
    input, weight = required(input=input, weight=weight)
    x, w, bias, window, size = _checked(input, weight, bias, stride, padding, dilation, groups, 2, algorithm)
    relu, geometry, channels_last = flag("relu", relu), _window(size, pool)[1], window["channels_last"]
    kept = np.dtype(_taps_dtype(geometry, relu)) if flag("taps", taps) else None
    layout = (*size[:2], *geometry.places), 2, input.ndim == 4, channels_last
    results = new_images(*layout, x.dtype), None if kept is None else new_images(*layout, kept)
    if not x.size:
        return zeros(results)
    integers = size[1], int(groups), 0 if kept is None else kept.itemsize, relu
    then = geometry.window(size, channels_last)
    return Call("conv_pool", (x, w, bias), results, window=window, pool=then, integers=integers)


@remembered
def _conv_pool_backward(
    grad_output, taps, input, weight, stride, padding, dilation, groups, pool, relu, needs, out, part_bytes, algorithm
):
    apart = {"grad_output": grad_output, "taps": taps, "input": input, "weight": weight}
    input, weight, grad_output = required(input=input, weight=weight, grad_output=grad_output)
    x, w, _, window, size = _checked(input, weight, None, stride, padding, dilation, groups, 2, algorithm)
    check.ndim("grad_output", grad_output, input.ndim)
    batched, channels_last = input.ndim == 4, window["channels_last"]
    checked = _checked_taps(grad_output, taps, size if batched else size[1:], relu, *_window(size, pool)[0])
    grads, marks, _, geometry, integers, refused = checked
    results = _gradients(x, weight.shape, check.needs(needs), out, 2, batched, channels_last, **apart)
    if not x.size:
        return zeros(results)
    arrays = check.ordered(grads, channels_last)[0], check.ordered(marks, channels_last)[0], x, w
    then = geometry.window(size, channels_last)
    kernel = "winners_backward" if winners.fit(window, then, int(groups), x.itemsize) else "conv_pool_backward"
    integers = size[1], int(groups), *integers, part_bytes
    return Call(kernel, arrays, results, window=window, pool=then, integers=integers, refused=refused)


def conv2d_max_pool(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    pool: tuple,
    relu: bool = False,
    taps: bool = True,
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Take the maxima of windows of a convolution's output; that is never in memory as a whole.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    weight, bias, stride, padding, dilation, groups
        What `conv2d` is given.
    pool : tuple
        What `max_pool2d_taps` is given: kernel_size, and stride, padding, dilation and ceil_mode or the first of them.
    relu : bool, default False
        Whether ReLU comes between, or after, which is the same.
    taps : bool, default True
        Whether `conv2d_max_pool_backward` may follow, which needs to know where the maxima were.
    algorithm : {'auto', 'direct'}, optional
        As of `conv2d`.

    Returns
    -------
    output, taps : ndarray of shape (N, O, oh, ow) or (O, oh, ow)
        max_pool2d_taps(conv2d(input, weight, bias, ...), *pool, relu=relu); None for the taps where not asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x = np.array([[[[1.0, 5.0, -2.0, 1.0]]]])
    >>> F.conv2d_max_pool(x, np.full((1, 1, 1, 1), 2.0), pool=((1, 2),), relu=True)
    (array([[[[10.,  2.]]]]), array([[[[1, 1]]]], dtype=uint8))
    """
    return _conv_pool(input, weight, bias, stride, padding, dilation, groups, pool, relu, taps, algorithm)


def conv2d_max_pool_backward(
    grad_output: Array,
    taps: Array,
    input: Array,
    weight: Array,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    pool: tuple,
    relu: bool = False,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the gradients of `conv2d_max_pool`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, O, oh, ow) or (O, oh, ow)
        Gradient of the output.
    taps : ndarray of uint8 or int32, of the same shape
        As `conv2d_max_pool` returned them.
    input, weight, stride, padding, dilation, groups, pool, relu
        What the forward call had.
    needs, out, algorithm
        As of `conv2d_backward`.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of the shapes of `input` (and in its memory order), `weight` and (O,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x, weight, pool = np.array([[[[1.0, 5.0, -2.0, 1.0]]]]), np.full((1, 1, 1, 1), 2.0), ((1, 2),)
    >>> output, taps = F.conv2d_max_pool(x, weight, pool=pool)
    >>> F.conv2d_max_pool_backward(np.array([[[[10.0, 20.0]]]]), taps, x, weight, pool=pool)
    (array([[[[ 0., 20.,  0., 40.]]]]), array([[[[70.]]]]), array([30.]))
    """
    return _conv_pool_backward(
        grad_output, taps, input, weight, stride, padding, dilation, groups, pool, relu, needs, out, PART, algorithm
    )


# --- convolution and batch norm of known factors ----------------------------------------------------------------------


def conv2d_norm(
    input: Array,
    weight: Array,
    bias: Array | None,
    mean: Array,
    scale: Array,
    shift: Array,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    residual: Array | None = None,
    relu: bool = False,
    algorithm: Algorithm | None = None,
) -> np.ndarray:
    """Return what `batch_norm_apply` makes of a convolution, row by row while that is in the cache.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W)
        float32 or float64, in either memory order.
    weight, bias, stride, padding, dilation, groups
        What `conv2d` is given.
    mean, scale, shift : ndarray of shape (O,)
    residual : ndarray of shape (N, O, oh, ow), optional
    relu : bool, default False
        What `batch_norm_apply` is given.
    algorithm : {'auto', 'direct'}, optional
        As of `conv2d`.

    Returns
    -------
    ndarray of shape (N, O, oh, ow)
        To the bit batch_norm_apply(conv2d(input, weight, bias, ...), mean, scale, shift, residual=residual, relu=relu).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> F.conv2d_norm(np.array([[[[-5.0, 2.0]]]]), 3 * np.ones((1, 1, 1, 1)), None, zero, one, one, relu=True)
    array([[[[0., 7.]]]])
    """
    geometry = stride, padding, dilation, groups
    return _conv_norm(input, weight, bias, mean, scale, shift, *geometry, residual, relu, algorithm)


@remembered
def _conv_norm(input, weight, bias, mean, scale, shift, stride, padding, dilation, groups, residual, relu, algorithm):
    input, weight, *factors = required(input=input, weight=weight, mean=mean, scale=scale, shift=shift)
    _, bias, residual = check.floats(input=input, bias=bias, residual=residual)
    check.ndim("input", input, 4)
    check.ndim("weight", weight, 4)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    _vectors(weight.shape[0], **dict(zip(("mean", "scale", "shift"), factors, strict=True)))
    relu = flag("relu", relu)
    x, window, size = _conv_window(input, weight, stride, padding, dilation, groups, 2, algorithm)
    channels_last = window["channels_last"]
    if residual is not None:
        check.shape("residual", residual, size)
        residual = check.ordered(residual, channels_last)[0]
    result = new_images(size, 2, True, channels_last, x.dtype)
    if not x.size:
        return zeros((result,))
    arrays = x, np.ascontiguousarray(weight), bias, *map(np.ascontiguousarray, factors), residual
    return Call("conv_norm", arrays, (result,), window=window, integers=(size[1], int(groups), relu))
