cdef enum:
    MOST_THREADS = 4096  # of set_num_threads


cdef inline int usable(int threads) noexcept nogil:
    """The number that a caller gives, from 1 to MOST_THREADS: kernels use no more, and have scratch for so many."""
    return max(1, min(threads, <int>MOST_THREADS))


cdef int threads_for(Py_ssize_t tasks, Py_ssize_t work) noexcept nogil
cdef int thread_index() noexcept nogil
cdef int max_threads() noexcept nogil
