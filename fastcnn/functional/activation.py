"""Activations and dropout with their gradients. All keep shape and memory order, and take any number of dimensions."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from fastcnn import random
from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import contiguous, flat, memory_axes, new, required, zeros
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import choice, flag
from fastcnn.functional._types import Array
from fastcnn.kernels.activation import Activation

_RELU, _LEAKY_RELU, _SIGMOID, _TANH, _GELU, _GELU_TANH, _SILU = map(int, Activation)


@remembered
def _forward(kind: int, input: Array, out: np.ndarray | None, slope: float) -> Call | np.ndarray:
    given = input
    (input,) = required(input=input)
    if out is None:
        axes = memory_axes(input)
    else:
        target = check.destination(out, input.shape, input.dtype, (given,), input=given)
        axes = memory_axes(target)
        contiguous(target, axes)
    if not input.size:
        return np.empty_like(input) if out is None else out
    result = (input.shape, axes, input.dtype) if out is None else out
    return Call("activation", (flat(input, axes),), (result,), integers=(kind, input.size))


@remembered
def _backward(kind: int, grad_output: Array, saved: Array, slope: float) -> Call | np.ndarray:
    name = "output" if kind in (_RELU, _SIGMOID, _TANH) else "input"
    saved, grad_output = required(**{name: saved}, grad_output=grad_output)
    check.shape("grad_output", grad_output, saved.shape)
    if not saved.size:
        return np.empty_like(saved)
    axes = memory_axes(saved)
    arrays = flat(grad_output, axes), flat(saved, axes)
    return Call("activation_backward", arrays, ((saved.shape, axes, saved.dtype),), integers=(kind, saved.size))


def add(input: Array, other: Array, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return input + other, of one shape.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    other : ndarray of the same shape
    out : ndarray, optional
        Array to write the sum to and to return: `input` or `other` itself, or one of their shape and type apart from
        them.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.add(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([4., 6.])
    """
    return _add(input, other, out)


@remembered
def _add(input, other, out):
    given = {"input": input, "other": other}
    input, other = required(input=input, other=other)
    check.shape("other", other, input.shape)
    if out is None:
        axes = memory_axes(input)
        result = new(input.shape, input.dtype, axes)
    else:
        target = check.destination(out, input.shape, input.dtype, (out,), **given)
        axes = memory_axes(target)
        contiguous(target, axes)
        result = out
    if not input.size:
        return zeros((result,))
    return Call("add", (flat(input, axes), flat(other, axes)), (result,), integers=(input.size,))


