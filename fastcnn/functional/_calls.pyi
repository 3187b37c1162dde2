from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

Result = TypeVar("Result")

class Call:
    def __init__(
        self,
        kernel: str,
        arrays: tuple[np.ndarray | None, ...],
        results: tuple[np.ndarray | tuple[tuple[int, ...], tuple[int, ...], np.dtype] | None, ...],
        *,
        integers: tuple[int, ...] = (),
        window: dict[str, int] | None = None,
        pool: dict[str, int] | None = None,
        written: tuple[int, ...] = (),
        number: bool = False,
        refused: Callable[[], object] | None = None,
    ) -> None: ...

class remembered(Generic[Result]):
    check: Callable[..., Call | Result]
    def __init__(self, check: Callable[..., Call | Result]) -> None: ...
    def __call__(self, *arguments: Any) -> Result: ...
    def __len__(self) -> int: ...
    def forget(self) -> None: ...
