"""Max-pooling with indices or taps, max-unpooling, average and adaptive average pooling, in one and two dimensions.

A 1-D function is the 2-D one on an image of height one.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache, partial
from typing import Literal, NamedTuple, overload

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import new_images, required, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._types import Array, Shape, Size

# A tap, and an index counted from the window's first tap, are 32-bit numbers inside the kernels.
_MOST = 2**31 - 1


# --- checks that the functions share --------------------------------------------------------------------------------


def _images(name: str, array: np.ndarray, dims: int) -> np.ndarray:
    """View a batch, or one image or sequence, as (N, C, H, W)."""
    check.ndim(name, array, dims + 2, dims + 1)
    if min(array.shape[-dims - 1 :]) < 1:
        check.fail(name, "no extent of zero but the batch's", f"shape {array.shape}")
    batch = array if array.ndim == dims + 2 else array[None]
    return batch if dims == 2 else batch[:, :, None, :]


def _as_given(images: np.ndarray, given: int, dims: int) -> np.ndarray:
    """Undo `_images` for an array that had `given` dimensions."""
    batch = images if dims == 2 else images[:, :, 0, :]
    return batch if given == dims + 2 else batch[0]


def _image_shape(name: str, value: object, dims: int, given: int) -> tuple[int, int, int, int]:
    """Check the shape of an input whose gradient has `given` dimensions, as (N, C, H, W)."""
    size = check.shape_argument(name, value, given)
    if min(size[-dims - 1 :]) < 1:
        check.fail(name, "no extent of zero but the batch's", size)
    check.fits(name, size)
    batch = size if given == dims + 2 else (1, *size)
    n, c, h, w = batch if dims == 2 else (*batch[:2], 1, batch[2])
    return n, c, h, w


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        check.fail(name, "a bool", check.shown(value), TypeError)
    return bool(value)


def _channels_last(array: np.ndarray) -> bool:
    """Memory order of a gradient or of what forward kept; for a single pixel, the order that it was made in."""
    channels, height, width = array.shape[1:]
    if height * width == 1 and channels > 1:
        return array.strides[1] == array.itemsize and array.strides[3] == channels * array.itemsize
    return check.is_channels_last(array)


def _marks(name: str, array: object, dtype: type, size: tuple[int, ...], dims: int) -> np.ndarray:
    """Check taps or indices, which have the gradient's or the values' shape, and view them as (N, C, H, W)."""
    array = check.array(name, array, f"a NumPy array of {dtype.__name__}")
    if array.dtype != dtype:
        check.fail(name, f"an array of {dtype.__name__}", array.dtype, TypeError)
    check.shape(name, array, size)
    return _images(name, array if array.flags.aligned else array.copy(), dims)


def _range(array: np.ndarray) -> str:
    return f"values from {array.min()} to {array.max()}"


class _Geometry(NamedTuple):
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    places: tuple[int, ...]

    def window(self, size: tuple[int, ...], channels_last: bool) -> dict[str, int]:
        return check.window(size, self.places, *self[:4], channels_last)


def _geometry(size, dims, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False) -> _Geometry:
    """Check a pooling window over (N, C, H, W) images and return its geometry."""
    kernel = check.integers("kernel_size", kernel_size, dims, 1)
    step = kernel if stride is None else check.integers("stride", stride, dims, 1)
    pad = check.integers("padding", padding, dims, 0)
    spread = check.integers("dilation", dilation, dims, 1)
    return _placed(size, dims, kernel, step, pad, spread, _flag("ceil_mode", ceil_mode))


@lru_cache(maxsize=4096)  # a network asks for the same few, step after step
def _placed(size, dims, kernel, step, pad, spread, ceil_mode) -> _Geometry:
    if any(p > k // 2 for p, k in zip(pad, kernel, strict=True)):
        check.fail("padding", f"at most half of kernel_size {kernel}", pad)
    if math.prod(kernel) > _MOST:
        check.fail("kernel_size", f"at most {_MOST} taps", kernel)
    extents = size[4 - dims :]
    axes = list(zip(extents, kernel, step, pad, spread, strict=True))
    places = tuple(check.output_size(*axis, ceil_mode) for axis in axes)
    if min(places) < 1:
        check.fail("kernel_size", f"a window that fits the input's {extents} with padding {pad}", kernel)
    if not all(_meets_input(*axis) for axis in axes):
        check.fail("dilation", f"every window to hold an element of the input's {extents}", spread)
    geometry = _Geometry(kernel, step, pad, spread, places)
    if dims == 1:
        row = (1, 1, 0, 1, 1)
        geometry = _Geometry(*((first, *axis) for first, axis in zip(row, geometry, strict=True)))
    check.fits("input", (*size[:2], *geometry.places))
    return geometry


def _meets_input(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether every window that starts in the padding has a tap inside; dilated, it can step over a short input."""
    if dilation <= size:  # what begins before the input and ends behind it cannot
        return True
    first_taps = ((start, -(start // dilation)) for start in range(-padding, 0, stride))
    return all(tap < kernel and start + tap * dilation < size for start, tap in first_taps)


# --- max-pooling ----------------------------------------------------------------------------------------------------


def _output(out, size, dims, batched, channels_last, dtype, **apart):
    """The (N, C, H, W) array that a result goes to: a new one, or `out`, which overlaps none of the others."""
    result = new_images(size, dims, batched, channels_last, dtype)
    if out is None:
        return result
    target = check.destination(out, result[0], result[2], **apart)
    check.in_order(_images("out", target, dims), channels_last)
    return out


@remembered
def _max_pool(input, dims, kernel_size, stride, padding, dilation, ceil_mode, keep, out, marks):
    """Return the maxima, and what `keep` names: 'taps', 'relu taps' (then ReLU of the maxima), 'indices' or None.

    The maxima go to `out`, the others to `marks`, if given.
    """
    given = input
    (input,) = required(input=input)
    images = _images("input", input, dims)
    geometry = _geometry(images.shape, dims, kernel_size, stride, padding, dilation, ceil_mode)
    if keep == "indices" and images.shape[2] * images.shape[3] > _MOST:
        check.fail("input", f"planes of at most {_MOST} elements where indices are asked for", f"shape {input.shape}")
    images, channels_last = check.ordered(images)
    window = geometry.window(images.shape, channels_last)
    size = (*images.shape[:2], *geometry.places)
    layout = size, dims, input.ndim == dims + 2, channels_last
    results, bytes_of_mark = [_output(out, *layout, input.dtype, input=given)], 0
    if keep is not None:
        dtype = np.dtype(np.int64 if keep == "indices" else _taps_dtype(geometry, keep == "relu taps"))
        results.append(_output(marks, *layout, dtype, **{"input": given, "out[0]": out}))
        bytes_of_mark = dtype.itemsize
    if not input.size:
        return zeros(tuple(results))
    return Call("max_pool", (images,), tuple(results), window=window, integers=(bytes_of_mark, keep == "relu taps"))


def _taps_dtype(geometry: _Geometry, relu: bool) -> type:
    """The type that numbers all taps; with ReLU, no tap is one more."""
    return np.uint8 if math.prod(geometry.kernel) + relu <= 256 else np.int32


def _index_window(size, places, channels_last):
    """Geometry of what follows indices: no window, only the sizes of both planes."""
    one = (1, 1)
    return check.window(size, places, one, one, (0, 0), one, channels_last)


@remembered
def _add_at(grad_output, indices, input_shape, dims):
    (grad_output,) = required(grad_output=grad_output)
    grads = _images("grad_output", grad_output, dims)
    size = _image_shape("input_shape", input_shape, dims, grad_output.ndim)
    if grads.shape[:2] != size[:2]:
        check.fail("grad_output", f"the images and channels of input_shape {tuple(input_shape)}", grad_output.shape)
    return _scatter(grads, indices, size, grad_output.ndim, dims, add=True)


def _scatter(values, indices, size, given, dims, add):
    """Lay values (N, C, H, W) out by their indices, in planes of `size`."""
    indices = _marks("indices", indices, np.int64, _as_given(values, given, dims).shape, dims)
    indices, channels_last = check.ordered(indices, _channels_last(indices))
    values, _ = check.ordered(values, channels_last)
    result = new_images(size, dims, given == dims + 2, channels_last, values.dtype)
    if not math.prod(size):
        return zeros((result,))
    window = _index_window(size, values.shape[2:], channels_last)
    refused = partial(_fail_indices, indices, size)
    return Call("scatter", (values, indices), (result,), window=window, integers=(add,), refused=refused)


def _fail_indices(indices, size):
    check.fail("indices", f"places in the plane, 0 to {size[2] * size[3] - 1}", _range(indices))


@overload
def max_pool1d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
@overload
def max_pool1d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...
def max_pool1d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Take the maximum of each window of a sequence.

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        float32 or float64, in either memory order.
    kernel_size : int
        Taps of the window.
    stride : int, optional
        Step from one window to the next; `kernel_size` if not given.
    padding : int
        Places before and after the sequence where a window may lie but finds nothing; at most half of `kernel_size`.
    dilation : int
        Step from one tap to the next.
    ceil_mode : bool
        Keep a last window that overhangs the end, unless it would start in the padding there.
    return_indices : bool
        Return where each maximum was as well.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from `input`.

    Returns
    -------
    output : ndarray of shape (N, C, Lout) or (C, Lout)
        In the memory order of `input`.
    indices : ndarray of int64, of the same shape
        Place of the maximum in its sequence, only with `return_indices`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Notes
    -----
    The first maximum wins; a NaN counts as the maximum. Padding is never chosen, not even where all else is -inf.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.max_pool1d(np.array([[[3., 1., 4., 1., 5.]]]), 2, ceil_mode=True, return_indices=True)
    (array([[[3., 4., 5.]]]), array([[[0, 2, 4]]]))
    """
    keep = "indices" if _flag("return_indices", return_indices) else None
    return _max_pool(input, 1, kernel_size, stride, padding, dilation, ceil_mode, keep, out, None)


def max_pool1d_backward(grad_output: Array, indices: Array, input_shape: Shape) -> np.ndarray:
    """Return the gradient of the input of `max_pool1d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Lout) or (C, Lout)
        float32 or float64.
    indices : ndarray of int64, of the same shape
        As `max_pool1d` returned them.
    input_shape : tuple of int
        (N, C, L) or (C, L).

    Returns
    -------
    ndarray of shape input_shape
        Each element holds the sum of the gradients of the windows that it won. In the memory order of `indices`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> output, indices = F.max_pool1d(np.array([[1., 5., 2.]]), 2, stride=1, return_indices=True)
    >>> F.max_pool1d_backward(np.array([[10., 20.]]), indices, (1, 3))
    array([[ 0., 30.,  0.]])
    """
    return _add_at(grad_output, indices, input_shape, 1)


@overload
def max_pool2d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
@overload
def max_pool2d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...
def max_pool2d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Take the maximum of each window of an image.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    kernel_size : int or pair of int
        Taps of the window as (height, width); an int stands for both, here and below.
    stride : int or pair of int, optional
        Steps from one window to the next; `kernel_size` if not given.
    padding : int or pair of int
        Places around the image where a window may lie but finds nothing; at most half of `kernel_size`.
    dilation : int or pair of int
        Steps from one tap to the next.
    ceil_mode : bool
        Keep last windows that overhang the edge, unless they would start in the padding there.
    return_indices : bool
        Return where each maximum was as well.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from `input`.

    Returns
    -------
    output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        In the memory order of `input`.
    indices : ndarray of int64, of the same shape
        Place of the maximum in its plane, row * W + column, only with `return_indices`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    See Also
    --------
    max_pool2d_taps : keeps a byte for each output where indices take eight.

    Notes
    -----
    The first maximum in row-major order wins; a NaN counts as the maximum. Padding is never chosen, not even where all
    else is -inf, so an index always names an element.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.array([[[1., 5., 0.], [5., 2., 7.]]])
    >>> F.max_pool2d(image, 2, stride=1, return_indices=True)
    (array([[[5., 7.]]]), array([[[1, 5]]]))
    """
    keep = "indices" if _flag("return_indices", return_indices) else None
    return _max_pool(input, 2, kernel_size, stride, padding, dilation, ceil_mode, keep, out, None)


def max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Shape) -> np.ndarray:
    """Return the gradient of the input of `max_pool2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        float32 or float64.
    indices : ndarray of int64, of the same shape
        As `max_pool2d` returned them.
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).

    Returns
    -------
    ndarray of shape input_shape
        Each element holds the sum of the gradients of the windows that it won. In the memory order of `indices`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.array([[[1., 5., 0.], [3., 2., 4.]]])
    >>> output, indices = F.max_pool2d(image, 2, stride=1, return_indices=True)
    >>> F.max_pool2d_backward(np.array([[[10., 20.]]]), indices, image.shape)
    array([[[ 0., 30.,  0.],
            [ 0.,  0.,  0.]]])
    """
    return _add_at(grad_output, indices, input_shape, 2)


def max_pool2d_taps(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    relu: bool = False,
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray]:
    """Take the maximum of each window, and keep which tap of its window it was: `max_pool2d` for training.

    Parameters
    ----------
    input, kernel_size, stride, padding, dilation, ceil_mode
        As of `max_pool2d`.
    relu : bool, default False
        Whether ReLU is taken of the input before, or of the maxima after, which is the same.
    out : two ndarrays or None
        Arrays to write output and taps to and to return in their place: of their shape, type and memory order, apart
        from each other and `input`.

    Returns
    -------
    output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        In the memory order of `input`.
    taps : ndarray of uint8, of the same shape and memory order
        Number of the maximum in its window, i * kw + j; int32 where the window has more than 256 taps. With `relu`, a
        window whose maximum is not above 0 has the number 255 (-1 as int32), because no gradient goes through it, and
        int32 begins with 256 taps.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.max_pool2d_taps(np.array([[[1., 5., 0.], [3., 2., 4.]]]), 2, stride=1)
    (array([[[5., 5.]]]), array([[[1, 0]]], dtype=uint8))
    """
    keep = "relu taps" if _flag("relu", relu) else "taps"
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        check.fail("out", "two arrays or None, for the output and the taps", check.shown(out))
    return _max_pool(input, 2, kernel_size, stride, padding, dilation, ceil_mode, keep, *out)


def max_pool2d_taps_backward(
    grad_output: Array,
    taps: Array,
    input_shape: Shape,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    relu: bool = False,
) -> np.ndarray:
    """Return the gradient of the input of `max_pool2d_taps`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        float32 or float64.
    taps : ndarray of uint8 or int32, of the same shape
        As `max_pool2d_taps` returned them.
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding, dilation, ceil_mode, relu
        As of the forward pass.

    Returns
    -------
    ndarray of shape input_shape
        Each element holds the sum of the gradients of the windows that it won. In the memory order of `taps`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.array([[[1., 5., 0.], [3., 2., 4.]]])
    >>> output, taps = F.max_pool2d_taps(image, 2, stride=1)
    >>> F.max_pool2d_taps_backward(np.array([[[10., 20.]]]), taps, image.shape, 2, stride=1)
    array([[[ 0., 30.,  0.],
            [ 0.,  0.,  0.]]])
    """
    geometry = kernel_size, stride, padding, dilation, ceil_mode
    return _taps_backward(grad_output, taps, input_shape, relu, *geometry)


def _checked_taps(grad_output, taps, input_shape, relu, *geometry):
    """Gradient and taps as the kernels take them, input shape, geometry and integers, and what refuses wrong taps."""
    (grad_output,) = required(grad_output=grad_output)
    grads = _images("grad_output", grad_output, 2)
    size = _image_shape("input_shape", input_shape, 2, grad_output.ndim)
    geometry = _geometry(size, 2, *geometry)
    check.shape("grad_output", grad_output, (*size[:2], *geometry.places)[4 - grad_output.ndim :])
    taps = _marks("taps", taps, _taps_dtype(geometry, _flag("relu", relu)), grad_output.shape, 2)

    def refused():
        wanted = f"taps inside the input, of windows of {math.prod(geometry.kernel)}"
        check.fail("taps", wanted, f"one that is not, among {_range(taps)}")

    return grads, taps, size, geometry, (taps.itemsize, bool(relu)), refused


@remembered
def _taps_backward(grad_output, taps, input_shape, relu, *geometry):
    (grad_output,) = required(grad_output=grad_output)
    checked = _checked_taps(grad_output, taps, input_shape, relu, *geometry)
    grads, taps, size, geometry, integers, refused = checked
    taps, channels_last = check.ordered(taps, _channels_last(taps))
    grads, _ = check.ordered(grads, channels_last)
    result = new_images(size, 2, grad_output.ndim == 4, channels_last, grads.dtype)
    if not math.prod(size):
        return zeros((result,))
    window = geometry.window(size, channels_last)
    return Call("max_pool_backward", (grads, taps), (result,), window=window, integers=integers, refused=refused)


# --- max-unpooling --------------------------------------------------------------------------------------------------


@remembered
def _max_unpool(input, dims, indices, kernel_size, stride, padding, output_size):
    (input,) = required(input=input)
    images = _images("input", input, dims)
    kernel = check.integers("kernel_size", kernel_size, dims, 1)
    step = kernel if stride is None else check.integers("stride", stride, dims, 1)
    pad = check.integers("padding", padding, dims, 0)
    usual = tuple(
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(images.shape[4 - dims :], step, pad, kernel, strict=True)
    )
    if output_size is None:
        if min(usual) < 1:
            check.fail("padding", f"a positive output size, where kernel_size and stride give {usual}", pad)
        extents = usual
    else:
        if isinstance(output_size, (tuple, list)) and len(output_size) == dims + 2:
            output_size = output_size[2:]
        extents = check.integers("output_size", output_size, dims, 1, dims)
        if any(not u - s < n < u + s for n, u, s in zip(extents, usual, step, strict=True)):
            bounds = tuple((max(1, u - s + 1), u + s - 1) for u, s in zip(usual, step, strict=True))
            check.fail("output_size", f"sizes within {bounds}", extents)
    size = (*images.shape[:2], *((1,) * (2 - dims)), *extents)
    check.fits("output_size", size)
    return _scatter(images, indices, size, input.ndim, dims, add=False)


@remembered
def _max_unpool_backward(grad_output, indices, dims):
    (grad_output,) = required(grad_output=grad_output)
    planes = _images("grad_output", grad_output, dims)
    indices = check.array("indices", indices, "a NumPy array of int64")
    check.ndim("indices", indices, grad_output.ndim)
    lead = grad_output.shape[:-dims]
    if indices.shape[:-dims] != lead:
        check.fail("indices", f"the images and channels {lead} of grad_output", f"shape {indices.shape}")
    indices = _marks("indices", indices, np.int64, indices.shape, dims)
    indices, channels_last = check.ordered(indices, _channels_last(indices))
    result = new_images(indices.shape, dims, grad_output.ndim == dims + 2, channels_last, planes.dtype)
    if not indices.size:
        return zeros((result,))
    planes, _ = check.ordered(planes, channels_last)
    window = _index_window(planes.shape, indices.shape[2:], channels_last)
    return Call(
        "take", (planes, indices), (result,), window=window, refused=partial(_fail_indices, indices, planes.shape)
    )


def max_unpool1d(
    input: Array,
    indices: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Shape | int | None = None,
) -> np.ndarray:
    """Put maxima back where they came from, in sequences of zeros: a partial inverse of `max_pool1d`.

    Parameters
    ----------
    input : ndarray of shape (N, C, Lin) or (C, Lin)
        float32 or float64.
    indices : ndarray of int64, of the same shape
        As `max_pool1d` returned them.
    kernel_size, stride, padding : int
        As of the pooling; they give the output's length, (Lin - 1) * stride - 2 * padding + kernel_size.
    output_size : int or tuple of int, optional
        That length, where the pooling left out a rest of up to stride - 1; a whole shape may be given too.

    Returns
    -------
    ndarray of shape (N, C, L) or (C, L)
        In the memory order of `indices`. Where an index repeats, the last value in row-major order stays.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> output, indices = F.max_pool1d(np.array([[3., 1., 4., 1., 5.]]), 2, return_indices=True)
    >>> F.max_unpool1d(output, indices, 2, output_size=5)
    array([[3., 0., 4., 0., 0.]])
    """
    return _max_unpool(input, 1, indices, kernel_size, stride, padding, output_size)


def max_unpool1d_backward(grad_output: Array, indices: Array) -> np.ndarray:
    """Return the gradient of the input of `max_unpool1d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, L) or (C, L)
        float32 or float64.
    indices : ndarray of int64, of shape (N, C, Lin) or (C, Lin)
        As given to `max_unpool1d`.

    Returns
    -------
    ndarray of the shape of indices
        The gradient at each index; where one repeats, 0 for all but the last, whose value alone stayed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.max_unpool1d_backward(np.array([[10., 20., 30.]]), np.array([[2, 0]]))
    array([[30., 10.]])
    """
    return _max_unpool_backward(grad_output, indices, 1)


def max_unpool2d(
    input: Array,
    indices: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Shape | None = None,
) -> np.ndarray:
    """Put maxima back where they came from, in planes of zeros: a partial inverse of `max_pool2d`.

    Parameters
    ----------
    input : ndarray of shape (N, C, Hin, Win) or (C, Hin, Win)
        float32 or float64.
    indices : ndarray of int64, of the same shape
        As `max_pool2d` returned them.
    kernel_size, stride, padding : int or pair of int
        As of the pooling; they give the output's size, (Hin - 1) * stride - 2 * padding + kernel_size and alike.
    output_size : pair of int, optional
        That size, where the pooling left out a rest of up to stride - 1; a whole (N, C, H, W) may be given too.

    Returns
    -------
    ndarray of shape (N, C, H, W) or (C, H, W)
        In the memory order of `indices`. Where an index repeats, the last value in row-major order stays.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.max_unpool2d(np.array([[[5., 7.]]]), np.array([[[1, 6]]]), 2)
    array([[[0., 5., 0., 0.],
            [0., 0., 7., 0.]]])
    """
    return _max_unpool(input, 2, indices, kernel_size, stride, padding, output_size)


def max_unpool2d_backward(grad_output: Array, indices: Array) -> np.ndarray:
    """Return the gradient of the input of `max_unpool2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64.
    indices : ndarray of int64, of shape (N, C, Hin, Win) or (C, Hin, Win)
        As given to `max_unpool2d`.

    Returns
    -------
    ndarray of the shape of indices
        The gradient at each index; where one repeats, 0 for all but the last, whose value alone stayed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.max_unpool2d_backward(np.array([[[1., 2.], [3., 4.]]]), np.array([[[3, 0]]]))
    array([[[4., 1.]]])
    """
    return _max_unpool_backward(grad_output, indices, 2)


# --- average pooling ------------------------------------------------------------------------------------------------


def _override(value: object) -> int:
    """The divisor asked for, as the kernel takes it: 0 for none."""
    if value is None:
        return 0
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        check.fail("divisor_override", "an int other than 0", check.shown(value), TypeError)
    number = operator.index(value)
    if number == 0 or abs(number) > _MOST:
        check.fail("divisor_override", f"an int other than 0, up to {_MOST}", check.shown(value))
    return number


@remembered
def _avg_pool(input, dims, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out):
    given = input
    (input,) = required(input=input)
    images = _images("input", input, dims)
    geometry = _geometry(images.shape, dims, kernel_size, stride, padding, 1, ceil_mode)
    rule = _flag("count_include_pad", count_include_pad), _override(divisor_override)
    images, channels_last = check.ordered(images)
    size = (*images.shape[:2], *geometry.places)
    result = _output(out, size, dims, input.ndim == dims + 2, channels_last, input.dtype, input=given)
    if not input.size:
        return zeros((result,))
    return Call("avg_pool", (images,), (result,), window=geometry.window(images.shape, channels_last), integers=rule)


def _gradient_order(grads: np.ndarray, channels_last: bool | None) -> bool:
    """The memory order asked for, or (None) that of the gradient."""
    return _channels_last(grads) if channels_last is None else _flag("channels_last", channels_last)


@remembered
def _avg_pool_backward(
    grad_output,
    dims,
    input_shape,
    kernel_size,
    stride,
    padding,
    ceil_mode,
    count_include_pad,
    divisor_override,
    channels_last,
):
    (grad_output,) = required(grad_output=grad_output)
    grads = _images("grad_output", grad_output, dims)
    size = _image_shape("input_shape", input_shape, dims, grad_output.ndim)
    geometry = _geometry(size, dims, kernel_size, stride, padding, 1, ceil_mode)
    rule = _flag("count_include_pad", count_include_pad), _override(divisor_override)
    places = geometry.places[2 - dims :]
    check.shape("grad_output", grad_output, (*size[:2], *places)[dims + 2 - grad_output.ndim :])
    grads, channels_last = check.ordered(grads, _gradient_order(grads, channels_last))
    result = new_images(size, dims, grad_output.ndim == dims + 2, channels_last, grads.dtype)
    if not math.prod(size):
        return zeros((result,))
    window = geometry.window(size, channels_last)
    return Call("avg_pool_backward", (grads,), (result,), window=window, integers=rule)


def avg_pool1d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Take the mean of each window of a sequence.

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        float32 or float64, in either memory order.
    kernel_size : int
        Length of the window.
    stride : int, optional
        Step from one window to the next; `kernel_size` if not given.
    padding : int
        Zeros before and after the sequence; at most half of `kernel_size`.
    ceil_mode : bool
        Keep a last window that overhangs the end, unless it would start in the padding there.
    count_include_pad : bool
        Count the padding in what the sum is divided by. What a window overhangs beyond it never counts.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from `input`.

    Returns
    -------
    ndarray of shape (N, C, Lout) or (C, Lout)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.avg_pool1d(np.array([[1., 3., 5.]]), 2, ceil_mode=True)
    array([[2., 5.]])
    """
    return _avg_pool(input, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None, out)


def avg_pool1d_backward(
    grad_output: Array,
    input_shape: Shape,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Return the gradient of the input of `avg_pool1d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Lout) or (C, Lout)
        float32 or float64.
    input_shape : tuple of int
        (N, C, L) or (C, L).
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As of the forward pass.

    Returns
    -------
    ndarray of shape input_shape
        Each window's gradient, over its divisor, added to all its elements. In the memory order of `grad_output`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.avg_pool1d_backward(np.array([[2., 6.]]), (1, 3), 2, stride=1)
    array([[1., 4., 3.]])
    """
    return _avg_pool_backward(
        grad_output, 1, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, None, None
    )


def avg_pool2d(
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Take the mean of each window of an image.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    kernel_size : int or pair of int
        Extents of the window as (height, width); an int stands for both, here and below.
    stride : int or pair of int, optional
        Steps from one window to the next; `kernel_size` if not given.
    padding : int or pair of int
        Zeros around the image; at most half of `kernel_size`.
    ceil_mode : bool
        Keep last windows that overhang the edge, unless they would start in the padding there.
    count_include_pad : bool
        Count the padding in what a sum is divided by. What a window overhangs beyond it never counts.
    divisor_override : int, optional
        Divide every sum by this instead.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from `input`.

    Returns
    -------
    ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.array([[[4., 8.], [0., 12.]]])
    >>> F.avg_pool2d(image, 2)
    array([[[6.]]])
    >>> F.avg_pool2d(image, 2, padding=1, count_include_pad=False)
    array([[[ 4.,  8.],
            [ 0., 12.]]])
    """
    return _avg_pool(input, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out)


def avg_pool2d_backward(
    grad_output: Array,
    input_shape: Shape,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    channels_last: bool | None = None,
) -> np.ndarray:
    """Return the gradient of the input of `avg_pool2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        float32 or float64.
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As of the forward pass.
    channels_last : bool, optional
        Memory order of the result. That of `grad_output` if not given, which for a single pixel may say nothing.

    Returns
    -------
    ndarray of shape input_shape
        Each window's gradient, over its divisor, added to all its elements.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.avg_pool2d_backward(np.array([[[8.]]]), (1, 2, 2), 2)
    array([[[2., 2.],
            [2., 2.]]])
    """
    window = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool_backward(grad_output, 2, input_shape, *window, channels_last)


# --- adaptive average pooling ---------------------------------------------------------------------------------------


@remembered
def _adaptive_avg_pool(input, dims, output_size):
    (input,) = required(input=input)
    images = _images("input", input, dims)
    if dims == 2 and isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(n if o is None else o for n, o in zip(images.shape[2:], output_size, strict=True))
    extents = check.integers("output_size", output_size, dims, 1, dims)
    size = (*images.shape[:2], *((1,) * (2 - dims)), *extents)
    check.fits("output_size", size)
    images, channels_last = check.ordered(images)
    result = new_images(size, dims, input.ndim == dims + 2, channels_last, images.dtype)
    if not input.size:
        return zeros((result,))
    return Call("adaptive", (images,), (result,), window=_index_window(images.shape, size[2:], channels_last))


@remembered
def _adaptive_avg_pool_backward(grad_output, dims, input_shape, channels_last):
    (grad_output,) = required(grad_output=grad_output)
    grads = _images("grad_output", grad_output, dims)
    size = _image_shape("input_shape", input_shape, dims, grad_output.ndim)
    if grads.shape[:2] != size[:2]:
        check.fail("grad_output", f"the images and channels of input_shape {tuple(input_shape)}", grad_output.shape)
    grads, channels_last = check.ordered(grads, _gradient_order(grads, channels_last))
    result = new_images(size, dims, grad_output.ndim == dims + 2, channels_last, grads.dtype)
    if not math.prod(size):
        return zeros((result,))
    return Call("adaptive_backward", (grads,), (result,), window=_index_window(size, grads.shape[2:], channels_last))


def adaptive_avg_pool1d(input: Array, output_size: Size) -> np.ndarray:
    """Take the means of `output_size` windows that cover a sequence evenly.

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        float32 or float64, in either memory order.
    output_size : int
        Number of windows; window i covers elements floor(i * L / output_size) to ceil((i + 1) * L / output_size).

    Returns
    -------
    ndarray of shape (N, C, output_size) or (C, output_size)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.adaptive_avg_pool1d(np.array([[1., 2., 3., 4., 5.]]), 2)
    array([[2., 4.]])
    """
    return _adaptive_avg_pool(input, 1, output_size)


def adaptive_avg_pool1d_backward(grad_output: Array, input_shape: Shape) -> np.ndarray:
    """Return the gradient of the input of `adaptive_avg_pool1d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Lout) or (C, Lout)
        float32 or float64.
    input_shape : tuple of int
        (N, C, L) or (C, L).

    Returns
    -------
    ndarray of shape input_shape
        Each window's gradient shared out equally over its elements. In the memory order of `grad_output`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.adaptive_avg_pool1d_backward(np.array([[3., 6.]]), (1, 5))
    array([[1., 1., 3., 2., 2.]])
    """
    return _adaptive_avg_pool_backward(grad_output, 1, input_shape, None)


def adaptive_avg_pool2d(input: Array, output_size: Size | tuple[int | None, int | None]) -> np.ndarray:
    """Take the means of windows that cover an image evenly; with an output size of 1, of the whole image.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    output_size : int or pair of int or None
        Height and width of the output; an int stands for both, None in a pair for the input's own. Row y covers rows
        floor(y * H / height) to ceil((y + 1) * H / height) of the input, and columns alike.

    Returns
    -------
    ndarray of shape (N, C, height, width) or (C, height, width)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.arange(6.).reshape(1, 2, 3)
    >>> F.adaptive_avg_pool2d(image, 1)
    array([[[2.5]]])
    >>> F.adaptive_avg_pool2d(image, (None, 1))
    array([[[1.],
            [4.]]])
    """
    return _adaptive_avg_pool(input, 2, output_size)


def adaptive_avg_pool2d_backward(
    grad_output: Array, input_shape: Shape, *, channels_last: bool | None = None
) -> np.ndarray:
    """Return the gradient of the input of `adaptive_avg_pool2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        float32 or float64.
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).
    channels_last : bool, optional
        Memory order of the result. That of `grad_output` if not given, which for a single pixel may say nothing.

    Returns
    -------
    ndarray of shape input_shape
        Each window's gradient shared out equally over its elements.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.adaptive_avg_pool2d_backward(np.array([[[8.]]]), (1, 2, 2))
    array([[[2., 2.],
            [2., 2.]]])
    """
    return _adaptive_avg_pool_backward(grad_output, 2, input_shape, channels_last)
