from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)

def im2col(input: NDArray[Float], columns: NDArray[Float], g: Mapping[str, int]) -> None: ...
def col2im(columns: NDArray[Float], output: NDArray[Float], g: Mapping[str, int]) -> None: ...
