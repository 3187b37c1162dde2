"""Memory of results, used again: what an array gives back when it dies serves the next one of about its size.

A training step makes and drops the same arrays every time. From the operating system each would come as fresh pages, to
be mapped and cleared at first touch (a fifth of a ResNet-20 step, where it was measured) and start on any 16 bytes;
these blocks stay mapped and start on a cache line.

A freed block heads the list of its size class: eight classes between one power of two and the next, so that at most an
eighth is wasted. The lists are linked through the blocks themselves and guarded by one lock, in which no Python runs.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free


cdef extern from "memory.h" nogil:
    char* fastcnn_new_block(size_t bytes, void** raw)


cdef struct Free:
    # Lies at the start of a free block.
    Free* next
    void* raw


cdef enum:
    CLASSES = 512

# Bytes that may wait for their next use; what is freed beyond them goes back.
cdef Py_ssize_t LIMIT = <Py_ssize_t>2 << 30
cdef Free* _lists[CLASSES]
cdef Py_ssize_t _cached = 0
cdef cython.pymutex _lock


cdef inline int _class_of(Py_ssize_t bytes, Py_ssize_t* size) noexcept nogil:
    """The size class that holds `bytes` (at least 64), and its size."""
    cdef int shift = 3
    cdef Py_ssize_t eighths
    while bytes >> shift >= 16:
        shift += 1
    eighths = ((bytes - 1) >> shift) + 1
    size[0] = eighths << shift
    return shift * 8 + <int>(eighths - 8)


cdef char* borrow(Py_ssize_t bytes, void** raw) noexcept:
    """A block of at least `bytes`, from its list or from the C library."""
    cdef Free* head
    cdef char* start
    cdef Py_ssize_t size
    cdef int which = _class_of(max(bytes, 64), &size)
    global _cached
    with _lock:
        head = _lists[which]
        if head != NULL:
            _lists[which] = head.next
            _cached -= size
    if head != NULL:
        raw[0] = head.raw
        return <char*>head
    start = fastcnn_new_block(size, raw)
    if start == NULL:
        _empty()
        start = fastcnn_new_block(size, raw)
    return start


cdef void give_back(char* start, void* raw, Py_ssize_t bytes) noexcept:
    """Put a block at the head of its list, or free it where enough wait already."""
    cdef Free* head = <Free*>start
    cdef Py_ssize_t size
    cdef int which = _class_of(max(bytes, 64), &size)
    cdef bint keep = False
    global _cached
    with _lock:
        if _cached + size <= LIMIT:
            keep = True
            head.raw = raw
            head.next = _lists[which]
            _lists[which] = head
            _cached += size
    if not keep:
        free(raw)


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


def cached_bytes():
    """Return how many bytes wait for their next use."""
    return _cached


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
