"""Which instruction set the register tiles use: chosen once, at import, from the one table of those that were built.

`FASTCNN_ISA` forces a path; one that the CPU (or its operating system) lacks is an error at import. How exact
products of float32 are is a setting of the process (set_precision), which the matrix unit and winograd.pyx read. So is
the algorithm of convolutions (set_algorithm), unless a call has one of its own (jobs.pxd).
"""

import os


cdef extern from *:
    """
    #include "micro/amx.h"
    #include "micro/micro.h"

    #ifdef FASTCNN_AMX
    static fastcnn_micro fastcnn_over_avx512(const char *name, const fastcnn_matrix *matrix) {
        fastcnn_micro path = fastcnn_micro_avx512;
        path.name = name;
        path.matrix = matrix;
        return path;
    }
    #endif

    /* What the CPU has, preferred first: the first is used unless FASTCNN_ISA names another. */
    static int fastcnn_paths(const fastcnn_micro **found) {
        int n = 0;
    #ifdef FASTCNN_X86
        int avx512;
        const fastcnn_micro *amx = NULL;
        __builtin_cpu_init();
        avx512 = FASTCNN_HAS_AVX512;
    #ifdef FASTCNN_AMX
        static fastcnn_micro with_amx;
        with_amx = fastcnn_over_avx512("amx", &fastcnn_matrix_amx);
        if (avx512 && fastcnn_has_amx()) amx = &with_amx;
    #endif
        if (avx512) found[n++] = &fastcnn_micro_avx512;
        /* Behind avx512 because nobody has measured it yet: its instructions have only been run by an emulator
           and by the model. Where it is faster, moving this line up by one makes it the default. */
        if (amx) found[n++] = amx;
        if (FASTCNN_HAS_AVX2) found[n++] = &fastcnn_micro_avx2;
    #endif
        found[n++] = &fastcnn_micro_generic;
    #if defined(FASTCNN_AMX) && defined(FASTCNN_AMX_MODEL)
        static fastcnn_micro model;
        model = fastcnn_over_avx512("amx-model", &fastcnn_matrix_model);
        if (avx512) found[n++] = &model;
    #endif
        return n;
    }

    /* Whether the operating system lets this process use the path. */
    static int fastcnn_allow(const fastcnn_micro *path) {
    #ifdef FASTCNN_AMX
        if (path->matrix == &fastcnn_matrix_amx) return fastcnn_allow_amx();
    #endif
        return path != NULL;
    }
    """
    int fastcnn_paths(const Micro** found) noexcept
    bint fastcnn_allow(const Micro* path) noexcept


cdef const Micro* _found[8]
cdef int _count = fastcnn_paths(_found)
cdef const Micro* _chosen = NULL
cdef int _planes = 3
cdef bint _direct = False
_PRECISIONS = {"medium": 1, "high": 2, "highest": 3}


cdef const Micro* micro() noexcept nogil:
    """The register tiles in use."""
    return _chosen


cdef int matrix_planes() noexcept nogil:
    return _planes


def available():
    """Names of the instruction sets that this build and this CPU have, preferred first."""
    return tuple((<bytes>_found[i].name).decode() for i in range(_count))


def name():
    """Name of the instruction set in use."""
    return (<bytes>_chosen.name).decode()


def has_matrix_unit():
    """Whether the path in use multiplies on a matrix unit."""
    return _chosen.matrix != NULL


def set_precision(str precision):
    """set_precision('highest' | 'high' | 'medium'); KeyError otherwise"""
    global _planes
    _planes = _PRECISIONS[precision]


def get_precision():
    """The name that set_precision was given last."""
    return next(name for name, planes in _PRECISIONS.items() if planes == _planes)


cdef bint is_direct() noexcept nogil:
    return _direct


def set_algorithm(str algorithm):
    """set_algorithm('auto' | 'direct'); KeyError otherwise"""
    global _direct
    _direct = {"auto": False, "direct": True}[algorithm]


def get_algorithm():
    """The name that set_algorithm was given last."""
    return "direct" if _direct else "auto"


def _choose(wanted):
    global _chosen
    if wanted not in available():
        raise ImportError(f"FASTCNN_ISA: expected one of {', '.join(available())} (what this CPU has), got {wanted!r}")
    if not fastcnn_allow(_found[available().index(wanted)]):
        raise ImportError(f"FASTCNN_ISA: the operating system does not let this process use {wanted}")
    _chosen = _found[available().index(wanted)]


if os.environ.get("FASTCNN_ISA"):
    _choose(os.environ["FASTCNN_ISA"])
else:
    _choose(next(path for path in available() if fastcnn_allow(_found[available().index(path)])))
