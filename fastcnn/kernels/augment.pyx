"""One pass from stored images to a batch: pick, crop, flip, normalise, cut out.

images may have any strides; output is (n, h, w, c), C-contiguous. Every pixel becomes pixel * gain[c] + offset[c]; what
a crop reads outside of its image is a pixel of 0, and what is cut out is 0 after that.

Tiling and ownership: one task is one image of the batch, which writes its h*w*c outputs and nothing else, so that there
is nothing to race for and no sum whose order could change. Rows stream; channels are innermost in output.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from .threads cimport threads_for


cdef inline void _fill(floating* target, Py_ssize_t step, Py_ssize_t first, Py_ssize_t end, const floating* offset,
                       Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t x, k
    for x in range(first, end):
        for k in range(channels):
            target[x * step + k] = offset[k]


cdef inline void _place(const pixel* image, Py_ssize_t top, Py_ssize_t left, bint flip, const floating* gain,
                        const floating* offset, floating* output, const Images* g) noexcept nogil:
    """Output pixel (y, x) is image pixel (y + top, x + left); with `flip`, x runs from the right end of the row."""
    cdef Py_ssize_t y, x, k, row
    cdef Py_ssize_t step = -g.c if flip else g.c
    cdef Py_ssize_t first = min(max(-left, 0), g.w)
    cdef Py_ssize_t end = max(first, min(g.w, g.w - left))
    cdef const pixel* source
    cdef floating* target
    for y in range(g.h):
        row = y + top
        target = output + y * g.w * g.c
        if flip:
            target += (g.w - 1) * g.c
        if row < 0 or row >= g.h:
            _fill(target, step, 0, g.w, offset, g.c)
            continue
        _fill(target, step, 0, first, offset, g.c)
        for x in range(first, end):
            source = image + row * g.row_step + (x + left) * g.column_step
            for k in range(g.c):
                target[x * step + k] = <floating>source[k * g.channel_step] * gain[k] + offset[k]
        _fill(target, step, end, g.w, offset, g.c)


cdef inline void _cut(floating* output, const Py_ssize_t* box, const Images* g) noexcept nogil:
    cdef Py_ssize_t y, left = box[1], right = box[3]
    if right > left:
        for y in range(box[0], box[2]):
            memset(output + (y * g.w + left) * g.c, 0, (right - left) * g.c * sizeof(floating))


cdef void image_batch_ptr(const pixel* images, const Py_ssize_t* indices, const Py_ssize_t* shift,
                          const unsigned char* flip, const Py_ssize_t* cutout, const floating* gain,
                          const floating* offset, floating* output, const Images* g) noexcept nogil:
    """output (n, h, w, c) from the images that `indices` names.

    shift (n, 2) is the row and column that each image's top left output pixel reads, cutout (n, 4) the box of zeros as
    top, left, bottom, right with the ends excluded, inside the image; each of shift, flip and cutout may be NULL.
    """
    cdef Py_ssize_t i, top, left, size = g.h * g.w * g.c
    cdef bint mirrored
    for i in prange(g.n, schedule="static", num_threads=threads_for(g.n, g.n * size)):
        top = shift[2 * i] if shift != NULL else 0
        left = shift[2 * i + 1] if shift != NULL else 0
        mirrored = flip != NULL and flip[i]
        _place(images + indices[i] * g.image_step, top, left, mirrored, gain, offset, output + i * size, g)
        if cutout != NULL:
            _cut(output + i * size, cutout + 4 * i, g)


def image_batch(const pixel[:, :, :, :] images, const Py_ssize_t[::1] indices, const Py_ssize_t[:, ::1] shift,
                const unsigned char[::1] flip, const Py_ssize_t[:, ::1] cutout, const floating[::1] gain,
                const floating[::1] offset, floating[:, :, :, ::1] output):
    """image_batch(images, indices, shift, flip, cutout, gain, offset, output): fill output (n, h, w, c).

    images is (m, c, h, w) of any strides; shift, flip and cutout may be None. Arguments are trusted, `functional`
    checks them.
    """
    cdef Images g
    cdef Py_ssize_t step = sizeof(pixel)
    cdef const Py_ssize_t* shift_ptr = &shift[0, 0] if shift is not None else NULL
    cdef const unsigned char* flip_ptr = &flip[0] if flip is not None else NULL
    cdef const Py_ssize_t* cutout_ptr = &cutout[0, 0] if cutout is not None else NULL
    g.n, g.c, g.h, g.w = indices.shape[0], images.shape[1], images.shape[2], images.shape[3]
    g.image_step, g.channel_step = images.strides[0] // step, images.strides[1] // step
    g.row_step, g.column_step = images.strides[2] // step, images.strides[3] // step
    with nogil:
        image_batch_ptr(&images[0, 0, 0, 0], &indices[0], shift_ptr, flip_ptr, cutout_ptr, &gain[0], &offset[0],
                        &output[0, 0, 0, 0], &g)
