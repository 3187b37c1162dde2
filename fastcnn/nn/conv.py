"""Convolution layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.functional import _checks as check
from fastcnn.functional._options import flag
from fastcnn.nn import init
from fastcnn.nn.module import Module, Parameter

__all__ = ["Conv1d", "Conv2d"]

_Size = int | tuple[int, ...]


class _Conv(Module):
    """What both convolutions share; `window` is their number of window axes."""

    window: int
    options = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size | str = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check.integer("in_channels", in_channels, 1)
        self.out_channels = check.integer("out_channels", out_channels, 1)
        self.groups = check.integer("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            check.fail("groups", f"a divisor of {in_channels} and {out_channels} channels", groups)
        self.kernel_size = check.integers("kernel_size", kernel_size, self.window, 1)
        self.stride = check.integers("stride", stride, self.window, 1)
        self.dilation = check.integers("dilation", dilation, self.window, 1)
        self.padding = padding
        if not isinstance(padding, str):
            self.padding = check.integers("padding", padding, self.window, 0)
        elif padding not in ("same", "valid"):
            check.fail("padding", f"an int, {self.window} of them, 'same' or 'valid'", repr(padding))
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = Parameter.empty(shape, dtype)
        self.bias = Parameter.empty((self.out_channels,), dtype) if flag("bias", bias) else None
        init.default_(self.weight, self.bias, rng=rng)

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the convolution of `input`; see the class for the shapes."""
        self.save(input)
        bias = None if self.bias is None else self.bias.data
        return self._conv(input, self.weight.data, bias, *self._geometry())

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Add to the gradients of weight and bias and return the input's; see `Module.backward`."""
        (input,) = self.saved()
        needs = (self.needs_input_grad, True, self.bias is not None)
        out = (None, self.weight.grad_memory(), None if self.bias is None else self.bias.grad_memory())
        grads = self._conv_backward(grad_output, input, self.weight.data, *self._geometry(), needs=needs, out=out)
        self.weight.accumulate(grads[1])
        if self.bias is not None:
            self.bias.accumulate(grads[2])
        return grads[0]

    def _geometry(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups


class Conv1d(_Conv):
    """Convolution over signals (a cross-correlation, as everywhere in deep learning).

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int
        Length of the window.
    stride : int, default 1
        Step between windows.
    padding : int, 'same' or 'valid', default 0
        Zeros added on both sides; 'same' adds as many as keep the length (stride 1 only), 'valid' none.
    dilation : int, default 1
        Distance between the taps of a window.
    groups : int, default 1
        Output channels of one group see the input channels of that group alone.
    bias : bool, default True
        Whether to add a learnt bias.
    dtype : float32 or float64, default float32
    rng : numpy.random.Generator, optional
        Source of the first values; the default generator if not given.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels / groups, kernel_size)
    bias : Parameter of shape (out_channels,), or None
        Both start evenly distributed within 1 / sqrt(in_channels / groups * kernel_size) of zero.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    (N, in_channels, L) becomes (N, out_channels, L_out):

    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Conv1d(2, 4, kernel_size=3, padding="same")(np.ones((8, 2, 100), np.float32)).shape
    (8, 4, 100)
    """

    window = 1

    @staticmethod
    def _conv(*args):
        return F.conv1d(*args)

    @staticmethod
    def _conv_backward(*args, **options):
        return F.conv1d_backward(*args, **options)


class Conv2d(_Conv):
    """Convolution over images (a cross-correlation, as everywhere in deep learning).

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or pair of int
        Height and width of the window.
    stride : int or pair of int, default 1
        Steps between windows.
    padding : int, pair of int, 'same' or 'valid', default 0
        Zeros added on both sides of each axis; 'same' adds as many as keep the size (stride 1 only), 'valid' none.
    dilation : int or pair of int, default 1
        Distances between the taps of a window.
    groups : int, default 1
        Output channels of one group see the input channels of that group alone.
    bias : bool, default True
        Whether to add a learnt bias.
    dtype : float32 or float64, default float32
    rng : numpy.random.Generator, optional
        Source of the first values; the default generator if not given.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels / groups, kh, kw)
    bias : Parameter of shape (out_channels,), or None
        Both start evenly distributed within 1 / sqrt(in_channels / groups * kh * kw) of zero.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    (N, in_channels, H, W) becomes (N, out_channels, H_out, W_out):

    >>> import numpy as np
    >>> from fastcnn import nn
    >>> conv = nn.Conv2d(3, 16, kernel_size=(3, 5), stride=2, padding=(1, 2))
    >>> conv(np.ones((8, 3, 32, 32), np.float32)).shape
    (8, 16, 16, 16)
    """

    window = 2

    @staticmethod
    def _conv(*args):
        return F.conv2d(*args)

    @staticmethod
    def _conv_backward(*args, **options):
        return F.conv2d_backward(*args, **options)
