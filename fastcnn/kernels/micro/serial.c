/* A parallel region for one thread is a call, and nothing more.

   GNU OpenMP sets up a team for it all the same: an allocation, a barrier and a system call, which cost more than the
   small layers of a network at batch 1. Each module of kernels is linked with this function, hidden, in the place of the
   runtime's entry point for `#pragma omp parallel`; for more threads it does what that does. Loops are then shared out
   outside of a region, as OpenMP allows: all to the calling thread. They do not nest there, as a thread has the place of
   one loop only: within a region, though it got no more than one thread, there is a team for each, and a kernel whose
   tasks call kernels has no loop of OpenMP for one thread. Other runtimes have entry points of other names. */
#if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__)

int omp_get_level(void);
void GOMP_parallel_start(void (*body)(void *), void *data, unsigned threads);
void GOMP_parallel_end(void);

__attribute__((visibility("hidden"))) void GOMP_parallel(void (*body)(void *), void *data, unsigned threads,
                                                         unsigned flags) {
    (void)flags; /* of proc_bind, which no region has */
    if (threads == 1 && omp_get_level() == 0) {
        body(data);
        return;
    }
    GOMP_parallel_start(body, data, threads);
    body(data);
    GOMP_parallel_end();
}

#else

typedef int fastcnn_nothing_to_define;

#endif
