"""Dropout."""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn._numbers import number
from fastcnn.nn.module import Module
from fastcnn.random import resolve

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, set elements to zero with probability `p` and scale the others by 1 / (1 - p).

    Evaluation mode passes the input on unchanged.

    Parameters
    ----------
    p : float, default 0.5
        Probability of an element to become zero, from 0 to 1.
    rng : numpy.random.Generator, optional
        Where each forward pass draws its seed; the default generator if not given.

    Raises
    ------
    TypeError
        If `p` is not a number or `rng` not a generator.
    ValueError
        If `p` is not from 0 to 1.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent Neural
    Networks from Overfitting", JMLR 15, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> x = np.ones((2, 3), np.float32)
    >>> set(nn.Dropout(0.5)(x).ravel().tolist()) <= {0.0, 2.0}
    True
    >>> bool((nn.Dropout(0.5).eval()(x) == x).all())
    True
    """

    options = ("p",)

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.p = number("p", p, 0, 1)
        resolve(rng)
        self.rng = rng

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return `input`, in training with elements dropped."""
        output, mask = F.dropout(input, self.p, self.training, rng=resolve(self.rng), return_mask=True)
        self.save(mask)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """Return the gradient of the elements that were kept; see `Module.backward`."""
        (mask,) = self.saved()
        return grad_output if mask is None else F.dropout_backward(grad_output, mask, self.p)
