"""All gradients of a convolution at once, added up where a batch is gone through in parts.

All of it is inline: a header of small functions, no module.
"""

from cython cimport floating

from .activation cimport add_ptr
from .conv cimport (
    BACKWARD_DATA, BACKWARD_WEIGHT, conv_backward_data_ptr, conv_backward_weight_ptr, pass_scratch,
)
from .geometry cimport Window, check_conv
from .jobs cimport aligned


cdef inline Py_ssize_t _weights(const Window* g, Py_ssize_t outputs, Py_ssize_t groups) noexcept nogil:
    return g.c // groups * g.kh * g.kw * outputs


cdef inline Py_ssize_t _passes_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                                       Py_ssize_t itemsize) noexcept nogil:
    return aligned(max(pass_scratch(BACKWARD_DATA, g, outputs, groups, threads, itemsize),
                       pass_scratch(BACKWARD_WEIGHT, g, outputs, groups, threads, itemsize)))


cdef inline Py_ssize_t conv_gradients_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                                              Py_ssize_t itemsize) noexcept nogil:
    if check_conv(g, outputs, groups) != NULL:
        return -1
    return (_passes_scratch(g, outputs, groups, threads, itemsize)
            + (_weights(g, outputs, groups) + outputs) * itemsize)


cdef inline void conv_gradients_ptr(const floating* grad_output, const floating* input, const floating* weight,
                                    floating* grad_input, floating* grad_weight, floating* grad_bias, const Window* g,
                                    Py_ssize_t outputs, Py_ssize_t groups, bint add, void* scratch,
                                    int threads) noexcept nogil:
    """NULL for what is not needed; those of weight and bias are overwritten or, with `add`, added to."""
    cdef Py_ssize_t weights = _weights(g, outputs, groups)
    cdef floating* own_weight = <floating*>(
        <char*>scratch + _passes_scratch(g, outputs, groups, threads, sizeof(floating)))
    cdef floating* own_bias = own_weight + weights
    cdef floating* to_weight = own_weight if add or grad_weight == NULL else grad_weight
    cdef floating* to_bias = own_bias if add and grad_bias != NULL else grad_bias
    if grad_input != NULL:
        conv_backward_data_ptr(grad_output, weight, grad_input, g, outputs, groups, scratch, threads)
    if grad_weight == NULL and grad_bias == NULL:
        return
    conv_backward_weight_ptr(grad_output, input, to_weight, to_bias, g, outputs, groups, scratch, threads)
    if add and grad_weight != NULL:
        add_ptr(grad_weight, own_weight, grad_weight, weights)
    if add and grad_bias != NULL:
        add_ptr(grad_bias, own_bias, grad_bias, outputs)
