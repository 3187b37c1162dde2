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


cdef enum:
    RUN = 16        # pixels that one round of the inner loop takes
    CHANNELS = 8    # up to which a round's gains and offsets are laid out one after another


cdef inline void _fill(floating* target, Py_ssize_t count, const floating* offset, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t x, k
    for x in range(count):
        for k in range(channels):
            target[x * channels + k] = offset[k]


cdef inline void _pixels(const pixel* source, const floating* gain, const floating* offset, floating* target,
                         Py_ssize_t count, const Images* g) noexcept nogil:
    cdef Py_ssize_t x, k
    for x in range(count):
        for k in range(g.c):
            target[x * g.c + k] = <floating>source[x * g.column_step + k * g.channel_step] * gain[k] + offset[k]


cdef inline void _run_of_pixels(const pixel* source, const floating* gains, const floating* offsets, floating* target,
                                Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        target[j] = <floating>source[j] * gains[j] + offsets[j]


cdef inline void _mirror(floating* row, Py_ssize_t width, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t x, k
    cdef floating value
    for x in range(width // 2):
        for k in range(channels):
            value = row[x * channels + k]
            row[x * channels + k] = row[(width - 1 - x) * channels + k]
            row[(width - 1 - x) * channels + k] = value


cdef inline void _place(const pixel* image, Py_ssize_t top, Py_ssize_t left, bint flip, const floating* gain,
                        const floating* offset, floating* output, const Images* g) noexcept nogil:
    """Output pixel (y, x) is image pixel (y + top, x + left); with `flip`, x runs from the right end of the row."""
    cdef floating gains[RUN * CHANNELS]
    cdef floating offsets[RUN * CHANNELS]
    cdef Py_ssize_t y, x, i, row, rounds
    cdef Py_ssize_t first = min(max(-left, 0), g.w)
    cdef Py_ssize_t end = max(first, min(g.w, g.w - left))
    cdef bint dense = g.c <= CHANNELS and g.column_step == g.c and (g.channel_step == 1 or g.c == 1)
    cdef const pixel* source
    cdef floating* target = output
    if dense:
        _fill(gains, RUN, gain, g.c)
        _fill(offsets, RUN, offset, g.c)
    rounds = (end - first) // RUN if dense else 0
    for y in range(g.h):
        row = y + top
        if row < 0 or row >= g.h:
            _fill(target, g.w, offset, g.c)
        else:
            source = image + row * g.row_step + left * g.column_step
            _fill(target, first, offset, g.c)
            for i in range(rounds):
                x = first + i * RUN
                _run_of_pixels(source + x * g.c, gains, offsets, target + x * g.c, RUN * g.c)
            x = first + rounds * RUN
            _pixels(source + x * g.column_step, gain, offset, target + x * g.c, end - x, g)
            _fill(target + end * g.c, g.w - end, offset, g.c)
            if flip:
                _mirror(target, g.w, g.c)
        target += g.w * g.c


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
