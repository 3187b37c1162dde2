from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def softmax(input: NDArray[Float], output: NDArray[Float], logarithm: bool) -> None: ...
def softmax_backward(
    grad_output: NDArray[Float],
    output: NDArray[Float],
    grad_input: NDArray[Float],
    logarithm: bool,
) -> None: ...
def cross_entropy(
    input: NDArray[Float],
    target: NDArray[np.int64],
    weight: NDArray[Float] | None,
    ignore_index: int,
    smoothing: float,
    factor: float,
    losses: NDArray[np.float64],
    grad_input: NDArray[Float],
) -> None: ...
def blocks(size: int) -> int: ...
def mse_loss(
    input: NDArray[Float],
    target: NDArray[Float],
    factor: float,
    partials: NDArray[np.float64],
    losses: NDArray[Float] | None,
    grad_input: NDArray[Float],
) -> None: ...
