from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def scratch_bytes(
    which: Literal["forward", "backward_data", "backward_weight"],
    g: Mapping[str, int],
    outputs: int,
    groups: int,
    threads: int,
    itemsize: int,
) -> int: ...
def implementations(
    which: Literal["forward", "backward_data", "backward_weight"],
    g: Mapping[str, int],
    outputs: int,
    groups: int,
    itemsize: int,
) -> tuple[str, ...]: ...
def forward(
    input: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None,
    output: NDArray[Float],
    g: Mapping[str, int],
    groups: int,
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
def backward_data(
    grad_output: NDArray[Float],
    weight: NDArray[Float],
    grad_input: NDArray[Float],
    g: Mapping[str, int],
    groups: int,
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
def backward_weight(
    grad_output: NDArray[Float],
    input: NDArray[Float],
    grad_weight: NDArray[Float],
    grad_bias: NDArray[Float] | None,
    g: Mapping[str, int],
    groups: int,
    scratch: NDArray[np.uint8],
    threads: int,
) -> None: ...
