from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

class Activation(IntEnum):
    RELU = 0
    LEAKY_RELU = 1
    SIGMOID = 2
    TANH = 3
    GELU = 4
    GELU_TANH = 5
    SILU = 6

def activation(kind: Activation, input: NDArray[Float], output: NDArray[Float], slope: float) -> None: ...
def activation_backward(
    kind: Activation,
    grad_output: NDArray[Float],
    saved: NDArray[Float],
    grad_input: NDArray[Float],
    slope: float,
) -> None: ...
def add(input: NDArray[Float], other: NDArray[Float], output: NDArray[Float]) -> None: ...
def dropout(
    input: NDArray[Float],
    output: NDArray[Float],
    mask: NDArray[np.uint8],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
    seed: int,
    threshold: int,
    scale: float,
) -> None: ...
def dropout_backward(
    grad_output: NDArray[Float],
    mask: NDArray[np.uint8],
    grad_input: NDArray[Float],
    scale: float,
) -> None: ...
