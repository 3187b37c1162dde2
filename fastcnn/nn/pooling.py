"""Pooling layers."""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn.functional import _checks as check
from fastcnn.functional._options import flag
from fastcnn.nn.module import Module, is_grad_enabled

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AvgPool1d", "AvgPool2d", "MaxPool1d", "MaxPool2d"]

_Size = int | tuple[int, ...]


def _is_channels_last(input: np.ndarray) -> bool:
    return input.ndim == 4 and check.is_channels_last(input)


class _MaxPool(Module):
    """What both max-pools share; `window` is their number of window axes."""

    window: int
    options = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        dilation: _Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = check.integers("kernel_size", kernel_size, self.window, 1)
        self.stride = self.kernel_size if stride is None else check.integers("stride", stride, self.window, 1)
        self.padding = check.integers("padding", padding, self.window, 0)
        self.dilation = check.integers("dilation", dilation, self.window, 1)
        self.ceil_mode = flag("ceil_mode", ceil_mode)


class MaxPool1d(_MaxPool):
    """The maximum of each window of a signal.

    For backward it keeps one byte for each output: which tap of the window won. The first maximum wins; a NaN counts
    as the maximum.

    Parameters
    ----------
    kernel_size : int
        Length of the window.
    stride : int, optional
        Step between windows; `kernel_size` if not given.
    padding : int, default 0
        Places added on both sides, at most half the kernel; they never win.
    dilation : int, default 1
        Distance between the taps of a window.
    ceil_mode : bool, default False
        Whether a last window that overhangs the end counts.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> pool = nn.MaxPool1d(2)
    >>> pool(np.array([[[1.0, 4.0, 3.0, 2.0]]]))
    array([[[4., 3.]]])
    >>> pool.backward(np.array([[[5.0, 6.0]]]))
    array([[[0., 5., 6., 0.]]])
    """

    window = 1

    def _geometry(self) -> tuple:
        """Return the arguments of a two-dimensional pool over one row."""
        k, s, p, d = (value[0] for value in (self.kernel_size, self.stride, self.padding, self.dilation))
        return (1, k), (1, s), (0, p), (1, d), self.ceil_mode

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the maxima of `input` (N, C, L) or (C, L)."""
        input = check.array("input", input)
        check.ndim("input", input, 3, 2)
        rows = input[..., None, :]
        output, taps = F.max_pool2d_taps(rows, *self._geometry())
        self.save(rows.shape, taps)
        return output[..., 0, :]

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        shape, taps = self.saved()
        grad_output = check.array("grad_output", grad_output)
        return F.max_pool2d_taps_backward(grad_output[..., None, :], taps, shape, *self._geometry())[..., 0, :]


class MaxPool2d(_MaxPool):
    """The maximum of each window of an image.

    For backward it keeps one byte for each output: which tap of the window won. The first maximum in row-major order
    wins; a NaN counts as the maximum.

    Parameters
    ----------
    kernel_size : int or pair of int
        Height and width of the window.
    stride : int or pair of int, optional
        Steps between windows; `kernel_size` if not given.
    padding : int or pair of int, default 0
        Places added on both sides of each axis, at most half the kernel; they never win.
    dilation : int or pair of int, default 1
        Distances between the taps of a window.
    ceil_mode : bool, default False
        Whether a last window that overhangs the edge counts.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.MaxPool2d(3, stride=2, padding=1)(np.ones((8, 16, 32, 32), np.float32)).shape
    (8, 16, 16, 16)
    """

    window = 2

    def _geometry(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the maxima of `input` (N, C, H, W) or (C, H, W)."""
        if not is_grad_enabled():
            return F.max_pool2d(input, *self._geometry())
        output, taps = F.max_pool2d_taps(input, *self._geometry())
        self.save(input.shape, taps)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        shape, taps = self.saved()
        return F.max_pool2d_taps_backward(grad_output, taps, shape, *self._geometry())


