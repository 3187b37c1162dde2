from cython cimport floating

from .geometry cimport Window

cdef void im2col_ptr(const floating* input, floating* columns, const Window* g, int threads) noexcept nogil
cdef void col2im_ptr(const floating* columns, floating* output, const Window* g, int threads) noexcept nogil
