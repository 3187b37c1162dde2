"""Checked functions over NumPy arrays: the one validator above the kernels.

Names, argument order, defaults and meanings are `torch.nn.functional`'s. Arrays are float32 or float64, shapes NCHW;
memory may be C-contiguous or channels-last (an NHWC array seen through `transpose(0, 3, 1, 2)`), and the output keeps
the order of the input. Wrong arguments raise TypeError or ValueError; nothing passed in is changed by a failed call.
"""

from fastcnn.functional.activation import (
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
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
from fastcnn.functional.loss import (
    cross_entropy,
    log_softmax,
    log_softmax_backward,
    mse_loss,
    softmax,
    softmax_backward,
)
from fastcnn.functional.norm import batch_norm, batch_norm_backward
from fastcnn.functional.optim import adam_update, clip_grad_norm, sgd_update

__all__ = [
    "adam_update",
    "batch_norm",
    "batch_norm_backward",
    "clip_grad_norm",
    "col2im",
    "col2im1d",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "cross_entropy",
    "dropout",
    "dropout_backward",
    "gelu",
    "gelu_backward",
    "im2col",
    "im2col1d",
    "image_batch",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "mse_loss",
    "relu",
    "relu_backward",
    "sgd_update",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]
