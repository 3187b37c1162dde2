"""Convolution in one and two dimensions with its three gradients, and im2col / col2im as functions of their own."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import gradients, new, new_images, required, seen, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import choice
from fastcnn.functional._types import Algorithm, Array, Gradients, Size

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
    return _near_window(input_shape, places, kernel, step, pad, spread, channels_last), columns_shape


def _near_window(input_shape, places, kernel, stride, before, dilation, channels_last):
    """The kernels' geometry; of a window whose taps or steps reach far into the padding, one that reads the same."""
    axes = zip(input_shape[2:], places, kernel, stride, before, dilation, strict=True)
    stride, before, dilation = zip(*(check.near(*axis) for axis in axes), strict=True)
    return check.window(input_shape, places, kernel, stride, before, dilation, channels_last)


def im2col(input: Array, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> np.ndarray:
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
    return _im2col(input, kernel_size, dilation, padding, stride)


@remembered
def _im2col(input, kernel_size, dilation, padding, stride):
    (input,) = required(input=input)
    check.ndim("input", input, 4, 3)
    images, channels_last = check.ordered(_as_2d(input, 2, input.ndim == 4))
    window, size = _unfold_window(images.shape, kernel_size, dilation, padding, stride, channels_last)
    result = new(size[4 - input.ndim :], input.dtype)
    return Call("im2col", (images,), (result,), window=window) if input.size else zeros((result,))


def col2im(
    input: Array, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> np.ndarray:
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
    return _col2im(input, output_size, kernel_size, dilation, padding, stride)


@remembered
def _col2im(input, output_size, kernel_size, dilation, padding, stride):
    (input,) = required(input=input)
    check.ndim("input", input, 3, 2)
    if input.ndim == 2:
        return _col2im(input[None], output_size, kernel_size, dilation, padding, stride)[0]
    height, width = check.integers("output_size", output_size, 2, 1, 2)
    kh, kw = check.integers("kernel_size", kernel_size, 2, 1)
    if input.shape[1] % (kh * kw):
        check.fail("input", f"a multiple of kernel height * width = {kh * kw} rows", f"shape {input.shape}")
    image = (input.shape[0], input.shape[1] // (kh * kw), height, width)
    check.fits("output_size", image)
    window, size = _unfold_window(image, kernel_size, dilation, padding, stride, False)
    check.shape("input", input, size)
    result = new(image, input.dtype)
    return Call("col2im", (np.ascontiguousarray(input),), (result,), window=window) if input.size else zeros((result,))


def _row(name, value, minimum):
    """The pair that a 1-D window's argument stands for: a row of height one."""
    (number,) = check.integers(name, value, 1, minimum)
    return (0 if name == "padding" else 1), number


def im2col1d(input: Array, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> np.ndarray:
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
    (input,) = required(input=input)
    check.ndim("input", input, 3, 2)
    return im2col(
        input[..., None, :],
        _row("kernel_size", kernel_size, 1),
        _row("dilation", dilation, 1),
        _row("padding", padding, 0),
        _row("stride", stride, 1),
    )


def col2im1d(
    input: Array, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> np.ndarray:
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

_ALGORITHMS = {"auto": 1, "direct": 2}  # fastcnn_algorithm of geometry.h, where 0 is the setting of the process


def _padding(padding, kernel, stride, dilation):
    """(before, after) per axis from a tuple, 'same' or 'valid'."""
    if padding == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            check.fail("padding", "'same' only with stride 1", f"stride {stride}")
        total = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return padding, padding


@lru_cache(maxsize=4096)  # a network asks for the same few dozen, step after step
def _geometry(input_shape, weight_shape, stride, padding, dilation, groups, dims, channels_last):
    """Check a convolution's shapes: the kernels' geometry, and the shape of the output."""
    kernel = weight_shape[4 - dims :]
    if min(weight_shape) < 1:
        check.fail("weight", "no extent of zero", f"shape {weight_shape}")
    before, after = _padding(padding, kernel, stride, dilation)
    n, c, h, w = input_shape
    if c != weight_shape[1] * groups:
        check.fail("input", f"{weight_shape[1]} (of weight) * {groups} (groups) channels", f"shape {input_shape}")
    if weight_shape[0] % groups:
        check.fail("groups", f"a divisor of the {weight_shape[0]} output channels", groups)
    places = tuple(
        (size + b + a - d * (k - 1) - 1) // s + 1
        for size, b, a, d, k, s in zip((h, w)[2 - dims :], before, after, dilation, kernel, stride, strict=True)
    )
    if min(places) < 1 or min(h, w) < 1:
        check.fail("weight", f"a kernel that fits the padded input {(h, w)[2 - dims :]} + {before} + {after}", kernel)
    if dims == 1:
        places, stride, before, dilation = (1, *places), (1, *stride), (0, *before), (1, *dilation)
    output = (n, weight_shape[0], *places)
    check.fits("input", output)
    work = math.prod(output) * (1 + math.prod(weight_shape[1:]))
    if work > check.MOST_WORK:
        check.fail("input", "shapes whose convolution takes at most 2**62 multiply-adds", f"{work} for {output}")
    return _near_window(input_shape, places, weight_shape[2:], stride, before, dilation, channels_last), output


def _conv_window(input, weight, stride, padding, dilation, groups, dims, algorithm):
    """Check a convolution's arguments: the input in one of the two orders, its geometry and the output's shape."""
    input, channels_last = check.ordered(input)
    geometry = stride, padding, dilation, groups
    window, size = _checked_geometry(input.shape, weight.shape, *geometry, dims, channels_last)
    if algorithm is not None:
        window = {**window, "algorithm": _ALGORITHMS[choice("algorithm", algorithm, *_ALGORITHMS)]}
    return input, window, size


def _checked_geometry(input_shape, weight_shape, stride, padding, dilation, groups, dims, channels_last):
    stride = check.integers("stride", stride, dims, 1)
    dilation = check.integers("dilation", dilation, dims, 1)
    groups = check.integer("groups", groups, 1)
    if not isinstance(padding, str):
        padding = check.integers("padding", padding, dims, 0)
    elif padding not in ("same", "valid"):
        check.fail("padding", "an int, a tuple of int, 'same' or 'valid'", check.shown(padding))
    return _geometry(input_shape, weight_shape, stride, padding, dilation, groups, dims, channels_last)


def _as_2d(array, dims, batched):
    """An (unbatched, 1-D) array as the (N, C, H, W) that the kernels take: views only."""
    if not batched:
        array = array[None]
    return array[:, :, None, :] if dims == 1 else array


def _checked(input, weight, bias, stride, padding, dilation, groups, dims, algorithm):
    """Input, weight and bias as the kernels take them, the geometry and the shape of the (N, C, H, W) output.

    Of input and weight as `required` gives them.
    """
    _, bias = check.floats(weight=weight, bias=bias)
    check.ndim("weight", weight, dims + 2)
    check.ndim("input", input, dims + 2, dims + 1)
    if bias is not None:
        check.shape("bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    x, w = _as_2d(input, dims, input.ndim == dims + 2), np.ascontiguousarray(_as_2d(weight, dims, True))
    x, window, size = _conv_window(x, w, stride, padding, dilation, groups, dims, algorithm)
    return x, w, bias, window, size


@remembered
def _forward(input, weight, bias, stride, padding, dilation, groups, dims, out, algorithm=None):
    given = {"input": input, "weight": weight, "bias": bias}
    input, weight = required(input=input, weight=weight)
    x, w, bias, window, size = _checked(input, weight, bias, stride, padding, dilation, groups, dims, algorithm)
    batched = input.ndim == dims + 2
    result = new_images(size, dims, batched, window["channels_last"], x.dtype)
    if out is not None:
        target = check.destination(out, result[0], x.dtype, **given)
        check.in_order(_as_2d(target, dims, batched), window["channels_last"])
        result = out
    if not x.size:
        return zeros((result,))
    return Call("conv", (x, w, bias), (result,), window=window, integers=(size[1], int(groups)))


def _gradients(x, weight_shape, needs, out, dims, batched, channels_last, **apart):
    """The results: gradients of input, weight and bias."""
    made = [
        new_images(x.shape, dims, batched, channels_last, x.dtype),
        new(weight_shape, x.dtype),
        new(weight_shape[:1], x.dtype),
    ]
    return gradients(needs, out, made, **apart)


@remembered
def _backward(grad_output, input, weight, stride, padding, dilation, groups, needs, out, dims, algorithm=None):
    apart = {"grad_output": grad_output, "input": input, "weight": weight}
    grad_output, input, weight = required(**apart)
    x, w, _, window, size = _checked(input, weight, None, stride, padding, dilation, groups, dims, algorithm)
    check.ndim("grad_output", grad_output, input.ndim)
    needs = check.needs(needs)
    batched = input.ndim == dims + 2
    check.shape("grad_output", grad_output, seen(size, dims, batched))
    dy, _ = check.ordered(_as_2d(grad_output, dims, batched), window["channels_last"])
    results = _gradients(x, weight.shape, needs, out, dims, batched, window["channels_last"], **apart)
    if not x.size:
        return zeros(results)
    return Call("conv_backward", (dy, x, w), results, window=window, integers=(size[1], int(groups)))


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    out: np.ndarray | None = None,
    algorithm: Algorithm | None = None,
) -> np.ndarray:
    """Convolve a batch of sequences (cross-correlation, as in `torch.nn.functional.conv1d`).

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        float32 or float64, in either memory order.
    weight : ndarray of shape (O, C/groups, k)
    bias : ndarray of shape (O,), optional
    stride, dilation : int
    padding : int, 'same' or 'valid'
        Zeros on both sides; 'same' (stride 1 only) keeps the length, an odd zero going to the right; 'valid' is 0.
    groups : int
        Blocks of channels that meet only each other; C and O are multiples of it. groups = C is depthwise.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from the inputs.
    algorithm : {'auto', 'direct'}, optional
        What bounds the rounding errors, in place of the setting of `fastcnn.set_conv_algorithm`, which explains both.

    Returns
    -------
    ndarray of shape (N, O, Lout), or (O, Lout)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.conv1d(np.array([[[1., 2., 3.]]]), np.array([[[0.3, 0.5]]]))
    array([[[1.3, 2.1]]])
    """
    return _forward(input, weight, bias, stride, padding, dilation, groups, 1, out, algorithm)


def conv1d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the gradients of `conv1d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, O, Lout) or (O, Lout)
        Gradient of the loss with respect to the output.
    input, weight, stride, padding, dilation, groups
        What the forward call had.
    needs : three bools
        Which of the three gradients to compute.
    out : three ndarrays or None
        Arrays to write gradients to and to return in their place: of their shape, type and memory order, apart from
        all others.
    algorithm : {'auto', 'direct'}, optional
        As of the forward function. Each pass may have its own.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of the shapes of `input`, `weight` and (O,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> dy, x, w = np.array([[[-0.1, 0.2]]]), np.array([[[1., 2., 3.]]]), np.array([[[0.3, 0.5]]])
    >>> dx, dw, db = F.conv1d_backward(dy, x, w)
    >>> dx.round(6), dw.round(6), db.round(6)
    (array([[[-0.03,  0.01,  0.1 ]]]), array([[[0.3, 0.4]]]), array([0.1]))
    """
    return _backward(grad_output, input, weight, stride, padding, dilation, groups, needs, out, 1, algorithm)


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    out: np.ndarray | None = None,
    algorithm: Algorithm | None = None,
) -> np.ndarray:
    """Convolve a batch of images (cross-correlation, as in `torch.nn.functional.conv2d`).

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        float32 or float64, in either memory order.
    weight : ndarray of shape (O, C/groups, kh, kw)
    bias : ndarray of shape (O,), optional
    stride, dilation : int or pair of int
        As (height, width); an int stands for both.
    padding : int, pair of int, 'same' or 'valid'
        Zeros above and below, left and right; 'same' (stride 1 only) keeps height and width, an odd row or column
        going below or to the right; 'valid' is 0.
    groups : int
        Blocks of channels that meet only each other; C and O are multiples of it. groups = C is depthwise.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from the inputs.
    algorithm : {'auto', 'direct'}, optional
        What bounds the rounding errors, in place of the setting of `fastcnn.set_conv_algorithm`, which explains both.

    Returns
    -------
    ndarray of shape (N, O, oh, ow), or (O, oh, ow)
        In the memory order of `input`; oh = floor((H + 2*padding - dilation*(kh - 1) - 1) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Notes
    -----
    im2col in tiles (kernels/conv.pyx): the column matrix of Chellapilla, Puri & Simard, "High performance convolutional
    neural networks for document processing" (2006), is read from a block of padded rows and never built.

    Padding is made of zeros that take part in the sums: times an infinite weight they are NaN. `conv2d_backward` has
    such products in the weight's gradient, but not in the input's, which only has those of windows that exist.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> F.conv2d(image, np.ones((1, 1, 2, 2), np.float32))[0, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    return _forward(input, weight, bias, stride, padding, dilation, groups, 2, out, algorithm)


def conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    algorithm: Algorithm | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the gradients of `conv2d`.

    Parameters
    ----------
    grad_output : ndarray of shape (N, O, oh, ow) or (O, oh, ow)
        Gradient of the loss with respect to the output.
    input, weight, stride, padding, dilation, groups
        What the forward call had.
    needs : three bools
        Which of the three gradients to compute.
    out : three ndarrays or None
        Arrays to write gradients to and to return in their place: of their shape, type and memory order, apart from
        all others.
    algorithm : {'auto', 'direct'}, optional
        As of the forward function. Each pass may have its own.

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
    >>> x, w = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> dx, dw, db = F.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> dx[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    >>> dw[0, 0], db
    (array([[4., 4.],
           [4., 4.]]), array([4.]))
    """
    return _backward(grad_output, input, weight, stride, padding, dilation, groups, needs, out, 2, algorithm)
