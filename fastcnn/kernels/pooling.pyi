from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)
Tag = TypeVar("Tag", np.uint8, np.int32, np.int64)
Tap = TypeVar("Tap", np.uint8, np.int32)

def max_pool(input: NDArray[Float], output: NDArray[Float], tags: NDArray[Tag], g: Mapping[str, int]) -> None: ...
def max_pool_values(input: NDArray[Float], output: NDArray[Float], g: Mapping[str, int]) -> None: ...
def max_pool_relu(input: NDArray[Float], output: NDArray[Float], taps: NDArray[Tap], g: Mapping[str, int]) -> None: ...
def max_pool_taps_backward(
    grad_output: NDArray[Float],
    taps: NDArray[Tap],
    grad_input: NDArray[Float],
    g: Mapping[str, int],
    relu: bool,
) -> bool: ...
def scatter(
    values: NDArray[Float],
    indices: NDArray[np.int64],
    planes: NDArray[Float],
    g: Mapping[str, int],
    add: bool,
) -> bool: ...
def take(planes: NDArray[Float], indices: NDArray[np.int64], values: NDArray[Float], g: Mapping[str, int]) -> bool: ...
def avg_pool(
    input: NDArray[Float],
    output: NDArray[Float],
    g: Mapping[str, int],
    count_include_pad: bool,
    divisor_override: int,
) -> None: ...
def avg_pool_backward(
    grad_output: NDArray[Float],
    grad_input: NDArray[Float],
    g: Mapping[str, int],
    count_include_pad: bool,
    divisor_override: int,
) -> None: ...
def adaptive_avg_pool(input: NDArray[Float], output: NDArray[Float], g: Mapping[str, int]) -> None: ...
def adaptive_avg_pool_backward(
    grad_output: NDArray[Float],
    grad_input: NDArray[Float],
    g: Mapping[str, int],
) -> None: ...
