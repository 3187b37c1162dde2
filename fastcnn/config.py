"""What this build and this machine have: versions, OpenMP, threads, instruction sets."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, overload

import numpy as np

from fastcnn.kernels import isa, threads

__version__ = "0.1.0"


def get_include() -> str:
    """Return the folder of the C headers, for the compiler's include path.

    `#include <fastcnn/kernels.h>` offers the kernels to C and C++. A Cython module that cimports
    `fastcnn.kernels.conv`, `.pooling`, `.im2col` or `.geometry` needs the folder among the `include_dirs` of its
    extension.

    Returns
    -------
    str
        An absolute path.

    Examples
    --------
    >>> import os, fastcnn
    >>> sorted(os.listdir(os.path.join(fastcnn.get_include(), "fastcnn")))
    ['geometry.h', 'kernels.h']
    """
    return str(Path(__file__).resolve().parent / "include")


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, str]: ...
def show_config(mode: str = "stdout") -> dict[str, str] | None:
    """Print, or return, what the kernels were built with and what they use.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}
        Print one line an item, or return them as a dict (the names are those of `numpy.show_config`).

    Returns
    -------
    dict of str to str, or None
        None where it was printed.

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> import fastcnn
    >>> sorted(fastcnn.show_config(mode="dicts"))
    ['fastcnn', 'instruction set', 'instruction sets available', 'numpy', 'openmp', 'python', 'system', 'threads']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {mode!r}")
    openmp = threads.openmp_version()
    found = {
        "fastcnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "openmp": f"yes (specification {openmp // 100}-{openmp % 100:02})" if openmp else "no: kernels run serially",
        "threads": str(threads.get_num_threads()),
        "instruction set": isa.name(),
        "instruction sets available": ", ".join(isa.available()),
    }
    if mode == "dicts":
        return found
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
    return None
