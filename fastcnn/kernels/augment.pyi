from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)
Pixel = TypeVar("Pixel", np.uint8, np.float32, np.float64)

def image_batch(
    images: NDArray[Pixel],
    indices: NDArray[np.intp],
    shift: NDArray[np.intp] | None,
    flip: NDArray[np.uint8] | None,
    cutout: NDArray[np.intp] | None,
    gain: NDArray[Float],
    offset: NDArray[Float],
    output: NDArray[Float],
) -> None: ...
