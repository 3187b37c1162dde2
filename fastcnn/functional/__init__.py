"""Checked functions over NumPy arrays: the one validator above the kernels.

Names, argument order, defaults and meanings are `torch.nn.functional`'s. Arrays are float32 or float64, shapes NCHW;
memory may be C-contiguous or channels-last (an NHWC array seen through `transpose(0, 3, 1, 2)`), and the output keeps
the order of the input. Wrong arguments raise TypeError or ValueError; nothing passed in is changed by a failed call.
"""

from fastcnn.functional.conv import (
    col2im,
    col2im1d,
    conv1d,
    conv1d_backward,
    conv2d,
    conv2d_backward,
    im2col,
    im2col1d,
)
from fastcnn.functional.image import image_batch
from fastcnn.functional.linear import linear, linear_backward

__all__ = [
    "col2im",
    "col2im1d",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "im2col",
    "im2col1d",
    "image_batch",
    "linear",
    "linear_backward",
]
