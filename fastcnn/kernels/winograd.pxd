from cython cimport floating

from .jobs cimport Job

# Another way to do a job of conv.pyx. `winograd_fits` and `winograd_scratch` tell from the shape alone whether it is
# the faster one, and what scratch it takes; the passes return False where a result is not finite: what they wrote is
# then to be written again by the direct sums, whose infinities and NaN are the true ones.
cdef bint winograd_fits(const Job* job, bint weights) noexcept nogil
cdef Py_ssize_t winograd_scratch(const Job* job, int threads, Py_ssize_t itemsize, bint weights) noexcept nogil
cdef bint winograd_sums(const Job* job, const floating* source, const floating* weight, const floating* bias,
                        floating* dest, char* scratch, int threads) noexcept nogil
cdef bint winograd_weight_grad(const Job* job, const floating* grad_output, const floating* source,
                               floating* grad_weight, floating* grad_bias, char* scratch, int threads) noexcept nogil
