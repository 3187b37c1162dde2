/* Memory from the operating system for memory.pyx, which keeps it for the next caller. */
#ifndef FASTCNN_MEMORY_H
#define FASTCNN_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

/* Start of a block of at least `bytes`, on a multiple of 64 bytes; *raw is what free() takes. NULL without memory. */
static inline char *fastcnn_new_block(size_t bytes, void **raw) {
    *raw = malloc(bytes + 64);
    return *raw ? (char *)(((uintptr_t)*raw + 63) / 64 * 64) : NULL;
}

/* A block of its own on a multiple of 64 bytes, which ends where it is said to: tools that watch memory see its bounds. */
static inline char *fastcnn_new_exact(size_t bytes) {
#if defined(_WIN32)
    return (char *)_aligned_malloc(bytes, 64);
#else
    void *start = NULL;
    return posix_memalign(&start, 64, bytes) ? NULL : (char *)start;
#endif
}

static inline void fastcnn_free_exact(char *start) {
#if defined(_WIN32)
    _aligned_free(start);
#else
    free(start);
#endif
}

/* An arena: a range of addresses, whose pages are memory only once they are written to where that can be had. */
#if defined(__linux__)
#define FASTCNN_ARENA ((ptrdiff_t)256 << 20)

static inline char *fastcnn_new_arena(size_t bytes) {
    char *start = (char *)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == (char *)MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    madvise(start, bytes, MADV_HUGEPAGE); /* fewer faults and TLB misses; advice: failure changes nothing */
#endif
    return start;
}

static inline void fastcnn_free_arena(char *start, size_t bytes) { munmap(start, bytes); }

/* Give the whole pages of a range back, which is then zeros. */
static inline void fastcnn_forget(char *start, size_t bytes) {
    const uintptr_t page = 4096, first = ((uintptr_t)start + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)start + bytes) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_DONTNEED);
}
#else
#define FASTCNN_ARENA ((ptrdiff_t)32 << 20)

static inline char *fastcnn_new_arena(size_t bytes) { return (char *)malloc(bytes); }
static inline void fastcnn_free_arena(char *start, size_t bytes) { free(start); (void)bytes; }
static inline void fastcnn_forget(char *start, size_t bytes) { (void)start; (void)bytes; }
#endif

#endif
