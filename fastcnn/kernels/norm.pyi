from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def blocks(n: int, c: int, plane: int, channels_last: bool) -> int: ...
def batch_statistics(
    input: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
    partials: NDArray[np.float64],
    statistics: NDArray[np.float64],
) -> None: ...
def factors(
    factors: NDArray[Float],
    weight: NDArray[Float] | None,
    bias: NDArray[Float] | None,
    statistics: NDArray[np.float64],
    eps: float,
) -> None: ...
def move_running(
    statistics: NDArray[np.float64],
    count: int,
    momentum: float,
    running_mean: NDArray[Float],
    running_var: NDArray[Float],
) -> None: ...
def overflow(statistics: NDArray[np.float64], count: int, momentum: float, running_var: NDArray[Float]) -> int: ...
def apply(
    input: NDArray[Float],
    residual: NDArray[Float] | None,
    mean: NDArray[Float],
    scale: NDArray[Float],
    shift: NDArray[Float],
    relu: bool,
    output: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
) -> None: ...
def backward(
    grad_output: NDArray[Float],
    input: NDArray[Float],
    output: NDArray[Float] | None,
    scale: NDArray[Float] | None,
    shift: NDArray[Float] | None,
    weight: NDArray[Float] | None,
    mean: NDArray[Float],
    invstd: NDArray[Float],
    training: bool,
    partials: NDArray[np.float64],
    sums: NDArray[np.float64],
    slopes: NDArray[Float],
    masked: NDArray[Float] | None,
    grads: NDArray[Float],
    grad_input: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
) -> None: ...
