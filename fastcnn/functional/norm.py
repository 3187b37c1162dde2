"""Batch normalisation and its gradients."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import contiguous, empty, flat, required
from fastcnn.functional._options import flag
from fastcnn.functional._types import Array
from fastcnn.kernels import norm as kernels


def _images(name: str, array: np.ndarray) -> np.ndarray:
    """(N, C), (N, C, L) or (N, C, H, W) as (N, C, H, W)."""
    check.ndim(name, array, 2, 3, 4)
    if array.shape[1] < 1:
        check.fail(name, "at least one channel", f"shape {array.shape}")
    return array[:, :, None, None] if array.ndim == 2 else array[:, :, None] if array.ndim == 3 else array


def _memory(images: np.ndarray) -> tuple[tuple[int, ...], tuple[int, int, int, bool]]:
    """Axes from slow to fast, and what the kernels want to know: images, channels, pixels, channels last."""
    n, c, h, w = images.shape
    channels_last = h * w == 1 or check.is_channels_last(images)
    return (0, 2, 3, 1) if channels_last else (0, 1, 2, 3), (n, c, h * w, channels_last)


def _vectors(channels: int, **vectors: np.ndarray | None) -> None:
    for name, vector in vectors.items():
        if vector is not None:
            check.shape(name, vector, (channels,))


def _statistics(memory: np.ndarray, layout: tuple[int, int, int, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, in double; zeros for an empty batch."""
    channels = layout[1]
    mean, var = np.zeros(channels), np.zeros(channels)
    if memory.size:
        partials = np.empty((kernels.blocks(*layout), 2 * channels))
        kernels.batch_statistics(memory, *layout, np.empty(channels, memory.dtype), partials, mean, var)
    return mean, var


