"""Activation layers."""

from __future__ import annotations

import math

import numpy as np

from fastcnn import functional as F
from fastcnn._numbers import number
from fastcnn.functional._options import choice
from fastcnn.nn.module import Module

__all__ = ["GELU", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Module):
    """max(input, 0); its gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return max(input, 0)."""
        output = F.relu(input)
        self.save(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.relu_backward(grad_output, *self.saved())


class LeakyReLU(Module):
    """The input where it is positive, `negative_slope` times the input elsewhere.

    Parameters
    ----------
    negative_slope : float, default 0.01

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.LeakyReLU(0.5)(np.array([-1.0, 2.0]))
    array([-0.5,  2. ])
    """

    options = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = number("negative_slope", negative_slope, -math.inf)

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the input, its negative elements scaled."""
        self.save(input)
        return F.leaky_relu(input, self.negative_slope)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.leaky_relu_backward(grad_output, *self.saved(), self.negative_slope)


class Sigmoid(Module):
    """1 / (1 + exp(-input)).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Sigmoid()(np.array([0.0]))
    array([0.5])
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the logistic function of `input`."""
        output = F.sigmoid(input)
        self.save(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.sigmoid_backward(grad_output, *self.saved())


class Tanh(Module):
    """Hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Tanh()(np.array([0.0]))
    array([0.])
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return tanh(input)."""
        output = F.tanh(input)
        self.save(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.tanh_backward(grad_output, *self.saved())


class GELU(Module):
    """Gaussian error linear unit: the input times the normal distribution function of it.

    Parameters
    ----------
    approximate : {'none', 'tanh'}
        Whether to compute it exactly or by the tanh formula of the paper.

    Raises
    ------
    ValueError
        If `approximate` is neither.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.GELU()(np.array([-1.0, 1.0])).round(4)
    array([-0.1587,  0.8413])
    """

    options = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = choice("approximate", approximate, "none", "tanh")

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the GELU of `input`."""
        self.save(input)
        return F.gelu(input, self.approximate)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.gelu_backward(grad_output, *self.saved(), self.approximate)


class SiLU(Module):
    """Sigmoid linear unit: input * sigmoid(input), also known as swish.

    References
    ----------
    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
    Reinforcement Learning", Neural Networks 107, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.SiLU()(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7311])
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the SiLU of `input`."""
        self.save(input)
        return F.silu(input)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.silu_backward(grad_output, *self.saved())


class Softmax(Module):
    """Exponentials along one axis, divided by their sum.

    Parameters
    ----------
    dim : int, default -1
        The axis. For training with class scores use `CrossEntropyLoss`, which has the softmax in it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Softmax()(np.array([[1.0, 1.0]]))
    array([[0.5, 0.5]])
    """

    options = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the softmax of `input`."""
        output = F.softmax(input, self.dim)
        self.save(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.softmax_backward(grad_output, *self.saved(), self.dim)


class LogSoftmax(Module):
    """Logarithm of the softmax along one axis.

    Parameters
    ----------
    dim : int, default -1
        The axis.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.LogSoftmax()(np.array([[1.0, 1.0]])).round(4)
    array([[-0.6931, -0.6931]])
    """

    options = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the log-softmax of `input`."""
        output = F.log_softmax(input, self.dim)
        self.save(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; see `Module.backward`."""
        return F.log_softmax_backward(grad_output, *self.saved(), self.dim)
