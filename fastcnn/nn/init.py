"""First values for parameters, under torch's names. Each function fills a `Parameter` in place and returns it.

The random numbers are drawn in double precision and then rounded, so that a float32 and a float64 network from the
same seed start from the same numbers.
"""

from __future__ import annotations

import math

import numpy as np

from fastcnn.nn.module import Parameter
from fastcnn.random import resolve

__all__ = [
    "calculate_gain",
    "constant_",
    "default_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which weights grow to make up for what a nonlinearity takes from the variance.

    Parameters
    ----------
    nonlinearity : {'linear', 'conv1d', 'conv2d', 'sigmoid', 'tanh', 'relu', 'leaky_relu', 'selu'}
    param : float, optional
        The negative slope of 'leaky_relu' (0.01 where not given).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `nonlinearity` is none of these.

    Examples
    --------
    >>> from fastcnn import nn
    >>> nn.init.calculate_gain("relu") == 2**0.5
    True
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity: expected one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def uniform_(tensor: Parameter, a: float = 0.0, b: float = 1.0, *, rng: np.random.Generator | None = None) -> Parameter:
    """Fill with numbers drawn evenly from [a, b).

    Parameters
    ----------
    tensor : Parameter
    a, b : float
        The bounds.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> p = nn.init.uniform_(nn.Parameter(np.zeros(100)), -1, 1)
    >>> bool(abs(p.data).max() <= 1)
    True
    """
    _check(tensor).data = resolve(rng).uniform(a, b, tensor.shape)
    return tensor


def normal_(
    tensor: Parameter, mean: float = 0.0, std: float = 1.0, *, rng: np.random.Generator | None = None
) -> Parameter:
    """Fill with numbers of the normal distribution.

    Parameters
    ----------
    tensor : Parameter
    mean, std : float
        Mean and standard deviation.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.init.normal_(nn.Parameter(np.zeros(3)), mean=5, std=0).data
    array([5., 5., 5.])
    """
    _check(tensor).data = resolve(rng).normal(mean, std, tensor.shape)
    return tensor


def constant_(tensor: Parameter, val: float) -> Parameter:
    """Fill with one value.

    Parameters
    ----------
    tensor : Parameter
    val : float

    Returns
    -------
    Parameter
        `tensor`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.init.constant_(nn.Parameter(np.zeros(2)), 0.5).data
    array([0.5, 0.5])
    """
    _check(tensor).data.fill(val)
    return tensor


def zeros_(tensor: Parameter) -> Parameter:
    """Fill with zeros.

    Parameters
    ----------
    tensor : Parameter

    Returns
    -------
    Parameter
        `tensor`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.init.zeros_(nn.Parameter(np.full(2, 9.0))).data
    array([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Parameter) -> Parameter:
    """Fill with ones.

    Parameters
    ----------
    tensor : Parameter

    Returns
    -------
    Parameter
        `tensor`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.init.ones_(nn.Parameter(np.full(2, 9.0))).data
    array([1., 1.])
    """
    return constant_(tensor, 1.0)


def kaiming_uniform_(
    tensor: Parameter,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: np.random.Generator | None = None,
) -> Parameter:
    """Fill evenly from [-sqrt(3) s, sqrt(3) s), where s is the standard deviation of `kaiming_normal_`.

    Parameters
    ----------
    tensor : Parameter
        A weight of shape (out, in, ...).
    a : float, default 0
        The negative slope, used with 'leaky_relu'.
    mode : {'fan_in', 'fan_out'}
        Whether to keep the variance of the forward pass or of the backward pass.
    nonlinearity : str
        What follows the layer; see `calculate_gain`.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Raises
    ------
    ValueError
        If `tensor` has fewer than two dimensions, or `mode` or `nonlinearity` is unknown.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
    Classification", ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> p = nn.init.kaiming_uniform_(nn.Parameter(np.zeros((8, 6))), nonlinearity="relu")
    >>> bool(abs(p.data).max() <= 1)
    True
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, rng=rng)