@overload
def batch_norm(
    input: Array,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    return_saved: Literal[False] = False,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
@overload
def batch_norm(
    input: Array,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    return_saved: Literal[True],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def batch_norm(
    input: Array,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    return_saved: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise each channel: (input - mean) / sqrt(var + eps) * weight + bias.

    Parameters
    ----------
    input : ndarray of shape (N, C), (N, C, L) or (N, C, H, W)
        float32 or float64, in either memory order.
    running_mean, running_var : ndarray of shape (C,), or None
        The statistics used where `training` is False. Where it is True they are updated in place, or None.
    weight, bias : ndarray of shape (C,), optional
        1 and 0 if not given.
    training : bool, default False
        Whether mean and (biased) variance are those of this batch.
    momentum : float, default 0.1
        Part of this batch in the updated running statistics; its variance goes in without bias. An empty batch changes
        nothing.
    eps : float, default 1e-5
        Not negative.
    return_saved : bool, default False
        Whether to return what `batch_norm_backward` needs as well.
    out : ndarray, optional
        Array to write the output to and to return, of its shape, type and memory order, apart from the other arrays.

    Returns
    -------
    output : ndarray
        Of the shape, type and memory order of `input`.
    mean, invstd : ndarray of shape (C,)
        Only with `return_saved`: the statistics used, invstd = 1 / sqrt(var + eps).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range; if training is asked for one value per channel, whose variance
        says nothing. The running statistics are then unchanged.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> running_mean, running_var = np.zeros(1), np.ones(1)
    >>> F.batch_norm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True, eps=0)
    array([[-1.],
           [ 1.]])
    >>> running_mean, running_var
    (array([0.2]), array([1.1]))
    """
    (input,) = required(input=input)
    updated: list[Any] = [
        None if vector is None else check.array(name, vector)
        for name, vector in (("running_mean", running_mean), ("running_var", running_var))
    ]
    _, running_mean, running_var, weight, bias = check.floats(
        input=input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    images = _images("input", input)
    _vectors(images.shape[1], running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    training = flag("training", training)
    momentum = number("momentum", momentum, -np.inf)
    eps = number("eps", eps, 0)
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        check.fail(missing, "an array, as the other running statistic is given", None)
    axes, layout = _memory(images)
    n, c, pixels, _ = layout
    if training:
        if n * pixels == 1:
            check.fail("input", "more than one value per channel when training", f"shape {input.shape}")
        for name, vector in zip(("running_mean", "running_var"), updated, strict=True):
            if vector is not None and not vector.flags.writeable:
                check.fail(name, "a writable array when training", "a read-only one")

    if out is None:
        output, output_memory = empty(images.shape, axes, input.dtype)
    else:
        vectors = {"running_mean": updated[0], "running_var": updated[1], "weight": weight, "bias": bias}
        check.destination(out, input.shape, input.dtype, input=input, **vectors)
        output, output_memory = out, contiguous(_images("out", out), axes)
    memory = flat(images, axes)
    if training:
        mean, var = _statistics(memory, layout)
    elif running_mean is None or running_var is None:
        check.fail("running_mean", "an array, as training is False", None)
    else:
        mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance of 0 with eps 0, or below it, gives inf or NaN
        invstd = 1 / np.sqrt(var + eps)
        scale = invstd if weight is None else weight * invstd
    shift = np.zeros(c) if bias is None else bias.astype(np.float64)
    if memory.size:
        kernels.normalize(memory, mean, scale, shift, output_memory, *layout)
    if training and running_mean is not None and running_var is not None and n * pixels:
        unbiased = var * (n * pixels / (n * pixels - 1))
        with np.errstate(over="ignore", invalid="ignore"):
            updated[0][:] = (1 - momentum) * running_mean + momentum * mean
            updated[1][:] = (1 - momentum) * running_var + momentum * unbiased
    if out is None:
        output = output.reshape(input.shape)
    return (output, mean.astype(input.dtype), invstd.astype(input.dtype)) if return_saved else output


def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array | None,
    mean: Array,
    invstd: Array,
    training: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of batch_norm's input, weight and bias.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    input : ndarray of the same shape
        What `batch_norm` was given.
    weight : ndarray of shape (C,), or None
        What `batch_norm` was given.
    mean, invstd : ndarray of shape (C,)
        What `batch_norm` returned with `return_saved`.
    training : bool, default True
        As it was in `batch_norm`: whether mean and variance depend on the input.

    Returns
    -------
    grad_input : ndarray
        Of the shape, type and memory order of `input`.
    grad_weight, grad_bias : ndarray of shape (C,)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> _, mean, invstd = F.batch_norm(x, None, None, training=True, eps=1 / 3, return_saved=True)
    >>> grad_output = np.array([[1.0], [0.0], [0.0]])
    >>> grad_input, grad_weight, grad_bias = F.batch_norm_backward(grad_output, x, None, mean, invstd)
    >>> grad_input.ravel().round(3), grad_weight, grad_bias
    (array([ 0.333, -0.333,  0.   ]), array([-1.]), array([1.]))
    """
    input, grad_output, mean, invstd = required(input=input, grad_output=grad_output, mean=mean, invstd=invstd)
    _, weight = check.floats(input=input, weight=weight)
    images = _images("input", input)
    check.shape("grad_output", grad_output, input.shape)
    _vectors(images.shape[1], weight=weight, mean=mean, invstd=invstd)
    training = flag("training", training)
    axes, layout = _memory(images)
    n, c, pixels, _ = layout
    memory, grad_memory = flat(images, axes), flat(_images("grad_output", grad_output), axes)
    grad_sum, product_sum = np.zeros(c), np.zeros(c)
    grad_input, grad_input_memory = empty(images.shape, axes, input.dtype)
    if memory.size:
        mean = np.ascontiguousarray(mean)
        partials = np.empty((kernels.blocks(*layout), 2 * c))
        kernels.batch_norm_sums(grad_memory, memory, mean, *layout, partials, grad_sum, product_sum)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = invstd.astype(np.float64)
        grad_weight = scale * product_sum
        slope = scale * grad_weight / max(n * pixels, 1)
        if weight is not None:
            scale = weight * scale
        grad_weight, grad_bias = grad_weight.astype(input.dtype), grad_sum.astype(input.dtype)
    if memory.size and training:
        grad_mean = grad_sum / (n * pixels)
        kernels.normalize_backward(grad_memory, memory, mean, grad_mean, slope, scale, grad_input_memory, *layout)
    elif memory.size:
        zeros = np.zeros(c)
        kernels.normalize(grad_memory, zeros, scale, zeros, grad_input_memory, *layout)
    return grad_input.reshape(input.shape), grad_weight, grad_bias
