"""The table of `fastcnn/kernels.h`: the functions of conv, pooling and im2col for C, C++, ctypes and cffi."""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uint8_t

from .conv cimport Pass, conv_backward_data_ptr, conv_backward_weight_ptr, conv_forward_ptr, conv_scratch
from .geometry cimport Window, check_adaptive, check_conv, check_im2col, check_pool
from .im2col cimport col2im_ptr, im2col_ptr
from .pooling cimport (
    adaptive_avg_pool_backward_ptr,
    adaptive_avg_pool_ptr,
    avg_pool_backward_ptr,
    avg_pool_ptr,
    max_pool_ptr,
    max_pool_taps_backward_ptr,
    scatter_ptr,
)
from .threads cimport max_threads


cdef extern from "fastcnn/kernels.h" nogil:
    int ABI "FASTCNN_ABI"
    const char* CAPSULE "FASTCNN_CAPSULE"

    ctypedef struct Kernels "fastcnn_kernels":
        int abi
        size_t size
        int (*max_threads)() noexcept nogil
        Py_ssize_t (*conv_scratch)(Pass, const Window*, Py_ssize_t, Py_ssize_t, int, Py_ssize_t) noexcept nogil
        void (*conv_forward_f32)(const float*, const float*, const float*, float*, const Window*, Py_ssize_t,
                                 Py_ssize_t, void*, int) noexcept nogil
        void (*conv_backward_data_f32)(const float*, const float*, float*, const Window*, Py_ssize_t, Py_ssize_t, void*,
                                       int) noexcept nogil
        void (*conv_backward_weight_f32)(const float*, const float*, float*, float*, const Window*, Py_ssize_t,
                                         Py_ssize_t, void*, int) noexcept nogil
        void (*im2col_f32)(const float*, float*, const Window*, int) noexcept nogil
        void (*col2im_f32)(const float*, float*, const Window*, int) noexcept nogil
        void (*max_pool_f32)(const float*, float*, void*, int, const Window*, int) noexcept nogil
        void (*max_pool_taps_backward_f32)(const float*, const void*, int, float*, const Window*, int) noexcept nogil
        Py_ssize_t (*max_pool_backward_f32)(const float*, const int64_t*, float*, const Window*, int) noexcept nogil
        void (*avg_pool_f32)(const float*, float*, const Window*, bint, Py_ssize_t, int) noexcept nogil
        void (*avg_pool_backward_f32)(const float*, float*, const Window*, bint, Py_ssize_t, int) noexcept nogil
        void (*adaptive_avg_pool_f32)(const float*, float*, const Window*, int) noexcept nogil
        void (*adaptive_avg_pool_backward_f32)(const float*, float*, const Window*, int) noexcept nogil
        void (*conv_forward_f64)(const double*, const double*, const double*, double*, const Window*, Py_ssize_t,
                                 Py_ssize_t, void*, int) noexcept nogil
        void (*conv_backward_data_f64)(const double*, const double*, double*, const Window*, Py_ssize_t, Py_ssize_t,
                                       void*, int) noexcept nogil
        void (*conv_backward_weight_f64)(const double*, const double*, double*, double*, const Window*, Py_ssize_t,
                                         Py_ssize_t, void*, int) noexcept nogil
        void (*im2col_f64)(const double*, double*, const Window*, int) noexcept nogil
        void (*col2im_f64)(const double*, double*, const Window*, int) noexcept nogil
        void (*max_pool_f64)(const double*, double*, void*, int, const Window*, int) noexcept nogil
        void (*max_pool_taps_backward_f64)(const double*, const void*, int, double*, const Window*, int) noexcept nogil
        Py_ssize_t (*max_pool_backward_f64)(const double*, const int64_t*, double*, const Window*, int) noexcept nogil
        void (*avg_pool_f64)(const double*, double*, const Window*, bint, Py_ssize_t, int) noexcept nogil
        void (*avg_pool_backward_f64)(const double*, double*, const Window*, bint, Py_ssize_t, int) noexcept nogil
        void (*adaptive_avg_pool_f64)(const double*, double*, const Window*, int) noexcept nogil
        void (*adaptive_avg_pool_backward_f64)(const double*, double*, const Window*, int) noexcept nogil
        const char* (*check_conv)(const Window*, Py_ssize_t, Py_ssize_t) noexcept nogil
        const char* (*check_pool)(const Window*, int) noexcept nogil
        const char* (*check_im2col)(const Window*) noexcept nogil
        const char* (*check_adaptive)(const Window*) noexcept nogil


# --- one function where fused types make several ---------------------------------------------------------------------


cdef void _max_pool(const floating* input, floating* output, void* tags, int tag_bytes, const Window* g,
                    int threads) noexcept nogil:
    if tag_bytes == 8:
        max_pool_ptr(input, output, <int64_t*>tags, g, threads)
    elif tag_bytes == 4:
        max_pool_ptr(input, output, <int32_t*>tags, g, threads)
    else:
        max_pool_ptr(input, output, <uint8_t*>(tags if tag_bytes else NULL), g, threads)


cdef void _max_pool_taps_backward(const floating* grad_output, const void* taps, int tag_bytes, floating* grad_input,
                                  const Window* g, int threads) noexcept nogil:
    if tag_bytes == 4:
        max_pool_taps_backward_ptr(grad_output, <const int32_t*>taps, grad_input, g, threads)
    else:
        max_pool_taps_backward_ptr(grad_output, <const uint8_t*>taps, grad_input, g, threads)


