from .conv cimport Pass
from .geometry cimport Window

# The passes of a convolution on the matrix unit, as conv.pyx calls them, with scratch of matrix_scratch bytes (0 where
# the shape does not suit). False: not taken, nothing but the scratch and the result was touched, and the FMA tiles are
# to write all of the result.
cdef Py_ssize_t matrix_scratch(Pass which, const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                               int threads) noexcept nogil
cdef bint matrix_forward(const float* input, const float* weight, const float* bias, float* output, const Window* g,
                         Py_ssize_t outputs, Py_ssize_t groups, void* scratch, int threads) noexcept nogil
cdef bint matrix_backward_data(const float* grad_output, const float* weight, float* grad_input, const Window* g,
                               Py_ssize_t outputs, Py_ssize_t groups, void* scratch, int threads) noexcept nogil
cdef bint matrix_backward_weight(const float* grad_output, const float* input, float* grad_weight, float* grad_bias,
                                 const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                                 int threads) noexcept nogil
