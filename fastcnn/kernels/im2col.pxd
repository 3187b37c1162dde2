from cython cimport floating

from .geometry cimport Window

# Arguments are trusted: check_im2col in geometry.pxd says whether they are right. `threads` below 1 counts as 1.
cdef void im2col_ptr(const floating* input, floating* columns, const Window* g, int threads) noexcept nogil
cdef void col2im_ptr(const floating* columns, floating* output, const Window* g, int threads) noexcept nogil