cdef Py_ssize_t _max_pool_backward(const floating* grad_output, const int64_t* indices, floating* grad_input,
                                   const Window* g, int threads) noexcept nogil:
    return scatter_ptr(grad_output, indices, grad_input, g, True, threads)


cdef Kernels table
table.abi = ABI
table.size = sizeof(Kernels)
table.max_threads = max_threads
table.conv_scratch = conv_scratch
table.conv_forward_f32 = conv_forward_ptr[float]
table.conv_backward_data_f32 = conv_backward_data_ptr[float]
table.conv_backward_weight_f32 = conv_backward_weight_ptr[float]
table.im2col_f32 = im2col_ptr[float]
table.col2im_f32 = col2im_ptr[float]
table.max_pool_f32 = _max_pool[float]
table.max_pool_taps_backward_f32 = _max_pool_taps_backward[float]
table.max_pool_backward_f32 = _max_pool_backward[float]
table.avg_pool_f32 = avg_pool_ptr[float]
table.avg_pool_backward_f32 = avg_pool_backward_ptr[float]
table.adaptive_avg_pool_f32 = adaptive_avg_pool_ptr[float]
table.adaptive_avg_pool_backward_f32 = adaptive_avg_pool_backward_ptr[float]
table.conv_forward_f64 = conv_forward_ptr[double]
table.conv_backward_data_f64 = conv_backward_data_ptr[double]
table.conv_backward_weight_f64 = conv_backward_weight_ptr[double]
table.im2col_f64 = im2col_ptr[double]
table.col2im_f64 = col2im_ptr[double]
table.max_pool_f64 = _max_pool[double]
table.max_pool_taps_backward_f64 = _max_pool_taps_backward[double]
table.max_pool_backward_f64 = _max_pool_backward[double]
table.avg_pool_f64 = avg_pool_ptr[double]
table.avg_pool_backward_f64 = avg_pool_backward_ptr[double]
table.adaptive_avg_pool_f64 = adaptive_avg_pool_ptr[double]
table.adaptive_avg_pool_backward_f64 = adaptive_avg_pool_backward_ptr[double]
table.check_conv = check_conv
table.check_pool = check_pool
table.check_im2col = check_im2col
table.check_adaptive = check_adaptive

capsule = PyCapsule_New(&table, CAPSULE, NULL)


def functions():
    """Return the address of each function of the table, for ctypes, cffi and others that call by address.

    Returns
    -------
    dict of str to int
        By the names of `fastcnn_kernels` in `fastcnn/kernels.h` (see `fastcnn.get_include`), which tells the arguments.

    Examples
    --------
    >>> import ctypes
    >>> from fastcnn.kernels import table
    >>> max_threads = ctypes.CFUNCTYPE(ctypes.c_int)(table.functions()["max_threads"])
    >>> max_threads() >= 1
    True
    """
    return {
        "max_threads": <size_t>table.max_threads,
        "check_conv": <size_t>table.check_conv,
        "check_pool": <size_t>table.check_pool,
        "check_im2col": <size_t>table.check_im2col,
        "check_adaptive": <size_t>table.check_adaptive,
        "conv_scratch": <size_t>table.conv_scratch,
        "conv_forward_f32": <size_t>table.conv_forward_f32,
        "conv_backward_data_f32": <size_t>table.conv_backward_data_f32,
        "conv_backward_weight_f32": <size_t>table.conv_backward_weight_f32,
        "im2col_f32": <size_t>table.im2col_f32,
        "col2im_f32": <size_t>table.col2im_f32,
        "max_pool_f32": <size_t>table.max_pool_f32,
        "max_pool_taps_backward_f32": <size_t>table.max_pool_taps_backward_f32,
        "max_pool_backward_f32": <size_t>table.max_pool_backward_f32,
        "avg_pool_f32": <size_t>table.avg_pool_f32,
        "avg_pool_backward_f32": <size_t>table.avg_pool_backward_f32,
        "adaptive_avg_pool_f32": <size_t>table.adaptive_avg_pool_f32,
        "adaptive_avg_pool_backward_f32": <size_t>table.adaptive_avg_pool_backward_f32,
        "conv_forward_f64": <size_t>table.conv_forward_f64,
        "conv_backward_data_f64": <size_t>table.conv_backward_data_f64,
        "conv_backward_weight_f64": <size_t>table.conv_backward_weight_f64,
        "im2col_f64": <size_t>table.im2col_f64,
        "col2im_f64": <size_t>table.col2im_f64,
        "max_pool_f64": <size_t>table.max_pool_f64,
        "max_pool_taps_backward_f64": <size_t>table.max_pool_taps_backward_f64,
        "max_pool_backward_f64": <size_t>table.max_pool_backward_f64,
        "avg_pool_f64": <size_t>table.avg_pool_f64,
        "avg_pool_backward_f64": <size_t>table.avg_pool_backward_f64,
        "adaptive_avg_pool_f64": <size_t>table.adaptive_avg_pool_f64,
        "adaptive_avg_pool_backward_f64": <size_t>table.adaptive_avg_pool_backward_f64,
    }
