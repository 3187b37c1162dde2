from cython cimport floating

from .jobs cimport Job

# Another way to do a job of conv.pyx. `winograd_scratch` tells from the shape alone what scratch it takes, whatever the
# precision, which may change between two calls; 0 where it suits at none. The passes return False where it does not
# suit the shape or the weights, or (backward-weight) where sums are so large that they may have overflowed: what they
# wrote is then to be written by the direct sums.
#
# job.before is done to what is read of the source, with all else that a pass does: its channels are neighbours then.
cdef bint winograd_fits(const Job* job, Py_ssize_t itemsize, bint weights) noexcept nogil  # at the precision in use
cdef Py_ssize_t winograd_scratch(const Job* job, int threads, Py_ssize_t itemsize, bint weights) noexcept nogil
cdef bint winograd_sums(const Job* job, const floating* source, const floating* weight, const floating* bias,
                        floating* dest, char* scratch, int threads) noexcept nogil
cdef bint winograd_weight_grad(const Job* job, const floating* grad_output, const floating* source,
                               floating* grad_weight, floating* grad_bias, char* scratch, int threads) noexcept nogil
