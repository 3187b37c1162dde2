from cython cimport floating
from libc.stdint cimport uint8_t

from .geometry cimport Window

# The gradients of a convolution (g) before a max-pool (pool: windows of its output), of what the pool keeps; where the
# module's `fit` says so.
cdef Py_ssize_t winners_scratch(const Window* g, const Window* pool, int threads, Py_ssize_t itemsize) noexcept nogil
cdef void winners_backward_ptr(const floating* grad_output, const uint8_t* taps, const floating* input,
                               const floating* weight, floating* grad_input, floating* grad_weight,
                               floating* grad_bias, const Window* g, const Window* pool, void* scratch,
                               int threads) noexcept nogil
