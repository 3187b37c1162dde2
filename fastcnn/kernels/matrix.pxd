from .jobs cimport Job

# Another way to do a job of conv.pyx, on a matrix unit. `matrix_fits` and `matrix_scratch` tell from the shape alone
# whether it is the fastest one, and what scratch it takes; the passes return False where they gave the job up: what
# they wrote is then to be written again by direct sums.
cdef bint matrix_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t matrix_scratch(const Job* job, int threads, bint weights) noexcept nogil
cdef bint matrix_sums(const Job* job, const float* source, const float* weight, const float* bias, float* dest,
                      char* scratch, int threads) noexcept nogil
cdef bint matrix_weight_grad(const Job* job, const float* grad_output, const float* source, float* grad_weight,
                             float* grad_bias, char* scratch, int threads) noexcept nogil