def kaiming_normal_(
    tensor: Parameter,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: np.random.Generator | None = None,
) -> Parameter:
    """Fill from the normal distribution with standard deviation gain / sqrt(fan).

    Parameters
    ----------
    tensor : Parameter
        A weight of shape (out, in, ...).
    a : float, default 0
        The negative slope, used with 'leaky_relu'.
    mode : {'fan_in', 'fan_out'}
        Whether to keep the variance of the forward pass or of the backward pass.
    nonlinearity : str
        What follows the layer; see `calculate_gain`.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Raises
    ------
    ValueError
        If `tensor` has fewer than two dimensions, or `mode` or `nonlinearity` is unknown.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
    Classification", ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> conv = nn.Conv2d(16, 32, 3)
    >>> nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu") is conv.weight
    True
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), rng=rng)


def xavier_uniform_(tensor: Parameter, gain: float = 1.0, *, rng: np.random.Generator | None = None) -> Parameter:
    """Fill evenly from [-sqrt(3) s, sqrt(3) s), where s is the standard deviation of `xavier_normal_`.

    Parameters
    ----------
    tensor : Parameter
        A weight of shape (out, in, ...).
    gain : float, default 1
        See `calculate_gain`.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Raises
    ------
    ValueError
        If `tensor` has fewer than two dimensions.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> p = nn.init.xavier_uniform_(nn.Parameter(np.zeros((2, 4))))
    >>> bool(abs(p.data).max() <= 1)
    True
    """
    bound = math.sqrt(3) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound, rng=rng)


def xavier_normal_(tensor: Parameter, gain: float = 1.0, *, rng: np.random.Generator | None = None) -> Parameter:
    """Fill from the normal distribution with standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Parameters
    ----------
    tensor : Parameter
        A weight of shape (out, in, ...).
    gain : float, default 1
        See `calculate_gain`.
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Returns
    -------
    Parameter
        `tensor`

    Raises
    ------
    ValueError
        If `tensor` has fewer than two dimensions.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.

    Examples
    --------
    >>> from fastcnn import nn
    >>> fc = nn.Linear(16, 32)
    >>> nn.init.xavier_normal_(fc.weight, gain=nn.init.calculate_gain("tanh")) is fc.weight
    True
    """
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), rng=rng)


def default_(weight: Parameter, bias: Parameter | None, *, rng: np.random.Generator | None = None) -> None:
    """Fill weight and bias of a convolution or linear layer evenly from [-1/sqrt(fan_in), 1/sqrt(fan_in)).

    This is what torch's layers start from: ``kaiming_uniform_(weight, a=sqrt(5))``, and the same bound for the bias.

    Parameters
    ----------
    weight : Parameter
        Of shape (out, in, ...).
    bias : Parameter or None
    rng : numpy.random.Generator, optional
        Where the numbers come from; the default generator if not given.

    Examples
    --------
    >>> from fastcnn import nn
    >>> fc = nn.Linear(100, 10)  # calls default_
    >>> bool(abs(fc.weight.data).max() <= 0.1)
    True
    """
    bound = 1 / math.sqrt(_fans(weight)[0])
    for parameter in (weight, bias):
        if parameter is not None:
            uniform_(parameter, -bound, bound, rng=rng)


def _check(tensor: Parameter) -> Parameter:
    if not isinstance(tensor, Parameter):
        raise TypeError(f"tensor: expected a Parameter, got {tensor!r}")
    return tensor


def _fans(tensor: Parameter) -> tuple[int, int]:
    """Return how many inputs an output sees, and how many outputs an input reaches."""
    if len(_check(tensor).shape) < 2:
        raise ValueError(f"tensor: expected a weight of at least 2 dimensions, got shape {tensor.shape}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _kaiming_std(tensor: Parameter, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = _fans(tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode: expected 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _xavier_std(tensor: Parameter, gain: float) -> float:
    return gain * math.sqrt(2 / sum(_fans(tensor)))
