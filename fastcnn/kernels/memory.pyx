"""Memory of results, used again: what an array gives back when it dies serves the next one.

A training step makes and drops the same arrays every time. From the operating system each would come as fresh pages, to
be mapped and cleared at first touch (a fifth of a ResNet-20 step, where it was measured) and start on any 16 bytes;
these blocks stay mapped and start on a cache line.

Small blocks: a freed one heads the list of its size class: eight classes between one power of two and the next, so that
at most an eighth is wasted. The lists are linked through the blocks themselves.

Large blocks, from LARGE bytes on: pieces of arenas. The smallest free piece that is large enough is taken, the lowest
of several, and what it has too much cut off; a freed piece joins its free neighbours. So what the activations of deep
layers leave serves the gradients of the first ones, which are larger, and a step touches hardly more memory than it has
arrays at a time.

One lock guards all of it; no Python runs in it.

FASTCNN_ALLOCATOR=malloc replaces all of it: each block is an allocation of the C library, exactly as large as asked
for, and is freed when it is given back. AddressSanitizer and Valgrind then report accesses past its end or after its
life; malloc-nan fills it with NaN, too.
"""

import os

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free
from libc.string cimport memset


cdef extern from "memory.h" nogil:
    char* fastcnn_new_block(size_t bytes, void** raw)
    char* fastcnn_new_exact(size_t bytes)
    void fastcnn_free_exact(char* start)
    char* fastcnn_new_arena(size_t bytes)
    void fastcnn_free_arena(char* start, size_t bytes)
    void fastcnn_forget(char* start, size_t bytes)
    Py_ssize_t ARENA "FASTCNN_ARENA"


cdef struct Free:
    # Lies at the start of a free small block.
    Free* next
    void* raw


cdef struct Piece:
    # Lies in the HEAD bytes before a large block.
    Py_ssize_t size                     # of the block
    Py_ssize_t written                  # of a free block: how much may be memory already
    Piece* before                       # its neighbours in the arena, NULL at the ends
    Piece* after
    Piece* previous                     # of a free block: its neighbours in the list of all free ones
    Piece* next
    bint free
    char* arena                         # its start


cdef enum:
    CLASSES = 512
    LARGE = 1 << 17
    HEAD = 4096         # so that blocks start on a page

ALLOCATORS = ("arena", "malloc", "malloc-nan")
_allocator = os.environ.get("FASTCNN_ALLOCATOR") or "arena"
if _allocator not in ALLOCATORS:
    raise ImportError(f"FASTCNN_ALLOCATOR: expected one of {', '.join(ALLOCATORS)}, got {_allocator!r}")
cdef bint _exact = _allocator != "arena"    # each block by itself
cdef bint _fill_nan = _allocator == "malloc-nan"

# Bytes that may wait for their next use; what is freed beyond them goes back.
cdef Py_ssize_t LIMIT = <Py_ssize_t>2 << 30
cdef Free* _lists[CLASSES]
cdef Piece* _free = NULL
cdef Py_ssize_t _cached = 0
cdef Py_ssize_t _used = 0
cdef Py_ssize_t _most = 0
cdef cython.pymutex _lock


# --- small blocks -----------------------------------------------------------------------------------------------------


cdef inline int _class_of(Py_ssize_t bytes, Py_ssize_t* size) noexcept nogil:
    """The size class that holds `bytes` (at least 64), and its size."""
    cdef int shift = 3
    cdef Py_ssize_t eighths
    while bytes >> shift >= 16:
        shift += 1
    eighths = ((bytes - 1) >> shift) + 1
    size[0] = eighths << shift
    return shift * 8 + <int>(eighths - 8)


cdef char* _take_small(Py_ssize_t bytes, void** raw) noexcept:
    """The block that heads its list, or one from the C library."""
    cdef Free* head
    cdef char* start
    cdef Py_ssize_t size
    cdef int which = _class_of(bytes, &size)
    global _cached
    with _lock:
        _count(size)
        head = _lists[which]
        if head != NULL:
            _lists[which] = head.next
            _cached -= size
    if head != NULL:
        raw[0] = head.raw
        return <char*>head
    start = fastcnn_new_block(size, raw)
    if start == NULL:
        with _lock:
            _count(-size)
    return start


