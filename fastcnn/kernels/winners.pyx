"""The gradients of a convolution before a max-pool, from the places that won alone.

Of a window of four places one has a gradient, at most, and a convolution's gradients are sums over places: three
quarters of them are sums of zeros. So each output of the pool is an item: its gradient, and where in the image the
window of its winner lies. What an item adds is one row of taps by one row of channels after another, each a few
registers:

  weights     the sums of an output channel, a whole window of them, stay in registers while all its items of a few
              images are gone through: item by item the rows of its window times its gradient are added
  image       the sums of all pixels that a pool window's places reach stay in registers while the channels are gone
              through, whose weights, times the gradient, are added; rows of zeros above and below the weights put them
              where the winner is, down the pool window, and across it, each column of taps has sums of its own

Few channels make short rows, so where an image has one, several rows of it are woven into one.

Pixels that are not the maximum of their window have a gradient of 0, and 0 times infinity or NaN is NaN. A second pass
over images and weights that are not finite stores the NaN that these products give.

Ownership: a task is a part of the images; it writes their gradients, and has a partial sum of the weights' gradient.
Parts are added in order, and follow from the shape alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy, memset

from .geometry cimport Window, check_conv
from .isa cimport Micro, micro
from .jobs cimport (
    ALIGN, Image, aligned, aligned_start, all_finite, copy_pixels, image_of, lanes_of, pieces, round_up,
)
from .threads cimport thread_index, threads_for, usable


# Bytes that a task goes through again and again: at most, and those of a block of images, where it has several.
cdef Py_ssize_t MOST_BYTES = 1 << 16
cdef Py_ssize_t BLOCK_BYTES = 3 << 13
# Images of a part, at least, and parts.
cdef Py_ssize_t FEWEST_IMAGES = 2
cdef Py_ssize_t TASKS = 16
cdef enum:
    MOST_TAPS = 16      # of the pool's windows
    MOST_WOVEN = 8      # rows


cdef struct Plan:
    Py_ssize_t items                    # outputs of the pool for an image
    Py_ssize_t rows, columns            # pixels that the windows reach over, with the padding
    Py_ssize_t woven, strips            # rows woven into one, and rows of a window then
    Py_ssize_t width, pitch             # elements of a row of a window's sums, and whole registers of them
    Py_ssize_t row, pixel, image        # in the copy, woven or not: from one row, pixel and image to the next
    Py_ssize_t images, parts            # of a block; of all images
    Py_ssize_t sums                     # elements of a part's sums: weights, then bias
    Py_ssize_t above, w_row, w_output   # rows of zeros; in the packed weights, from a row, an output to the next
    Py_ssize_t out_rows, out_row        # rows of the gradient with its padding, and from one to the next
    # Scratch, in bytes from the start: packed weights, items' own offsets, sums, then slices, one a thread.
    Py_ssize_t own, partial, slices, slice, bytes
    # Within a slice: rows that are woven, their weave, offsets and gradients of items, sums of these, taps and
    # gradients in another order, the items of two columns of a place's taps, the gradient of an image.
    Py_ssize_t weave, offsets, grads, item_sums, some_taps, some_grads, place_offsets, place_grads, out


cdef Plan _plan(const Window* g, const Window* pool, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t lanes = lanes_of(itemsize), row = g.kw * g.c, slack = 2 * lanes, most, each
    memset(&p, 0, sizeof(Plan))
    p.items = pool.oh * pool.ow * pool.c
    p.rows = ((pool.oh - 1) * pool.sh + pool.kh - 1) * g.sh + g.kh
    p.columns = ((pool.ow - 1) * pool.sw + pool.kw - 1) * g.sw + g.kw
    p.woven = max(1, min(min(g.kh, MOST_WOVEN), lanes // g.kw)) if g.c == 1 else 1
    p.strips = pieces(g.kh, p.woven)
    p.width = p.woven * row
    p.pitch = round_up(p.width, lanes)
    p.pixel = p.woven * g.c
    p.row = p.columns * p.pixel
    most = p.rows - g.kh + p.strips * p.woven  # rows that are copied
    p.image = (most if p.woven == 1 else most - p.woven + 1) * p.row
    each = p.image * itemsize + p.items * (sizeof(int32_t) + itemsize)
    p.images = max(1, min(FEWEST_IMAGES, BLOCK_BYTES // each))
    p.parts = max(1, min(TASKS, g.n // FEWEST_IMAGES))
    p.sums = round_up(pool.c * (p.strips * p.pitch + 1), lanes)
    p.above = (pool.kh - 1) * g.sh
    p.w_row = round_up(row, lanes)
    p.w_output = (2 * p.above + g.kh) * p.w_row
    p.out_rows, p.out_row = max(p.rows, g.ph + g.h), max(p.columns, g.pw + g.w) * g.c
    p.own = aligned(itemsize * pool.c * p.w_output)
    p.partial = p.own + aligned(2 * sizeof(int32_t) * p.items)
    p.slices = p.partial + aligned(itemsize * p.parts * p.sums)
    p.weave = aligned(itemsize * (most * p.columns + slack)) if p.woven > 1 else 0
    p.offsets = p.weave + aligned(itemsize * (p.images * p.image + slack))
    p.grads = p.offsets + aligned(sizeof(int32_t) * p.images * p.items)
    p.item_sums = p.grads + aligned(itemsize * p.images * p.items)
    p.some_taps = p.item_sums + aligned(itemsize * p.items)
    p.some_grads = p.some_taps + aligned(0 if g.channels_last else p.items)
    p.place_offsets = p.some_grads + aligned(0 if g.channels_last else itemsize * p.items)
    p.place_grads = p.place_offsets + aligned(2 * sizeof(int32_t) * (pool.c + 1))
    p.out = p.place_grads + aligned(2 * itemsize * (pool.c + 1))
    p.slice = p.out + aligned(itemsize * (p.out_rows * p.out_row + slack))
    p.bytes = p.slices + usable(threads) * p.slice + ALIGN
    return p


def fit(Window g, Window pool, Py_ssize_t groups, Py_ssize_t itemsize):
    """Whether the gradients are faster here than from all places; not of other shapes, which this module cannot do."""
    cdef Plan p
    if (groups > 1 or g.dh > 1 or g.dw > 1 or pool.ph or pool.pw or pool.dh > 1 or pool.dw > 1
            or not 4 <= pool.kh * pool.kw <= MOST_TAPS
            or (pool.sh != pool.kh and pool.oh > 1) or (pool.sw != pool.kw and pool.ow > 1)
            or pool.oh * pool.kh > g.oh or pool.ow * pool.kw > g.ow
            or max(g.h, g.oh) * max(g.w, g.ow) > MOST_BYTES or g.c * g.kh * g.kw * pool.c > MOST_BYTES):
        return False
    p = _plan(&g, &pool, 1, itemsize)
    return (p.slices - p.own <= 16 * MOST_BYTES and p.grads - p.weave <= MOST_BYTES
            and p.own <= MOST_BYTES and p.slice - p.out <= MOST_BYTES)


cdef Py_ssize_t winners_scratch(const Window* g, const Window* pool, int threads, Py_ssize_t itemsize) noexcept nogil:
    if check_conv(g, pool.c, 1) != NULL:
        return -1
    return _plan(g, pool, threads, itemsize).bytes


cdef inline const uint8_t* _in_order(const Plan* p, const Window* pool, const uint8_t* taps, const floating** grad,
                                     char* slice) noexcept nogil:
    """The taps of an image, and at `grad` its gradients, with channels last."""
    cdef Py_ssize_t places = pool.oh * pool.ow, x, o
    cdef uint8_t* some_taps = <uint8_t*>(slice + p.some_taps)
    cdef floating* some_grads = <floating*>(slice + p.some_grads)
    if pool.channels_last:
        return taps
    for o in range(pool.c):
        for x in range(places):
            some_taps[x * pool.c + o] = taps[o * places + x]
            some_grads[x * pool.c + o] = grad[0][o * places + x]
    grad[0] = some_grads
    return some_taps


cdef inline bint _items(const Micro* tiles, const Plan* p, const Window* pool, const uint8_t* taps,
                        const floating* grad, const int32_t* own, const int32_t* tap_offset, Py_ssize_t start,
                        int32_t* offset, floating* g, floating* sums) noexcept nogil:
    """The items of an image; whether a gradient is not finite."""
    cdef int several = <int>(pool.kh * pool.kw)
    if floating is float:
        return tiles.winners_f32(p.items, taps, grad, own, tap_offset, several, <int32_t>start, offset, g, sums)
    else:
        return tiles.winners_f64(p.items, taps, grad, own, tap_offset, several, <int32_t>start, offset, g, sums)


cdef inline bint _won(const Window* pool, const uint8_t* taps, Py_ssize_t y, Py_ssize_t x, Py_ssize_t o) noexcept nogil:
    """Whether a pixel of the convolution's output is the maximum of its window; taps with channels last."""
    cdef Py_ssize_t row = y // pool.kh, column = x // pool.kw
    return (row < pool.oh and column < pool.ow
            and taps[(row * pool.ow + column) * pool.c + o] == y % pool.kh * pool.kw + x % pool.kw)


