"""The fully connected layer, and the two that only pass arrays on."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.functional import _checks as check
from fastcnn.functional._options import flag
from fastcnn.nn import init
from fastcnn.nn.module import Module, Parameter, is_grad_enabled

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Module):
    """Fully connected layer: ``input @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        Length of the last axis of the input and of the output.
    bias : bool, default True
        Whether to add a learnt bias.
    dtype : float32 or float64, default float32
    rng : numpy.random.Generator, optional
        Source of the first values; the default generator if not given.

    Attributes
    ----------
    weight : Parameter of shape (out_features, in_features)
    bias : Parameter of shape (out_features,), or None
        Both start evenly distributed within 1 / sqrt(in_features) of zero.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Linear(20, 5)(np.ones((8, 20), np.float32)).shape
    (8, 5)
    """

    options = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check.integer("in_features", in_features, 1)
        self.out_features = check.integer("out_features", out_features, 1)
        self.weight = Parameter.empty((self.out_features, self.in_features), dtype)
        self.bias = Parameter.empty((self.out_features,), dtype) if flag("bias", bias) else None
        init.default_(self.weight, self.bias, rng=rng)

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the product of `input` (..., in_features) with the weights, plus the bias."""
        self.save(input)
        return F.linear(input, self.weight.data, None if self.bias is None else self.bias.data)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Add to the gradients of weight and bias and return the input's; see `Module.backward`."""
        (input,) = self.saved()
        needs = (self.needs_input_grad, True, self.bias is not None)
        out = (None, self.weight.grad_memory(), None if self.bias is None else self.bias.grad_memory())
        grads = F.linear_backward(grad_output, input, self.weight.data, needs=needs, out=out)
        self.weight.accumulate(grads[1])
        if self.bias is not None:
            self.bias.accumulate(grads[2])
        return grads[0]


class Flatten(Module):
    """Join the axes from `start_dim` to `end_dim` into one.

    Elements come in the order of the shape, (channel, row, column), whatever the order in memory; a channels-last
    array is copied. The gradient goes back in the memory order of the input.

    Parameters
    ----------
    start_dim : int, default 1
    end_dim : int, default -1
        First and last axis to join.

    Raises
    ------
    TypeError
        If an argument is not an int.
    ValueError
        On calling it, if the input does not have those axes in that order.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.Flatten()(np.zeros((8, 16, 5, 5), np.float32)).shape
    (8, 400)
    """

    options = ("start_dim", "end_dim")

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        for name, value in (("start_dim", start_dim), ("end_dim", end_dim)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                check.fail(name, "an int", repr(value), TypeError)
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return `input` with the axes joined."""
        input = check.array("input", input)
        if is_grad_enabled():
            self.save(input.shape, check.channels_run_fastest(input))
        return F.flatten(input, self.start_dim, self.end_dim)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient in the input's shape and memory order; see `Module.backward`."""
        shape, channels_last = self.saved()
        return F.flatten_backward(grad_output, shape, self.start_dim, self.end_dim, channels_last=channels_last)


class Identity(Module):
    """Pass the input on unchanged.

    Examples
    --------
    >>> from fastcnn import nn
    >>> nn.Identity()(3)
    3
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return `input`."""
        return input

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return `grad_output`."""
        return grad_output