cdef void _put_small(char* start, void* raw, Py_ssize_t bytes) noexcept:
    """Let a block head its list, or free it where enough wait already."""
    cdef Free* head = <Free*>start
    cdef Py_ssize_t size
    cdef int which = _class_of(bytes, &size)
    cdef bint keep = False
    global _cached
    with _lock:
        _count(-size)
        if _cached + size <= LIMIT:
            keep = True
            head.raw = raw
            head.next = _lists[which]
            _lists[which] = head
            _cached += size
    if not keep:
        free(raw)


# --- large blocks; all of it within the lock --------------------------------------------------------------------------


cdef inline void _link(Piece* piece) noexcept nogil:
    global _free
    piece.free = True
    piece.previous, piece.next = NULL, _free
    if _free != NULL:
        _free.previous = piece
    _free = piece


cdef inline void _unlink(Piece* piece) noexcept nogil:
    global _free
    piece.free = False
    if piece.previous != NULL:
        piece.previous.next = piece.next
    else:
        _free = piece.next
    if piece.next != NULL:
        piece.next.previous = piece.previous


cdef inline Piece* _best(Py_ssize_t size) noexcept nogil:
    cdef Piece* piece = _free
    cdef Piece* best = NULL
    while piece != NULL:
        if piece.size >= size and (best == NULL or piece.size < best.size or piece.size == best.size and piece < best):
            best = piece
        piece = piece.next
    return best


