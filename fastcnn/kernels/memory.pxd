cdef class Block:
    cdef char* start
    cdef void* raw
    cdef Py_ssize_t bytes

cdef Block new_block(Py_ssize_t bytes)

# Memory for the time of one call: NULL where there is none. What was borrowed is given back with the same numbers.
cdef char* borrow(Py_ssize_t bytes, void** raw) noexcept
cdef void give_back(char* start, void* raw, Py_ssize_t bytes) noexcept
