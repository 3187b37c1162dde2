from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def sgd_update(
    param: NDArray[Float],
    grad: NDArray[Float],
    momentum_buffer: NDArray[Float] | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first_step: bool,
) -> None: ...
def adam_update(
    param: NDArray[Float],
    grad: NDArray[Float],
    exp_avg: NDArray[Float],
    exp_avg_sq: NDArray[Float],
    step_size: float,
    correction: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    shrink: float,
) -> None: ...
def blocks(size: int) -> int: ...
def sums_of_squares(values: NDArray[Float], partials: NDArray[np.float64]) -> None: ...
def scale(values: NDArray[Float], factor: float) -> None: ...
