from cython cimport floating

from .jobs cimport Job

# Another way to do a job of conv.pyx, for few outputs.
cdef bint planar_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t planar_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil
cdef void planar_sums(const Job* job, const floating* source, const floating* weight, const floating* bias,
                      floating* dest, char* scratch, int threads) noexcept nogil
