from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def scratch_bytes(n: int, features: int, outputs: int, threads: int, itemsize: int) -> int: ...
def forward(
    input: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None,
    output: NDArray[Float],
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
def backward_data(
    grad_output: NDArray[Float],
    weight: NDArray[Float],
    grad_input: NDArray[Float],
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
def backward_weight(
    grad_output: NDArray[Float],
    input: NDArray[Float],
    grad_weight: NDArray[Float] | None,
    grad_bias: NDArray[Float] | None,
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
