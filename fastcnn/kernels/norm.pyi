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
    centre: NDArray[Float],
    partials: NDArray[np.float64],
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
) -> None: ...
def normalize(
    input: NDArray[Float],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
    output: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
) -> None: ...
def batch_norm_sums(
    grad_output: NDArray[Float],
    input: NDArray[Float],
    mean: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
    partials: NDArray[np.float64],
    grad_sum: NDArray[np.float64],
    product_sum: NDArray[np.float64],
) -> None: ...
def normalize_backward(
    grad_output: NDArray[Float],
    input: NDArray[Float],
    mean: NDArray[Float],
    grad_mean: NDArray[np.float64],
    slope: NDArray[np.float64],
    scale: NDArray[np.float64],
    grad_input: NDArray[Float],
    n: int,
    c: int,
    plane: int,
    channels_last: bool,
) -> None: ...
