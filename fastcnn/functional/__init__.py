"""Checked functions over NumPy arrays: the one validator above the kernels.

Names, argument order, defaults and meanings are `torch.nn.functional`'s. Arrays are float32 or float64, shapes NCHW;
memory may be C-contiguous or channels-last (an NHWC array seen through `transpose(0, 3, 1, 2)`), and the output keeps
the order of the input. Wrong arguments raise TypeError or ValueError, too little memory MemoryError; nothing passed in
is changed by a failed call.

Where an array is asked for, any object will do that shares its memory by the array interface, the buffer protocol or,
on the CPU, DLPack: tensors of other libraries. What is returned is NumPy's. A subclass of ndarray (a matrix, a memmap)
counts as the plain array of its memory; a masked array does so only where it masks nothing, and is refused else.
Functions with a keyword `out` write to the array given there, which overlaps no other, and return it.
"""

from fastcnn.functional.activation import (
    add,
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
from fastcnn.functional.fused import (
    conv2d_max_pool,
    conv2d_max_pool_backward,
    conv2d_norm,
    norm_conv2d,
    norm_conv2d_backward,
)
from fastcnn.functional.image import image_batch
from fastcnn.functional.linear import flatten, flatten_backward, linear, linear_backward
from fastcnn.functional.loss import (
    cross_entropy,
    log_softmax,
    log_softmax_backward,
    mse_loss,
    softmax,
    softmax_backward,
)
from fastcnn.functional.norm import batch_norm, batch_norm_apply, batch_norm_backward, batch_norm_factors
from fastcnn.functional.optim import adam_update, clip_grad_norm, sgd_update
from fastcnn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_taps,
    max_pool2d_taps_backward,
    max_unpool1d,
    max_unpool1d_backward,
    max_unpool2d,
    max_unpool2d_backward,
)

__all__ = [
    "adam_update",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "add",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_apply",
    "batch_norm_backward",
    "batch_norm_factors",
    "clip_grad_norm",
    "col2im",
    "col2im1d",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv2d_max_pool",
    "conv2d_max_pool_backward",
    "conv2d_norm",
    "cross_entropy",
    "dropout",
    "dropout_backward",
    "flatten",
    "flatten_backward",
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
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_taps",
    "max_pool2d_taps_backward",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "mse_loss",
    "norm_conv2d",
    "norm_conv2d_backward",
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
