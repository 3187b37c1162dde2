"""Batch normalisation and its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import New, contiguous, empty, flat, new, required, zeros
from fastcnn.functional._calls import Call, remembered
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


class VarianceOverflowError(ValueError):
    """The variance of a batch of finite values is infinite in its type, or would make the running variance so."""

    layer: object = None  # the layer, where one called


class _Call(NamedTuple):
    """The checked arguments of batch norm."""

    shape: tuple[int, ...]
    images: np.ndarray
    axes: tuple[int, ...]
    layout: tuple[int, int, int, bool]
    running: tuple[np.ndarray, np.ndarray] | None
    given: tuple[np.ndarray, np.ndarray] | None  # `running` as it came, to be updated
    weight: np.ndarray | None
    bias: np.ndarray | None
    training: bool
    momentum: float
    eps: float

    def factors(self, memory: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """Mean, invstd, scale and shift of each channel; in training from the batch, and the running ones updated.

        The batch's mean and variance may be given.
        """
        n, _, pixels, _ = self.layout
        statistics = self.statistics(memory, given)
        self.check_overflow(statistics)
        factors = np.empty((4, statistics.shape[1]), memory.dtype)
        kernels.factors(factors, self.weight, self.bias, statistics, self.eps)
        if self.training and self.running is not None and self.given is not None and memory.size:
            kernels.move_running(statistics, n * pixels, self.momentum, *self.running)
            for given, moved in zip(self.given, self.running, strict=True):
                if moved is not given:
                    given[:] = moved
        return factors

    def statistics(self, memory: np.ndarray, given: np.ndarray | None) -> np.ndarray:
        """Return the mean and variance of each channel that are used, in float64."""
        statistics = np.zeros((2, self.layout[1]))
        if not self.training and self.running is not None:
            statistics[:] = self.running
        elif given is not None and memory.size:
            statistics[:] = given
        elif memory.size:
            partials = np.empty((kernels.blocks(*self.layout), 3 * self.layout[1]))
            kernels.batch_statistics(memory, *self.layout, partials, statistics)
        return statistics

    def check_overflow(self, statistics: np.ndarray) -> None:
        """Raise VarianceOverflowError if the variance of a batch, or the running one that it leads to, is infinite."""
        n, _, pixels, _ = self.layout
        if self.training and self.running is not None and n * pixels:
            channel = kernels.overflow(statistics, n * pixels, self.momentum, self.running[1])
        elif self.running is None:
            infinite = ~np.isfinite(statistics[1]) & np.isfinite(statistics[0])
            channel = int(infinite.argmax()) if infinite.any() else -1
        else:
            return
        if channel >= 0:
            expected = f"values whose variance is in the range of {self.images.dtype}"
            check.fail("input", expected, f"a larger one in channel {channel}", VarianceOverflowError)


def _checked(
    input: Array,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> _Call:
    (input,) = required(input=input)
    given: list[Any] = [
        None if vector is None else check.array(name, vector)
        for name, vector in (("running_mean", running_mean), ("running_var", running_var))
    ]
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    _, *checked = check.floats(input=input, **vectors)
    images = _images("input", input)
    _vectors(images.shape[1], **dict(zip(vectors, checked, strict=True)))
    training = flag("training", training)
    momentum = number("momentum", momentum, -np.inf)
    eps = number("eps", eps, 0)
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        check.fail(missing, "an array, as the other running statistic is given", None)
    axes, layout = _memory(images)
    if training:
        if layout[0] * layout[2] == 1:
            check.fail("input", "more than one value per channel when training", f"shape {input.shape}")
        moved = dict(zip(("running_mean", "running_var"), given, strict=True))
        for name, vector in moved.items():
            if vector is not None and not vector.flags.writeable:
                check.fail(name, "a writable array when training", "a read-only one")
        check.apart(moved, input=input, weight=checked[2], bias=checked[3])
    elif running_mean is None:
        check.fail("running_mean", "an array, as training is False", None)
    mean, var, weight, bias = (None if vector is None else np.ascontiguousarray(vector) for vector in checked)
    running, given_pair = ((mean, var), (given[0], given[1])) if mean is not None and var is not None else (None, None)
    return _Call(input.shape, images, axes, layout, running, given_pair, weight, bias, training, momentum, eps)


def _destination(
    out: np.ndarray | None, images: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...], **apart: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the array of the given shape that a result like `images` goes to, and the flat view of it."""
    if out is None:
        output, memory = empty(images.shape, axes, images.dtype)
        return output.reshape(shape), memory
    target = check.destination(out, shape, images.dtype, **apart)
    return out, contiguous(_images("out", target), axes)


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
        says nothing; if the variance of finite values, or the running variance that it leads to, overflows (torch makes
        it infinite). The running statistics are then unchanged.

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
    call = _checked(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return_saved = flag("return_saved", return_saved)
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    output, output_memory = _destination(out, call.images, call.axes, call.shape, input=input, **vectors)
    memory = flat(call.images, call.axes)
    mean, invstd, scale, shift = call.factors(memory)
    if memory.size:
        kernels.apply(memory, None, mean, scale, shift, False, output_memory, *call.layout)
    return (output, mean, invstd) if return_saved else output


def batch_norm_factors(
    input: Array,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    statistics: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what `batch_norm` subtracts, multiplies by and adds: its first pass, `batch_norm_apply` being the second.

    Parameters
    ----------
    input, running_mean, running_var, weight, bias, training, momentum, eps
        As of `batch_norm`. In training the running statistics are updated.
    statistics : ndarray of float64, of shape (2, C), optional
        Mean and biased variance of each channel of `input`, if they are known, as `norm_conv2d` returns them. In
        training they are used, and the input is not read.

    Returns
    -------
    mean, invstd : ndarray of shape (C,)
        The statistics used, invstd = 1 / sqrt(var + eps).
    scale, shift : ndarray of shape (C,)
        batch_norm is (input - mean) * scale + shift. (The shift makes up for the rounding of the mean.)

    Raises
    ------
    TypeError, ValueError
        As of `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x = np.array([[1.0], [3.0]])
    >>> mean, invstd, scale, shift = F.batch_norm_factors(x, None, None, np.array([2.0]), training=True, eps=0)
    >>> mean, invstd, scale, shift
    (array([2.]), array([1.]), array([2.]), array([0.]))
    >>> F.batch_norm_apply(x, mean, scale, shift, relu=True)
    array([[0.],
           [2.]])
    """
    momentum, eps = number("momentum", momentum, -np.inf), number("eps", eps, 0)
    return _factors(input, running_mean, running_var, weight, bias, training, momentum, eps, statistics)


def _checked_doubles(name: str, value: np.ndarray | None, channels: int) -> np.ndarray | None:
    """Check two numbers for each channel."""
    if value is None:
        return None
    value = check.array(name, value, "a NumPy array of float64")
    if value.dtype.newbyteorder("=") != np.float64:
        check.fail(name, "an array of float64", value.dtype, TypeError)
    check.shape(name, value, (2, channels))
    return np.require(value, np.float64, ["C", "A"])


@remembered
def _factors(*arguments):
    *arguments, statistics = arguments
    call = _checked(*arguments)
    statistics = _checked_doubles("statistics", statistics, call.images.shape[1])
    moved = call.running is not None and call.given is not None and call.training
    if not call.images.size or (moved and any(a is not b for a, b in zip(call.running, call.given, strict=True))):
        return tuple(call.factors(flat(call.images, call.axes), statistics))
    running = (None, None) if call.running is None else call.running
    arrays = flat(call.images, call.axes), *running, call.weight, call.bias, statistics
    results = (new(call.images.shape[1:2], call.images.dtype),) * 4
    integers = (*call.layout, call.training or call.running is None)

    def refused():
        call.check_overflow(call.statistics(arrays[0], statistics))

    written = (1, 2) if moved else ()
    return Call("norm_factors", arrays, results, integers=integers, written=written, refused=refused)


def batch_norm_apply(
    input: Array,
    mean: Array,
    scale: Array,
    shift: Array,
    *,
    residual: Array | None = None,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return (input - mean) * scale + shift, with what often follows it, in one pass.

    Parameters
    ----------
    input : ndarray of shape (N, C), (N, C, L) or (N, C, H, W)
        float32 or float64, in either memory order.
    mean, scale, shift : ndarray of shape (C,)
        Of each channel, as `batch_norm_factors` returns them.
    residual : ndarray of the shape of input, optional
        Added to it.
    relu : bool, default False
        Whether ReLU is taken of that.
    out : ndarray, optional
        Array to write the output to and to return: `input` or `residual`, or one apart from the other arrays, of the
        shape, type and memory order of `input`.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`; to the bit what the three steps return one after another.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> one = np.ones(1)
    >>> F.batch_norm_apply(np.array([[1.0], [3.0]]), one, 2 * one, one, residual=np.array([[-9.0], [1.0]]), relu=True)
    array([[0.],
           [6.]])
    """
    return _apply(input, mean, scale, shift, residual, relu, out)


@remembered
def _apply(input, mean, scale, shift, residual, relu, out):
    given = {"input": input, "residual": residual}
    apart = {"mean": mean, "scale": scale, "shift": shift}
    input, mean, scale, shift = required(input=input, mean=mean, scale=scale, shift=shift)
    _, residual = check.floats(input=input, residual=residual)
    images = _images("input", input)
    vectors = {"mean": mean, "scale": scale, "shift": shift}
    _vectors(images.shape[1], **vectors)
    relu = flag("relu", relu)
    axes, layout = _memory(images)
    other = None
    if residual is not None:
        check.shape("residual", residual, input.shape)
        other = flat(_images("residual", residual), axes)
    result = _result(out, input, axes, given, **apart)
    if not input.size:
        return zeros((result,))
    arrays = flat(images, axes), other, *(np.ascontiguousarray(vector) for vector in (mean, scale, shift))
    return Call("norm_apply", arrays, (result,), integers=(*layout, relu))


def _result(
    out: np.ndarray | None, like: np.ndarray, axes: tuple[int, ...], same: Mapping[str, object], **apart: object
) -> np.ndarray | New:
    """Check `out`, which may be one of the arrays in `same`, or describe an array like the one given."""
    if out is None:
        return new(like.shape, like.dtype, tuple(axis for axis in axes if axis < like.ndim))
    in_place = [value for value in same.values() if value is out]
    target = check.destination(out, like.shape, like.dtype, in_place, **same, **apart)
    contiguous(_images("out", target), axes)
    return out


@overload
def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array | None,
    mean: Array,
    invstd: Array,
    training: bool = True,
    *,
    relu: Array | tuple[Array, Array] | None = None,
    return_masked: Literal[False] = False,
    sums: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
@overload
def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array | None,
    mean: Array,
    invstd: Array,
    training: bool = True,
    *,
    relu: Array | tuple[Array, Array] | None = None,
    return_masked: Literal[True],
    sums: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array | None,
    mean: Array,
    invstd: Array,
    training: bool = True,
    *,
    relu: Array | tuple[Array, Array] | None = None,
    return_masked: bool = False,
    sums: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
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
    relu : ndarray, or pair of ndarray of shape (C,), optional
        The output of a ReLU behind batch norm, or scale and shift of `batch_norm_factors`, by which that output is
        computed again (there is then no residual in between): where it is 0, the gradient is taken as 0 first.
    return_masked : bool, default False
        Whether to return that gradient, which is also the residual's. It is `grad_output` itself if there is no ReLU.
    sums : ndarray of float64, of shape (2, C), optional
        Over each channel of that gradient, and of its product with input - mean, if they are known, as
        `norm_conv2d_backward` returns them; not with `return_masked` of a ReLU, which is written as sums are taken.
    out : ndarray, optional
        Array to write grad_input to and to return: `input` or `grad_output` (unless `return_masked` returns that
        itself), or one apart from the other arrays, of the shape, type and memory order of `input`.

    Returns
    -------
    grad_input : ndarray
        Of the shape, type and memory order of `input`.
    grad_weight, grad_bias : ndarray of shape (C,)
    masked : ndarray
        Only with `return_masked`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> output, mean, invstd = F.batch_norm(x, None, None, training=True, eps=1 / 3, return_saved=True)
    >>> grad_output = np.array([[1.0], [0.0], [0.0]])
    >>> grad_input, grad_weight, grad_bias = F.batch_norm_backward(grad_output, x, None, mean, invstd)
    >>> grad_input.ravel().round(3), grad_weight, grad_bias
    (array([ 0.333, -0.333,  0.   ]), array([-1.]), array([1.]))
    >>> F.batch_norm_backward(grad_output, x, None, mean, invstd, relu=F.relu(output))[0].ravel()
    array([0., 0., 0.])
    """
    return _backward(grad_output, input, weight, mean, invstd, training, relu, return_masked, sums, out)


@remembered
def _backward(grad_output, input, weight, mean, invstd, training, relu, return_masked, sums, out):
    given = {"input": input, "grad_output": grad_output}
    apart = {"relu": relu, "weight": weight, "mean": mean, "invstd": invstd, "sums": sums}
    input, grad_output, mean, invstd = required(input=input, grad_output=grad_output, mean=mean, invstd=invstd)
    output = scale = shift = None
    if isinstance(relu, tuple):
        if len(relu) != 2:
            check.fail("relu", "an array, or scale and shift", f"{len(relu)} of them")
        scale, shift = relu
        apart |= {"relu": None, "scale": scale, "shift": shift}
    else:
        output = relu
    images = _images("input", input)
    check.shape("grad_output", grad_output, input.shape)
    checked = dict(zip(("weight", "relu"), check.floats(input=input, weight=weight, relu=output)[1:], strict=True))
    output = checked.pop("relu")
    if output is not None:
        check.shape("relu", output, input.shape)
    try:
        factors = dict(zip(("scale", "shift"), check.floats(input=input, scale=scale, shift=shift)[1:], strict=True))
        _vectors(images.shape[1], **factors)
    except (TypeError, ValueError) as error:
        raise type(error)(f"relu: {error}") from None
    _vectors(images.shape[1], mean=mean, invstd=invstd, **checked)
    checked |= factors
    training, return_masked = flag("training", training), flag("return_masked", return_masked)
    if return_masked and relu is None and out is not None and out is given["grad_output"]:
        check.fail("out", "memory apart from grad_output, which is returned as well", "grad_output itself")
    sums = _checked_doubles("sums", sums, images.shape[1])
    if sums is not None and return_masked and relu is not None:
        check.fail("sums", "None, as the masked gradient is written where they are taken", "an array")
    axes, layout = _memory(images)
    vectors = (new(images.shape[1:2], input.dtype),) * 2
    results = (_result(out, input, axes, given, **apart), *vectors)
    if return_masked:
        results = (*results, grad_output if relu is None else _result(None, input, axes, {}))
    if not input.size:
        return zeros(results)
    weight, scale, shift = (None if v is None else np.ascontiguousarray(v) for v in checked.values())
    mean, invstd = np.ascontiguousarray(mean), np.ascontiguousarray(invstd)
    if output is not None:
        output = flat(_images("relu", output), axes)
    dy = flat(_images("grad_output", grad_output), axes)
    arrays = dy, flat(images, axes), output, scale, shift, weight, mean, invstd, sums
    return Call("norm_backward", arrays, results, integers=(*layout, training, return_masked))