cdef void _image_times_zero(const Plan* p, const Window* g, const Window* pool, const Image* source,
                            const floating* input, const uint8_t* taps, floating* sums) noexcept nogil:
    """Add to a part's sums the pixels of an image that are not finite, times the zeros of the places that lost."""
    cdef Py_ssize_t c, row, column, i, j, y, x, o
    cdef floating value
    cdef floating* total
    for c in range(g.c):
        for row in range(g.h):
            for column in range(g.w):
                value = input[row * source.row + column * source.pixel + c * source.channel]
                if value - value == 0:
                    continue
                for i in range(max(0, row + g.ph - (g.oh - 1) * g.sh), min(g.kh, row + g.ph + 1)):
                    for j in range(max(0, column + g.pw - (g.ow - 1) * g.sw), min(g.kw, column + g.pw + 1)):
                        y, x = row + g.ph - i, column + g.pw - j
                        if y % g.sh or x % g.sw:
                            continue
                        total = sums + i // p.woven * p.pitch + i % p.woven + c + j * p.pixel
                        for o in range(pool.c):
                            if total[0] == total[0] and not _won(pool, taps, y // g.sh, x // g.sw, o):
                                total[0] = value - value
                            total += p.strips * p.pitch


cdef void _weights_times_zero(const Window* g, const Window* pool, const Image* source, const floating* weight,
                              const uint8_t* taps, floating* grad_input) noexcept nogil:
    """Add to an image's gradient the weights that are not finite, times the zeros of the places that lost."""
    cdef Py_ssize_t o, c, i, j, y, x, row, column
    cdef floating* pixel
    for o in range(pool.c):
        for c in range(g.c):
            for i in range(g.kh):
                for j in range(g.kw):
                    if weight[0] - weight[0] != 0:
                        for y in range(g.oh):
                            row = y * g.sh - g.ph + i
                            for x in range(g.ow if 0 <= row < g.h else 0):
                                column = x * g.sw - g.pw + j
                                pixel = grad_input + row * source.row + column * source.pixel + c * source.channel
                                if (0 <= column < g.w and pixel[0] == pixel[0]
                                        and not _won(pool, taps, y, x, o)):
                                    pixel[0] = weight[0] - weight[0]
                    weight += 1


cdef inline void _pick(const Micro* tiles, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t count, const int32_t* offset,
                       const floating* g, Py_ssize_t step, const floating* a, Py_ssize_t a_row, floating* c,
                       Py_ssize_t c_row) noexcept nogil:
    if floating is float:
        tiles.picked_f32(rows, width, count, offset, g, step, a, a_row, c, c_row)
    else:
        tiles.picked_f64(rows, width, count, offset, g, step, a, a_row, c, c_row)


cdef void _weights(const Plan* p, const Window* g, const Window* pool, const Image* source, Py_ssize_t image,
                   Py_ssize_t images, const int32_t* own, const floating* grad, const uint8_t* taps,
                   const floating* input, floating* sums, char* slice) noexcept nogil:
    """Add to a part's sums what a block of images has for them."""
    cdef const Micro* tiles = micro()
    cdef floating* rows = <floating*>slice
    cdef floating* copy = <floating*>(slice + p.weave)
    cdef int32_t* offset = <int32_t*>(slice + p.offsets)
    cdef floating* grads = <floating*>(slice + p.grads)
    cdef const floating* dy
    cdef const uint8_t* kept
    cdef int32_t[256] tap_offset
    cdef Py_ssize_t i, o, count = p.rows - g.kh + p.strips * p.woven
    memset(tap_offset, 0, sizeof(tap_offset))
    for i in range(pool.kh * pool.kw):
        tap_offset[i] = <int32_t>(i // pool.kw * g.sh * p.row + i % pool.kw * g.sw * p.pixel)
    for i in range(images):
        if p.woven == 1:
            rows = copy + i * p.image
        copy_pixels(input + (image + i) * source.image, source, -g.ph, count, -g.pw, p.columns, g.c, rows, g.c)
        if p.woven > 1:
            if floating is float:
                tiles.weave_f32(p.woven, count - p.woven + 1, p.columns, rows, p.columns, p.columns,
                                <const float*>NULL, copy + i * p.image, p.row)
            else:
                tiles.weave_f64(p.woven, count - p.woven + 1, p.columns, rows, p.columns, p.columns,
                                <const double*>NULL, copy + i * p.image, p.row)
        dy = grad + (image + i) * p.items
        kept = _in_order(p, pool, taps + (image + i) * p.items, &dy, slice)
        _items(tiles, p, pool, kept, dy, own, tap_offset, i * p.image, offset + i * p.items, grads + i * p.items,
               <floating*>(slice + p.item_sums))
        if not all_finite(input + (image + i) * source.image, source.image):
            _image_times_zero(p, g, pool, source, input + (image + i) * source.image, kept, sums)
    for o in range(pool.c):
        _pick(tiles, p.strips, p.width, images * pool.oh * pool.ow, offset + o, grads + o, pool.c, copy,
              p.woven * p.row, sums + o * p.strips * p.pitch, p.pitch)


cdef void _image(const Plan* p, const Window* g, const Window* pool, const Image* source, Py_ssize_t image,
                 const int32_t* own, const floating* dy, const uint8_t* taps, const floating* packed,
                 const floating* special, floating* grad_input, char* slice) noexcept nogil:
    """The gradient of one image; `special` are the weights if not all are finite, else NULL."""
    cdef const Micro* tiles = micro()
    cdef int32_t* offset = <int32_t*>(slice + p.offsets)
    cdef floating* grads = <floating*>(slice + p.grads)
    cdef int32_t* left_offset = <int32_t*>(slice + p.place_offsets)
    cdef int32_t* right_offset = left_offset + pool.c + 1
    cdef floating* left_grads = <floating*>(slice + p.place_grads)
    cdef floating* right_grads = left_grads + pool.c + 1
    cdef floating* out = <floating*>(slice + p.out)
    cdef int32_t[256] tap_offset
    cdef uint8_t[256] column
    cdef Py_ssize_t i, j, y, x, o, c, at = 0, left, right, step = g.sw * g.c
    cdef floating* to
    cdef bint odd
    memset(tap_offset, 0, sizeof(tap_offset))
    memset(column, 255, sizeof(column))
    for i in range(pool.kh * pool.kw):
        tap_offset[i] = <int32_t>((p.above - i // pool.kw * g.sh) * p.w_row)
        column[i] = <uint8_t>(i % pool.kw)
    memset(out, 0, p.out_rows * p.out_row * sizeof(floating))
    dy += image * p.items
    taps = _in_order(p, pool, taps + image * p.items, &dy, slice)
    odd = _items(tiles, p, pool, taps, dy, own, tap_offset, 0, offset, grads, <floating*>(slice + p.item_sums))
    for y in range(pool.oh):
        for x in range(pool.ow):
            for j in range(0, pool.kw, 2):
                left = right = 0
                for o in range(at, at + pool.c):  # one that is not of the column is written over
                    left_offset[left] = right_offset[right] = offset[o]
                    left_grads[left] = right_grads[right] = grads[o]
                    left += column[taps[o]] == j
                    right += column[taps[o]] == j + 1
                to = out + y * pool.sh * g.sh * p.out_row + (x * pool.sw + j) * step
                _spread(tiles, p, g, left, left_offset, left_grads, packed, odd, to)
                _spread(tiles, p, g, right, right_offset, right_grads, packed, odd, to + step)
            at += pool.c
    grad_input += image * source.image
    out += g.ph * p.out_row + g.pw * g.c
    for y in range(g.h):
        to = grad_input + y * source.row
        if source.channel == 1:
            memcpy(to, out + y * p.out_row, g.w * g.c * sizeof(floating))
            continue
        for c in range(g.c):
            for x in range(g.w):
                to[c * source.channel + x] = out[y * p.out_row + x * g.c + c]
    if special != NULL:
        _weights_times_zero(g, pool, source, special, taps, grad_input)


cdef inline void _spread(const Micro* tiles, const Plan* p, const Window* g, Py_ssize_t count, const int32_t* offset,
                         const floating* grads, const floating* packed, bint odd, floating* out) noexcept nogil:
    """Add what the items of a column of taps have for the pixels under them."""
    cdef Py_ssize_t o, i, k, first, row = g.kw * g.c
    if not odd:
        if count:
            _pick(tiles, p.above + g.kh, row, count, offset, grads, 1, packed, p.w_row, out, p.out_row)
        return
    for o in range(count):  # times zero, infinity would spread to pixels beside the window
        first = p.above - offset[o] % p.w_output // p.w_row
        for i in range(first, first + g.kh):
            for k in range(row):
                out[i * p.out_row + k] += grads[o] * packed[offset[o] + i * p.w_row + k]


cdef void _part(const Plan* p, const Window* g, const Window* pool, const Image* source, Py_ssize_t part,
                const int32_t* own, const floating* grad, const uint8_t* taps, const floating* input,
                const floating* packed, const floating* special, floating* grad_input, floating* sums,
                char* slice) noexcept nogil:
    """One task; grad_input and sums are NULL where they are not asked for."""
    cdef Py_ssize_t image = part * g.n // p.parts, end = (part + 1) * g.n // p.parts, images
    cdef Py_ssize_t line = pool.ow * pool.c, i, o, x, y
    cdef floating* item_sums = <floating*>(slice + p.item_sums)
    if grad_input != NULL:
        for i in range(image, end):
            _image(p, g, pool, source, i, own + p.items, grad, taps, packed, special, grad_input, slice)
    if sums == NULL:
        return
    memset(item_sums, 0, p.items * sizeof(floating))
    memset(sums, 0, p.sums * sizeof(floating))
    for i in range(pieces(end - image, p.images)):
        images = min(p.images, end - image - i * p.images)
        _weights(p, g, pool, source, image + i * p.images, images, own, grad, taps, input, sums, slice)
    sums += pool.c * p.strips * p.pitch
    for y in range(1, pool.oh):
        for i in range(line):
            item_sums[i] += item_sums[y * line + i]
    for x in range(pool.ow):
        for o in range(pool.c):
            sums[o] += item_sums[x * pool.c + o]


cdef void winners_backward_ptr(const floating* grad_output, const uint8_t* taps, const floating* input,
                               const floating* weight, floating* grad_input, floating* grad_weight,
                               floating* grad_bias, const Window* g, const Window* pool, void* scratch,
                               int threads) noexcept nogil:
    """grad_input, grad_weight and grad_bias, each overwritten; NULL for what is not needed."""
    cdef Plan p = _plan(g, pool, threads, sizeof(floating))
    cdef Image source = image_of(g.c, g.h, g.w, g.channels_last)
    cdef char* start = aligned_start(scratch)
    cdef floating* packed = <floating*>start
    cdef const floating* special = NULL
    cdef int32_t* own = <int32_t*>(start + p.own)
    cdef floating* partial = <floating*>(start + p.partial)
    cdef Py_ssize_t part, i, j, c, o, x, y, window = g.kh * g.kw, line = pool.ow * pool.c, at
    cdef bint sums = grad_weight != NULL or grad_bias != NULL
    cdef Py_ssize_t work = g.n * p.items * (window * g.c // 8 + 8) * (sums + (grad_input != NULL))
    cdef char* slice
    for x in range(pool.ow):
        for o in range(pool.c):
            own[x * pool.c + o] = <int32_t>(x * pool.sw * g.sw * p.pixel)
            own[p.items + x * pool.c + o] = <int32_t>(o * p.w_output)
    for y in range(1, pool.oh):
        at = y * pool.sh * g.sh * p.row
        for i in range(line):
            own[y * line + i] = own[i] + <int32_t>at
            own[p.items + y * line + i] = own[p.items + i]
    if grad_input != NULL:
        if not all_finite(weight, pool.c * g.c * window):
            special = weight
        memset(packed, 0, pool.c * p.w_output * sizeof(floating))
        for o in range(pool.c):
            for c in range(g.c):
                for i in range(g.kh):
                    for j in range(g.kw):
                        packed[o * p.w_output + (p.above + i) * p.w_row + j * g.c + c] = (
                            weight[((o * g.c + c) * g.kh + i) * g.kw + j])
    # An item takes as long as some eight elementary operations, and as one for eight multiply-adds.
    for part in prange(p.parts, schedule="dynamic", num_threads=min(usable(threads), threads_for(p.parts, work))):
        slice = start + p.slices + thread_index() * p.slice
        _part(&p, g, pool, &source, part, own, grad_output, taps, input, packed, special, grad_input,
              partial + part * p.sums if sums else <floating*>NULL, slice)
    for part in range(1, p.parts if sums else 0):
        for i in range(p.sums):
            partial[i] += partial[part * p.sums + i]
    if grad_weight != NULL:
        for i in range(g.kh):
            at = i // p.woven * p.pitch + i % p.woven
            for o in range(pool.c):
                for c in range(g.c):
                    for j in range(g.kw):
                        grad_weight[((o * g.c + c) * g.kh + i) * g.kw + j] = (
                            partial[o * p.strips * p.pitch + at + c + j * p.pixel])
    if grad_bias != NULL:
        memcpy(grad_bias, partial + pool.c * p.strips * p.pitch, pool.c * sizeof(floating))
