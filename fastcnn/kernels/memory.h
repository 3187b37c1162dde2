/* Aligned blocks of memory that are kept for the next caller instead of going back to the operating system. */
#ifndef FASTCNN_MEMORY_H
#define FASTCNN_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Start of a block of at least `bytes`, on a multiple of 64 bytes; *raw is what free() takes. NULL without memory. */
static inline char *fastcnn_new_block(size_t bytes, void **raw) {
    size_t align = 64;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= (size_t)4 << 20) align = (size_t)2 << 20; /* worth huge pages: fewer faults and TLB misses */
#endif
    *raw = malloc(bytes + align);
    if (!*raw) return NULL;
    char *start = (char *)(((uintptr_t)*raw + align - 1) / align * align);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align > 64) madvise(start, bytes, MADV_HUGEPAGE); /* advice: failure changes nothing */
#endif
    return start;
}

#endif
