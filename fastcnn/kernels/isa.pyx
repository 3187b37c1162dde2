"""Which instruction set the register tiles use: chosen once, at import, from the one table of those that were built.

`FASTCNN_ISA` forces a path; one that the CPU (or its operating system) lacks is an error at import.
"""

import os


cdef extern from *:
    """
    #include "micro/micro.h"

    /* Best first. __builtin_cpu_supports asks the operating system too (XGETBV). */
    static int fastcnn_paths(const fastcnn_micro **found) {
        int n = 0;
    #ifdef FASTCNN_X86
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
            found[n++] = &fastcnn_micro_avx512;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[n++] = &fastcnn_micro_avx2;
    #endif
        found[n++] = &fastcnn_micro_generic;
        return n;
    }
    """
    int fastcnn_paths(const Micro** found) noexcept


cdef const Micro* _found[8]
cdef int _count = fastcnn_paths(_found)
cdef const Micro* _chosen = _found[0]


cdef const Micro* micro() noexcept nogil:
    """The register tiles in use."""
    return _chosen


def available():
    """Names of the instruction sets that this build and this CPU have, best first."""
    return tuple((<bytes>_found[i].name).decode() for i in range(_count))


def name():
    """Name of the instruction set in use."""
    return (<bytes>_chosen.name).decode()


def _choose(wanted):
    global _chosen
    if wanted not in available():
        raise ImportError(f"FASTCNN_ISA: expected one of {', '.join(available())} (what this CPU has), got {wanted!r}")
    _chosen = _found[available().index(wanted)]


if os.environ.get("FASTCNN_ISA"):
    _choose(os.environ["FASTCNN_ISA"])