cdef Piece* _new_arena(Py_ssize_t size) noexcept nogil:
    """One free piece of at least `size` bytes."""
    cdef Py_ssize_t bytes = (size + HEAD + ARENA - 1) // ARENA * ARENA
    cdef char* start = fastcnn_new_arena(bytes)
    cdef Piece* piece = <Piece*>((<size_t>start + HEAD - 1) // HEAD * HEAD)
    if start == NULL:
        return NULL
    piece.size, piece.written = (bytes - HEAD - (<char*>piece - start)) // HEAD * HEAD, 0
    piece.arena = start
    piece.before = piece.after = NULL
    _link(piece)
    return piece


cdef Piece* _cut(Py_ssize_t size) noexcept nogil:
    """A piece of `size` bytes, a multiple of 64, which is no longer free; NULL where there is none."""
    global _cached
    cdef Piece* piece = _best(size)
    cdef Piece* rest
    if piece == NULL:
        piece = _new_arena(size)
        if piece == NULL:
            return NULL
    _unlink(piece)
    _cached -= min(piece.written, size)
    if piece.size - size >= LARGE:
        rest = <Piece*>(<char*>piece + HEAD + size)
        rest.size, rest.written = piece.size - size - HEAD, max(0, piece.written - size)
        rest.before, rest.after, rest.arena = piece, piece.after, piece.arena
        if piece.after != NULL:
            piece.after.before = rest
        piece.after, piece.size = rest, size
        _link(rest)
    elif piece.written > size:
        _cached -= piece.written - size
    return piece


cdef Piece* _join(Piece* first, Piece* second) noexcept nogil:
    """Make neighbours that are both free, though not linked, one."""
    first.size += HEAD + second.size
    first.written += second.written
    first.after = second.after
    if second.after != NULL:
        second.after.before = first
    return first


cdef void _leave(Piece* piece) noexcept nogil:
    """Add a piece to the free ones."""
    global _cached
    cdef Py_ssize_t size = piece.size
    piece.written = size
    _cached += size
    if _cached > LIMIT:
        fastcnn_forget(<char*>piece + HEAD, size)
        _cached -= size
        piece.written = 0
    if piece.before != NULL and piece.before.free:
        _unlink(piece.before)
        piece = _join(piece.before, piece)
    if piece.after != NULL and piece.after.free:
        _unlink(piece.after)
        _join(piece, piece.after)
    _link(piece)


cdef void _forget_all() noexcept nogil:
    """Give the pages of all free pieces back, and whole arenas that are free."""
    global _cached
    cdef Piece* piece = _free
    cdef Piece* next
    while piece != NULL:
        next = piece.next
        _cached -= piece.written
        piece.written = 0
        if piece.before == NULL and piece.after == NULL:
            _unlink(piece)
            fastcnn_free_arena(piece.arena, (piece.size + HEAD + ARENA - 1) // ARENA * ARENA)
        else:
            fastcnn_forget(<char*>piece + HEAD, piece.size)
        piece = next


# --- both -------------------------------------------------------------------------------------------------------------


cdef inline void _count(Py_ssize_t bytes) noexcept nogil:
    global _used, _most
    _used += bytes
    _most = max(_most, _used)


cdef char* borrow(Py_ssize_t bytes, void** raw) noexcept:
    """A block of at least `bytes`; NULL where there is no memory."""
    cdef char* start
    if _exact:
        return _take_exact(bytes, raw)
    start = _take(bytes, raw)
    if start == NULL:
        _empty()
        start = _take(bytes, raw)
    return start


cdef char* _take(Py_ssize_t bytes, void** raw) noexcept:
    cdef Py_ssize_t size
    cdef Piece* piece
    if bytes < 0:  # as of a size that overflowed
        return NULL
    if bytes < LARGE:
        return _take_small(max(bytes, 64), raw)
    if bytes > (<Py_ssize_t>1 << 62) - 2 * ARENA:  # below, no sum overflows
        return NULL
    size = (bytes + HEAD - 1) // HEAD * HEAD
    with _lock:
        piece = _cut(size)
        if piece != NULL:
            _count(piece.size)
    raw[0] = piece
    return NULL if piece == NULL else <char*>piece + HEAD


cdef char* _take_exact(Py_ssize_t bytes, void** raw) noexcept:
    cdef char* start = fastcnn_new_exact(bytes)
    raw[0] = start
    if start != NULL:
        with _lock:
            _count(bytes)
        if _fill_nan:
            memset(start, 0xFF, bytes)  # in float32 and in float64
    return start


cdef void give_back(char* start, void* raw, Py_ssize_t bytes) noexcept:
    """Keep a block for its next use."""
    cdef Piece* piece = <Piece*>raw
    if _exact:
        with _lock:
            _count(-bytes)
        fastcnn_free_exact(start)
        return
    if bytes < LARGE:
        _put_small(start, raw, max(bytes, 64))
        return
    with _lock:
        _count(-piece.size)
        _leave(piece)


cdef class Block:
    """A writable buffer of `bytes` bytes, the base of one array; its memory is kept when it dies."""

    def __cinit__(self, Py_ssize_t bytes=0):
        if bytes:
            _fill(self, bytes)

    def __dealloc__(self):
        if self.start != NULL:
            give_back(self.start, self.raw, self.bytes)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.bytes, 0, flags)


cdef int _fill(Block block, Py_ssize_t bytes) except -1:
    block.start = borrow(bytes, &block.raw)
    if block.start == NULL:
        raise MemoryError(f"no memory for an array of {bytes} bytes")
    block.bytes = bytes
    return 0


cdef Block new_block(Py_ssize_t bytes):
    """Block(bytes), for other compiled modules: without a Python call."""
    cdef Block block = Block.__new__(Block)
    _fill(block, bytes)
    return block


def allocator():
    """Return what FASTCNN_ALLOCATOR chose: 'arena', 'malloc' or 'malloc-nan'."""
    return _allocator


def smallest_block():
    """Return from how many bytes on an array has a block; for less, NumPy's own memory is as quick."""
    return 1 if _exact else 4096


def cached_bytes():
    """Return how many bytes wait for their next use."""
    return _cached


def used_bytes():
    """Return how many bytes are in use, and the most that ever were since the last `restart_peak`."""
    return _used, _most


def restart_peak():
    """Let the most bytes in use be those that are now."""
    global _most
    _most = _used


def empty_cache():
    """Give the memory that waits for its next use back to the operating system.

    Results keep theirs. There is no need to call this while training: the memory is used again by the next step. At
    most 2 GiB wait.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.empty_cache()
    """
    _empty()


cdef void _empty() noexcept:
    cdef Free* head
    cdef int which
    global _cached
    with _lock:
        _forget_all()
    for which in range(CLASSES):
        while True:
            with _lock:
                head = _lists[which]
                if head != NULL:
                    _lists[which] = head.next
                    _cached -= <Py_ssize_t>(which % 8 + 8) << (which // 8)
            if head == NULL:
                break
            free(head.raw)
