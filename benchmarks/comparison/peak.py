"""The most float32 multiply-additions that this machine does in a second."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Twelve independent sums hide the latency of a fused multiply-add: 4 or 5 cycles, two a cycle. All stays in registers.
SOURCE = """
#ifdef __AVX512F__
typedef float vector __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float vector __attribute__((vector_size(32)));
#else
typedef float vector __attribute__((vector_size(16)));
#endif
enum { SUMS = 12 };
float multiply_add(long steps, double *flops) {
    vector sum[SUMS], a, b;
    for (int i = 0; i < SUMS; i++) sum[i] = (vector){0} + (float)i;
    a = (vector){0} + 0.5f;
    b = (vector){0} + 1.0f;
    for (long step = 0; step < steps; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * a + b;
    }
    for (int i = 1; i < SUMS; i++) sum[0] += sum[i];
    *flops = 2.0 * steps * SUMS * (sizeof(vector) / sizeof(float));
    return sum[0][0];
}
"""
STEPS = 1_000_000
REPEATS = 20


class Peak:
    """How fast multiply-additions are: in registers, or without a C compiler those of matrix products by NumPy."""

    def __init__(self) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        self.how = "multiply-additions in registers"
        self._function = None if compiler is None else _compiled(compiler)
        if self._function is None:
            self.how = "products of 2048x2048 matrices by NumPy, as there is no C compiler"

    def rate(self, threads: int) -> float:
        """Return flops a second with that many threads, the best of several attempts."""
        if self._function is None:
            return _products()
        with ThreadPoolExecutor(threads) as pool:
            return max(sum(pool.map(self._attempt, range(threads))) for _ in range(REPEATS))

    def _attempt(self, _: int) -> float:
        flops = ctypes.c_double()
        start = time.perf_counter()
        self._function(ctypes.c_long(STEPS), ctypes.byref(flops))  # ctypes lets other threads run meanwhile
        return flops.value / (time.perf_counter() - start)


def _compiled(compiler: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "peak.so")
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-x", "c", "-"]
        subprocess.run([compiler, *flags, "-o", library], input=SOURCE, text=True, check=True)
        function = ctypes.CDLL(library).multiply_add
    function.restype = ctypes.c_float
    return function


def _products() -> float:
    a, b = np.random.default_rng(0).standard_normal((2, 2048, 2048), np.float32)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)
