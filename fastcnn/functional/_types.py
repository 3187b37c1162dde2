"""Types of arguments, for annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ArrayInterface(Protocol):
    """What tells NumPy where its elements lie."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class DLPack(Protocol):
    """A tensor of a library that speaks DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


# Elements to read: NumPy's arrays, and others whose memory NumPy can share.
Array: TypeAlias = "np.ndarray | ArrayInterface | Buffer | DLPack"
# An extent, a step or the like: an int, or one for each dimension.
Size: TypeAlias = "int | tuple[int, ...] | list[int]"
Shape: TypeAlias = "tuple[int, ...] | list[int]"
# How a convolution is computed.
Algorithm: TypeAlias = Literal["auto", "direct"]
# Gradients of input, weight and bias, or arrays for them; None for one that is not wanted.
Gradients: TypeAlias = "tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]"
