"""Batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._options import flag
from fastcnn.functional.norm import VarianceOverflowError
from fastcnn.nn import init
from fastcnn.nn.module import Module, Parameter, keep_for_undo

__all__ = ["BatchNorm1d", "BatchNorm2d"]


class _BatchNorm(Module):
    """What both batch norms share; `ranks` are the numbers of dimensions they take."""

    ranks: tuple[int, ...]
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    options = ("num_features", "eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.num_features = check.integer("num_features", num_features, 1)
        self.eps = number("eps", eps, 0)
        self.momentum = None if momentum is None else number("momentum", momentum, 0, 1)
        self.affine = flag("affine", affine)
        self.track_running_stats = flag("track_running_stats", track_running_stats)
        size = (self.num_features,)
        self.weight = init.ones_(Parameter.empty(size, dtype)) if affine else None
        self.bias = Parameter.empty(size, dtype) if affine else None
        self.running_mean = np.zeros(size, dtype) if track_running_stats else None
        self.running_var = np.ones(size, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def factors(self, input: np.ndarray, statistics: np.ndarray | None = None) -> tuple[tuple[np.ndarray, ...], bool]:
        """Return `fastcnn.functional.batch_norm_factors`, and whether they are the batch's; in training, count it."""
        input = check.array("input", input)
        check.ndim("input", input, *self.ranks)
        training = self.training
        from_batch = training or not self.track_running_stats
        counts = training and self.track_running_stats
        momentum = self.momentum
        if momentum is None:  # the mean of all batches so far
            momentum = 1 / (int(self.num_batches_tracked) + 1) if counts else 0.0
        weight, bias = (self.weight.data, self.bias.data) if self.affine else (None, None)
        running = self.running_mean, self.running_var
        if counts:
            tracked = self.num_batches_tracked
            if type(tracked) is not np.ndarray:  # a number was assigned
                tracked = self.num_batches_tracked = np.array(tracked, np.int64)
            keep_for_undo(*running, tracked)
        try:
            factors = F.batch_norm_factors(
                input, *running, weight, bias, from_batch, momentum, self.eps, statistics=statistics
            )
        except VarianceOverflowError as error:
            error.layer = self
            raise
        if counts:
            tracked += 1  # in place
        return factors, from_batch

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return `input` normalised; see the class for the shapes."""
        (mean, invstd, scale, shift), from_batch = self.factors(input)
        self.save(input, mean, invstd, from_batch)
        return F.batch_norm_apply(input, mean, scale, shift)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Add to the gradients of weight and bias and return the input's; see `Module.backward`."""
        return self.gradients(grad_output, *self.saved())[0]

    def gradients(
        self,
        grad_output: np.ndarray,
        input: np.ndarray,
        mean: np.ndarray,
        invstd: np.ndarray,
        from_batch: bool,
        **options: Any,
    ) -> tuple[np.ndarray, ...]:
        """Add to the gradients of weight and bias; return what else `fastcnn.functional.batch_norm_backward` gives."""
        weight = self.weight.data if self.affine else None
        grad_input, grad_weight, grad_bias, *masked = F.batch_norm_backward(
            grad_output, input, weight, mean, invstd, from_batch, **options
        )
        if self.affine:
            self.weight.accumulate(grad_weight)
            self.bias.accumulate(grad_bias)
        return grad_input, *masked


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of feature vectors (N, C) or signals (N, C, L).

    In training each channel is brought to mean 0 and variance 1 over the batch, then scaled by `weight` and shifted by
    `bias`, and the running statistics move towards the batch's; evaluation mode uses the running statistics.

    Parameters
    ----------
    num_features : int
        Channels C.
    eps : float, default 1e-5
        Added to the variance under the square root.
    momentum : float or None, default 0.1
        Part of each new batch in the running statistics; None gives every batch so far the same part.
    affine : bool, default True
        Whether there are `weight` and `bias`.
    track_running_stats : bool, default True
        Whether there are running statistics; without them evaluation mode uses those of the batch, too.
    dtype : float32 or float64, default float32

    Attributes
    ----------
    weight, bias : Parameter of shape (C,), or None
        One and zero at first.
    running_mean, running_var : ndarray of shape (C,), or None
    num_batches_tracked : ndarray of int64, shape (), or None

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> norm = nn.BatchNorm1d(1, eps=0, dtype=np.float64)
    >>> norm(np.array([[1.0], [3.0]]))
    array([[-1.],
           [ 1.]])
    >>> norm.running_mean
    array([0.2])
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images (N, C, H, W).

    In training each channel is brought to mean 0 and variance 1 over the batch, then scaled by `weight` and shifted by
    `bias`, and the running statistics move towards the batch's; evaluation mode uses the running statistics.

    Parameters
    ----------
    num_features : int
        Channels C.
    eps : float, default 1e-5
        Added to the variance under the square root.
    momentum : float or None, default 0.1
        Part of each new batch in the running statistics; None gives every batch so far the same part.
    affine : bool, default True
        Whether there are `weight` and `bias`.
    track_running_stats : bool, default True
        Whether there are running statistics; without them evaluation mode uses those of the batch, too.
    dtype : float32 or float64, default float32

    Attributes
    ----------
    weight, bias : Parameter of shape (C,), or None
        One and zero at first.
    running_mean, running_var : ndarray of shape (C,), or None
    num_batches_tracked : ndarray of int64, shape (), or None

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> norm = nn.BatchNorm2d(3)
    >>> y = norm(np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)).astype(np.float32))
    >>> bool(abs(y.mean()) < 1e-6), int(norm.num_batches_tracked)
    (True, 1)
    """

    ranks = (4,)
