/* The OpenMP calls that threads.pyx makes, with stand-ins for a build without OpenMP. */
#ifndef FASTCNN_OPENMP_SHIM_H
#define FASTCNN_OPENMP_SHIM_H

#ifdef _OPENMP
#include <omp.h>
#define FASTCNN_OPENMP _OPENMP
#else
#define FASTCNN_OPENMP 0
static inline int omp_in_parallel(void) { return 0; }
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_max_threads(void) { return 1; }
#endif

#endif
