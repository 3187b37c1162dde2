"""Losses: called with the network's output and the target, they return the value and the gradient of the output."""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn._numbers import number
from fastcnn.functional._options import choice

__all__ = ["CrossEntropyLoss", "MSELoss"]

_REDUCTIONS = ("mean", "sum", "none")


class CrossEntropyLoss:
    """Cross-entropy of class scores, softmax included.

    Parameters
    ----------
    weight : ndarray of shape (C,), optional
        A weight for each class, of the type of the scores.
    ignore_index : int, default -100
        A target that counts for nothing.
    reduction : {'mean', 'sum', 'none'}
        Whether the losses are averaged (weighted by `weight`), added up, or returned one by one.
    label_smoothing : float, default 0
        Part of the target probability, from 0 to 1, that is spread evenly over all classes.

    Raises
    ------
    ValueError
        If `reduction` or `label_smoothing` is none of these.

    References
    ----------
    C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception Architecture for Computer
    Vision", CVPR 2016 (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> loss, grad = nn.CrossEntropyLoss()(np.zeros((1, 4)), np.array([2]))
    >>> round(loss, 4), grad
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """

    def __init__(
        self,
        weight: np.ndarray | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = choice("reduction", reduction, *_REDUCTIONS)
        self.label_smoothing = number("label_smoothing", label_smoothing, 0, 1)

    def __call__(self, input: np.ndarray, target: np.ndarray) -> tuple[float | np.ndarray, np.ndarray]:
        """Return the loss and its gradient.

        Parameters
        ----------
        input : ndarray of shape (N, C) or (N, C, d1, ...)
            Scores (logits) of the classes.
        target : ndarray of int, shape (N,) or (N, d1, ...)
            Class numbers.

        Returns
        -------
        loss : float, or ndarray of the target's shape for reduction 'none'
        grad_input : ndarray
            Of the shape of `input`; for 'none', that of every loss with gradient 1.
        """
        return F.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)

    def __repr__(self) -> str:
        return f"CrossEntropyLoss(reduction={self.reduction!r}, label_smoothing={self.label_smoothing!r})"


class MSELoss:
    """Mean squared error.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
        Whether the squares are averaged, added up, or returned one by one.

    Raises
    ------
    ValueError
        If `reduction` is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> nn.MSELoss()(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, array([0., 2.]))
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = choice("reduction", reduction, *_REDUCTIONS)

    def __call__(self, input: np.ndarray, target: np.ndarray) -> tuple[float | np.ndarray, np.ndarray]:
        """Return the loss and its gradient.

        Parameters
        ----------
        input, target : ndarray
            Of one shape.

        Returns
        -------
        loss : float, or ndarray of the same shape for reduction 'none'
        grad_input : ndarray
        """
        return F.mse_loss(input, target, self.reduction)

    def __repr__(self) -> str:
        return f"MSELoss(reduction={self.reduction!r})"
