"""What this build and this machine have (versions, OpenMP, threads, instruction sets), and the precision in use."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, overload

import numpy as np

from fastcnn.kernels import isa, memory, threads

__version__ = "0.1.0"


PRECISIONS = ("highest", "high", "medium")
ALGORITHMS = ("auto", "direct")


def set_float32_matmul_precision(precision: str) -> None:
    """Set how exact float32 convolutions are, for the whole process.

    It is a permission, as in `torch.set_float32_matmul_precision`: what has no faster way at a lower precision stays as
    it is. At ``'highest'``, errors (root mean square, relative to the result's) of convolutions are those of float32
    arithmetic: 1e-7 to 5e-7 for sums of 144 to 4608 products, and below 6e-7 with any compiler. By 3x3 windows of
    stride 1, with 16 channels and outputs or more, they take Winograd's algorithm in tiles of 2x2 places or, mostly,
    2x4. In the latter an element's error may be relative to the largest of six pixels in a row, and sums of whole
    numbers are rounded, too.

    Below ``'highest'``, where there are enough channels, outputs and pixels for it to pay, those windows take F(4x4,
    3x3), with 36 multiplications for 144, in all three passes. Its errors are 5e-7 for sums of 144 products and 2e-6
    for sums of 4608 (below 2.5e-6 with any compiler), up to four times those of ``'highest'``. An element's error may
    be relative to the largest in its tile: of 6x6 pixels, or of the nine gradients of a window.

    On the path `amx`, whose unit multiplies bf16 numbers and adds up in fp32, a float32 is split into up to
    three bf16 numbers, and convolutions that suit the unit (from 32 channels and outputs on) take

    - ``'highest'``: six products. Errors are those of fp32 arithmetic, 1e-7 to 3e-7;
    - ``'high'``: three products, twice as fast; errors of about 5e-6;
    - ``'medium'``: one product, six times as fast; errors of about 2.4e-3, as with bf16 operands.

    For float64, and for whatever else a network does, all three mean the same arithmetic.

    Infinities, NaN and numbers that either way could take out of range come out as in fp32 arithmetic at each setting.
    The unit flushes denormals: where a block's numbers differ so widely that some products are below 2**-126,
    results may be off by up to about 6 * K * 2**-126 * max(1, a, b), for sums of K products and operands up to a and b.

    Parameters
    ----------
    precision : {'highest', 'high', 'medium'}
        ``'highest'`` at first. It takes effect with the next call of any thread; a call in progress may use either.

    Raises
    ------
    ValueError
        If `precision` is none of these.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.set_float32_matmul_precision("high")
    >>> fastcnn.get_float32_matmul_precision()
    'high'
    >>> fastcnn.set_float32_matmul_precision("highest")

    References
    ----------
    Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

    Barabasz, Anderson, Soodhalter & Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep
    Neural Networks", ACM Transactions on Mathematical Software 46, 2020.

    Henry, Tang & Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
    Computations", 2019.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision: expected 'highest', 'high' or 'medium', got {precision!r}")
    isa.set_precision(precision)


def get_float32_matmul_precision() -> str:
    """Return what `set_float32_matmul_precision` was given last.

    Returns
    -------
    str
        ``'highest'``, ``'high'`` or ``'medium'``.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.get_float32_matmul_precision()
    'highest'
    """
    return isa.get_precision()


def set_conv_algorithm(algorithm: str) -> None:
    """Set what bounds the rounding errors of convolutions, for the whole process.

    Below, eps is that of the arrays' type (1.2e-7 for float32), an element's *window* is what it is a sum over, and x,
    w are what meets in it: of the gradient of the weights, the input and the gradient of the output.

    ``'direct'`` adds up the products of each element and nothing else, in the arithmetic of the arrays' type. A sum of
    K products errs by at most

        (K / 2 + 2) * eps * (sum over its window of ``|x| * |w|``)

    in all three passes, where nothing underflows; mostly by far less. What is not in a window does not reach its
    element, and sums of products that are not negative are not. Winograd's algorithm and matrix units are left out,
    whatever `set_float32_matmul_precision` allows. By 3x3 windows of 16 channels and more it takes 1.3 to 3 times as
    long as ``'auto'``. Where neither serves a shape, the two are the same, to the bit.

    ``'auto'`` also takes Winograd's algorithm, whose outputs share sums with their neighbours. An output errs by at
    most

        c * eps * (largest ``|x|`` near its window) * (sum of ``|w|`` of its filter)

    with c = 16 at the precision ``'highest'`` and 64 below it (a tenth of that is usual); *near* is within three
    pixels, in any channel of the group. So that a large pixel does not spoil its neighbours, the windows that share
    sums get the direct ones where the largest ``|x|`` that they read is more than 64 times the largest of some window
    that is not all zero, or is not finite; a window of zeros has exactly its bias. Hence the bound holds with 64 * c
    and the largest ``|x|`` of the *own* window. The same goes for the gradient of the input, and for that of the
    weights with the sum, over all output pixels, of the largest ``|x|`` times the largest ``|w|`` that a tap
    meets there. Each neighbourhood is judged by its own values: what else is in a batch changes no bit. (A matrix unit,
    where one is used, multiplies each number for itself, as exactly as the precision says.)

    Weights of which a filter, not all zero, has a tap of zeros in all channels (masked and causal convolutions, unit
    impulses) or numbers of one sign only (box filters, counts) take the direct sums at ``'auto'``, too: the whole call,
    which then takes up to 2.6 times as long, where a single filter is such a one (pruned networks). No check can do so
    in general: where a mask differs from channel to channel, or signs agree only with those of the input, outputs may
    depend a little on what they should not see, or be a little below zero. That takes ``'direct'``.

    `fastcnn.reference` has direct sums.

    Parameters
    ----------
    algorithm : {'auto', 'direct'}
        ``'auto'`` at first. It takes effect with the next call of any thread; a call in progress may use either. A
        function's own argument `algorithm` goes before it.

    Raises
    ------
    ValueError
        If `algorithm` is neither.

    See Also
    --------
    set_float32_matmul_precision : how exact the products of float32 are at ``'auto'``.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.set_conv_algorithm("direct")
    >>> fastcnn.get_conv_algorithm()
    'direct'
    >>> fastcnn.set_conv_algorithm("auto")
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: expected 'auto' or 'direct', got {algorithm!r}")
    isa.set_algorithm(algorithm)


def get_conv_algorithm() -> str:
    """Return what `set_conv_algorithm` was given last.

    Returns
    -------
    str
        ``'auto'`` or ``'direct'``.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.get_conv_algorithm()
    'auto'
    """
    return isa.get_algorithm()


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
    >>> fastcnn.show_config(mode="dicts")["float32 matmul precision"]
    'highest'
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
        "float32 matmul precision": isa.get_precision(),
        "convolution algorithm": isa.get_algorithm(),
        "allocator": memory.allocator(),
    }
    if mode == "dicts":
        return found
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
    return None