class AvgPool1d(Module):
    """The mean of each window of a signal.

    Parameters
    ----------
    kernel_size : int
        Length of the window.
    stride : int, optional
        Step between windows; `kernel_size` if not given.
    padding : int, default 0
        Zeros added on both sides, at most half the kernel.
    ceil_mode : bool, default False
        Whether a last window that overhangs the end counts.
    count_include_pad : bool, default True
        Whether the zeros of the padding count in the mean.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.AvgPool1d(2)(np.array([[[1.0, 3.0, 5.0, 7.0]]]))
    array([[[2., 6.]]])
    """

    options = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = check.integers("kernel_size", kernel_size, 1, 1)
        self.stride = self.kernel_size if stride is None else check.integers("stride", stride, 1, 1)
        self.padding = check.integers("padding", padding, 1, 0)
        self.ceil_mode = flag("ceil_mode", ceil_mode)
        self.count_include_pad = flag("count_include_pad", count_include_pad)

    def _geometry(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the means of `input` (N, C, L) or (C, L)."""
        self.save(input.shape)
        return F.avg_pool1d(input, *self._geometry())

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        (shape,) = self.saved()
        return F.avg_pool1d_backward(grad_output, shape, *self._geometry())


class AvgPool2d(Module):
    """The mean of each window of an image.

    Parameters
    ----------
    kernel_size : int or pair of int
        Height and width of the window.
    stride : int or pair of int, optional
        Steps between windows; `kernel_size` if not given.
    padding : int or pair of int, default 0
        Zeros added on both sides of each axis, at most half the kernel.
    ceil_mode : bool, default False
        Whether a last window that overhangs the edge counts.
    count_include_pad : bool, default True
        Whether the zeros of the padding count in the mean.
    divisor_override : int, optional
        What every sum is divided by, in place of the number of places.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.AvgPool2d(2)(np.arange(8.0).reshape(1, 1, 2, 4))
    array([[[[2.5, 4.5]]]])
    """

    options = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = check.integers("kernel_size", kernel_size, 2, 1)
        self.stride = self.kernel_size if stride is None else check.integers("stride", stride, 2, 1)
        self.padding = check.integers("padding", padding, 2, 0)
        self.ceil_mode = flag("ceil_mode", ceil_mode)
        self.count_include_pad = flag("count_include_pad", count_include_pad)
        self.divisor_override = divisor_override

    def _geometry(self) -> tuple:
        counting = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return self.kernel_size, self.stride, self.padding, *counting

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the means of `input` (N, C, H, W) or (C, H, W)."""
        input = check.array("input", input)
        self.save(input.shape, _is_channels_last(input))
        return F.avg_pool2d(input, *self._geometry())

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        shape, last = self.saved()
        return F.avg_pool2d_backward(grad_output, shape, *self._geometry(), channels_last=last)


class AdaptiveAvgPool1d(Module):
    """The means of `output_size` stretches that cover a signal evenly.

    Parameters
    ----------
    output_size : int
        Length of the output; 1 is the mean of the whole signal.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.AdaptiveAvgPool1d(1)(np.array([[[1.0, 2.0, 6.0]]]))
    array([[[3.]]])
    """

    options = ("output_size",)

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the means of `input` (N, C, L) or (C, L)."""
        self.save(input.shape)
        return F.adaptive_avg_pool1d(input, self.output_size)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        (shape,) = self.saved()
        return F.adaptive_avg_pool1d_backward(grad_output, shape)


class AdaptiveAvgPool2d(Module):
    """The means of `output_size` rectangles that cover an image evenly.

    Parameters
    ----------
    output_size : int or pair of int or None
        Height and width of the output, None for the input's; 1 is the mean of the whole image (global average pooling).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.ones((8, 16, 7, 7), np.float32)).shape
    (8, 16, 1, 1)
    """

    options = ("output_size",)

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the means of `input` (N, C, H, W) or (C, H, W)."""
        input = check.array("input", input)
        self.save(input.shape, _is_channels_last(input))
        return F.adaptive_avg_pool2d(input, self.output_size)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        shape, last = self.saved()
        return F.adaptive_avg_pool2d_backward(grad_output, shape, channels_last=last)
