from cython cimport floating

from .geometry cimport Window

# What conv_backward_data_ptr does last, except after spread.pyx, which reads no zeros around grad_output.
cdef void mend_edges(const floating* grad_output, const floating* weight, floating* grad_input, const Window* g,
                     Py_ssize_t outputs, Py_ssize_t groups, int threads) noexcept nogil
