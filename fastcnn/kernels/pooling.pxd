from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uint8_t

from .geometry cimport Window

# What max-pooling keeps for its backward pass, for each output: the winner's tap inside the window, i*kw + j (uint8
# while the window has at most 256 taps, else int32), or its index in the plane, row*w + column (int64).
ctypedef fused tap_t:
    uint8_t
    int32_t

ctypedef fused tag_t:
    uint8_t
    int32_t
    int64_t

# Arguments are trusted. `threads` is the most that a call may use, and 1 inside a parallel region of the caller's.
cdef void max_pool_ptr(const floating* input, floating* output, tag_t* tags, const Window* g,
                       int threads) noexcept nogil
cdef void max_pool_relu_ptr(const floating* input, floating* output, tap_t* taps, const Window* g,
                            int threads) noexcept nogil
cdef bint wrong_taps_ptr(const tap_t* taps, const Window* g, int threads) noexcept nogil
cdef bint wrong_relu_taps_ptr(const tap_t* taps, const Window* g, int threads) noexcept nogil
cdef void max_pool_taps_backward_ptr(const floating* grad_output, const tap_t* taps, floating* grad_input,
                                     const Window* g, int threads) noexcept nogil

cdef Py_ssize_t scatter_ptr(const floating* values, const int64_t* indices, floating* planes, const Window* g,
                            bint add, int threads) noexcept nogil
cdef Py_ssize_t take_ptr(floating* planes, const int64_t* indices, floating* values, const Window* g,
                         int threads) noexcept nogil

cdef void avg_pool_ptr(const floating* input, floating* output, const Window* g, bint count_include_pad,
                       Py_ssize_t divisor_override, int threads) noexcept nogil
cdef void avg_pool_backward_ptr(const floating* grad_output, floating* grad_input, const Window* g,
                                bint count_include_pad, Py_ssize_t divisor_override, int threads) noexcept nogil
cdef void adaptive_avg_pool_ptr(const floating* input, floating* output, const Window* g, int threads) noexcept nogil
cdef void adaptive_avg_pool_backward_ptr(const floating* grad_output, floating* grad_input,
                                         const Window* g, int threads) noexcept nogil
