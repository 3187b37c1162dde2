from cython cimport floating

from .geometry cimport Window

cdef extern from "fastcnn/kernels.h" nogil:
    ctypedef enum Pass "fastcnn_pass":
        FORWARD "FASTCNN_FORWARD"
        BACKWARD_DATA "FASTCNN_BACKWARD_DATA"
        BACKWARD_WEIGHT "FASTCNN_BACKWARD_WEIGHT"

# Arguments are trusted: check_conv in geometry.pxd says whether they are right. `scratch` has the bytes that
# conv_scratch returns for the same number of threads, at any alignment; -1 means that check_conv objects. `threads` is
# the most that a call may use, and 1 inside a parallel region of the caller's; below 1 it counts as 1.
cdef Py_ssize_t conv_scratch(Pass which, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                             Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t pass_scratch(Pass which, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                             Py_ssize_t itemsize) noexcept nogil
cdef void conv_forward_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                           const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                           int threads) noexcept nogil
cdef void conv_norm_ptr(const floating* input, const floating* weight, const floating* bias, const floating* mean,
                        const floating* scale, const floating* shift, const floating* residual, bint relu,
                        floating* output, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                        int threads) noexcept nogil
cdef void conv_backward_data_ptr(const floating* grad_output, const floating* weight, floating* grad_input,
                                 const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                                 int threads) noexcept nogil
cdef void conv_backward_weight_ptr(const floating* grad_output, const floating* input, floating* grad_weight,
                                   floating* grad_bias, const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                                   void* scratch, int threads) noexcept nogil