def relu(input: Array, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return max(input, 0); NaN stays NaN.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return _forward(_RELU, input, out, 0.0)


def relu_backward(grad_output: Array, output: Array) -> np.ndarray:
    """Return the gradient of relu's input, which is 0 where the output is 0.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    output : ndarray of the same shape
        What `relu` returned.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `output`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.relu_backward(np.array([5.0, 5.0, 5.0]), F.relu(np.array([-1.0, 0.0, 2.0])))
    array([0., 0., 5.])
    """
    return _backward(_RELU, grad_output, output, 0.0)


def leaky_relu(input: Array, negative_slope: float = 0.01, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return `input` where it is positive, `negative_slope` times it elsewhere.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    negative_slope : float, default 0.01
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `negative_slope` not a finite number, or `out` does not
        fit.

    References
    ----------
    A. L. Maas, A. Y. Hannun, A. Y. Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    return _forward(_LEAKY_RELU, input, out, number("negative_slope", negative_slope, -np.inf))


def leaky_relu_backward(grad_output: Array, input: Array, negative_slope: float = 0.01) -> np.ndarray:
    """Return the gradient of leaky_relu's input, which at 0 is that of the negative side.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    input : ndarray of the same shape
        What `leaky_relu` was given.
    negative_slope : float, default 0.01

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type, or `negative_slope` is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.leaky_relu_backward(np.array([1.0, 1.0]), np.array([0.0, 2.0]), 0.5)
    array([0.5, 1. ])
    """
    slope = number("negative_slope", negative_slope, -np.inf)
    return _backward(_LEAKY_RELU, grad_output, input, slope)


def sigmoid(input: Array, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return 1 / (1 + exp(-input)).

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return _forward(_SIGMOID, input, out, 0.0)


def sigmoid_backward(grad_output: Array, output: Array) -> np.ndarray:
    """Return the gradient of sigmoid's input, grad_output * output * (1 - output).

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    output : ndarray of the same shape
        What `sigmoid` returned.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `output`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.sigmoid_backward(np.array([1.0]), np.array([0.5]))
    array([0.25])
    """
    return _backward(_SIGMOID, grad_output, output, 0.0)


def tanh(input: Array, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return the hyperbolic tangent.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.tanh(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7616])
    """
    return _forward(_TANH, input, out, 0.0)


def tanh_backward(grad_output: Array, output: Array) -> np.ndarray:
    """Return the gradient of tanh's input, grad_output * (1 - output**2).

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    output : ndarray of the same shape
        What `tanh` returned.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `output`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.tanh_backward(np.array([1.0, 1.0]), np.array([0.0, 0.5]))
    array([1.  , 0.75])
    """
    return _backward(_TANH, grad_output, output, 0.0)


def _gelu_kind(approximate: object) -> int:
    return _GELU if choice("approximate", approximate, "none", "tanh") == "none" else _GELU_TANH


def gelu(input: Array, approximate: str = "none", *, out: np.ndarray | None = None) -> np.ndarray:
    """Return `input` times the probability of a standard normal value below it.

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    approximate : {'none', 'tanh'}
        'tanh' takes (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3))) / 2 for the probability below x.
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `approximate` is none of these, or `out` does not
        fit.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    >>> F.gelu(np.array([-1.0, 0.0, 1.0]), approximate="tanh").round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    return _forward(_gelu_kind(approximate), input, out, 0.0)


def gelu_backward(grad_output: Array, input: Array, approximate: str = "none") -> np.ndarray:
    """Return the gradient of gelu's input.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    input : ndarray of the same shape
        What `gelu` was given.
    approximate : {'none', 'tanh'}
        As in `gelu`; the gradient is that of the formula used.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type, or `approximate` is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.gelu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 1.0833])
    """
    return _backward(_gelu_kind(approximate), grad_output, input, 0.0)


def silu(input: Array, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return input * sigmoid(input).

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    out : ndarray, optional
        Array to write the output to and to return: `input` itself, or one of its shape and type apart from it.

    Returns
    -------
    ndarray
        Of the shape and type of `input`, and of its memory order where `out` is not given.

    Raises
    ------
    TypeError, ValueError
        If `input` is not an array of float32 or float64, or `out` does not fit.

    References
    ----------
    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
    Reinforcement Learning", Neural Networks 107 (2018).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.silu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7311])
    """
    return _forward(_SILU, input, out, 0.0)


def silu_backward(grad_output: Array, input: Array) -> np.ndarray:
    """Return the gradient of silu's input.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    input : ndarray of the same shape
        What `silu` was given.

    Returns
    -------
    ndarray
        Of the shape, type and memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        If the arrays have a wrong type, or not one shape and type.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.silu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 0.9277])
    """
    return _backward(_SILU, grad_output, input, 0.0)


# --- dropout --------------------------------------------------------------------------------------------------------


def _kept_scale(p: float) -> float:
    return 1 / (1 - p) if p < 1 else 0.0


@overload
def dropout(
    input: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | None = None,
    return_mask: Literal[False] = False,
) -> np.ndarray: ...
@overload
def dropout(
    input: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | None = None,
    return_mask: Literal[True],
) -> tuple[np.ndarray, np.ndarray | None]: ...
def dropout(
    input: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | None = None,
    return_mask: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray | None]:
    """Set each element to zero with probability `p` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : ndarray of any shape
        float32 or float64.
    p : float, default 0.5
        Probability of an element to become zero, from 0 to 1. A dropped element is 0 even where it was not finite.
    training : bool, default True
        If False nothing is dropped and nothing drawn from `rng`: `input` itself is returned.
    rng : numpy.random.Generator, optional
        Where the one 64-bit seed of this call is drawn; fastcnn's default generator if not given.
    return_mask : bool, default False
        Whether to return what `dropout_backward` needs as well.

    Returns
    -------
    output : ndarray
        Of the shape and type of `input`; channels-last where that is, else C-contiguous.
    mask : ndarray of uint8, or None
        Only with `return_mask`: 1 where an element was kept, in the memory order of `output`; None if not training.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Notes
    -----
    Element number i, counted from 0 in the logical (NCHW) order, is kept if the upper half of SplitMix64's output i + 1
    is below floor((1 - p) * 2**32). So the mask depends on the seed and the shape alone, neither on the memory order
    nor on the number of threads.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent Neural
    Networks from Overfitting", JMLR 15, 2014.

    G. L. Steele Jr., D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.dropout(np.ones(8), 0.5, rng=np.random.default_rng(0)).tolist()
    [0.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0]
    """
    (input,) = required(input=input)
    p = number("p", p, 0, 1)
    rng = random.resolve(rng)
    return_mask = flag("return_mask", return_mask)
    if not flag("training", training):
        return (input, None) if return_mask else input
    seed = int(rng.integers(0, 2**64, dtype=np.uint64))
    halves = float(seed >> 32), float(seed & 0xFFFFFFFF)
    output, mask = _dropout(input, *halves, float(int((1 - p) * 2**32)), _kept_scale(p))
    return (output, mask) if return_mask else output


@remembered
def _dropout(input, *numbers):
    channels_last = input.ndim == 4 and check.is_channels_last(input)
    axes = (0, 2, 3, 1) if channels_last else tuple(range(input.ndim))
    results = new(input.shape, input.dtype, axes), new(input.shape, np.dtype(np.uint8), axes)
    if not input.size:
        return zeros(results)
    n, c, plane = 1, 1, input.size
    if channels_last:
        n, c, plane = len(input), input.shape[1], input[0, 0].size
    return Call("dropout", (flat(input, axes),), results, integers=(n, c, plane, channels_last))


def dropout_backward(grad_output: Array, mask: Array | None, p: float = 0.5) -> np.ndarray:
    """Return the gradient of dropout's input: that of the kept elements, with the same scale.

    Parameters
    ----------
    grad_output : ndarray
        Gradient of the output.
    mask : ndarray of uint8 of the same shape, or None
        What `dropout` returned with `return_mask`. None, from a call that was not training, returns `grad_output`
        itself.
    p : float, default 0.5
        As it was in `dropout`.

    Returns
    -------
    ndarray
        Of the shape and type of `grad_output`, in the memory order of `mask`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> F.dropout_backward(np.array([1.0, 1.0]), np.array([0, 1], np.uint8), 0.75)
    array([0., 4.])
    """
    p = number("p", p, 0, 1)
    if mask is None:
        return required(grad_output=grad_output)[0]
    return _dropout_backward(grad_output, mask, _kept_scale(p))


@remembered
def _dropout_backward(grad_output, mask, scale):
    (grad_output,) = required(grad_output=grad_output)
    mask = check.array("mask", mask, "an array of uint8, or None")
    if mask.dtype != np.uint8:
        check.fail("mask", "an array of uint8, or None", mask.dtype, TypeError)
    check.shape("mask", mask, grad_output.shape)
    axes = memory_axes(mask)
    result = new(mask.shape, grad_output.dtype, axes)
    if not mask.size:
        return zeros((result,))
    return Call("dropout_backward", (flat(grad_output, axes), flat(mask, axes)), (result,), integers=(mask.size,))
