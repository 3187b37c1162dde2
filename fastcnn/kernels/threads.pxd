cdef int threads_for(Py_ssize_t tasks, Py_ssize_t work) noexcept nogil
cdef int thread_index() noexcept nogil
cdef int max_threads() noexcept nogil
