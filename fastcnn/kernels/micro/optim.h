/* The updates of flat parameter vectors, and the table that each instruction set fills.

   One source, optim_lanes.h, is compiled by optim.c once for each instruction set. */
#ifndef FASTCNN_OPTIM_H
#define FASTCNN_OPTIM_H

#include <stddef.h>

/* sgd:  d = g + decay * p; b = momentum * b + part * d, or d on the first step; p -= lr * b, or, with Nesterov's
         momentum, lr * (d + momentum * b). b is NULL without momentum: p -= lr * d.
   adam: m and v take in d and its square; p = shrink * p - step * m / (correction * sqrt(v) + eps). */
#define FASTCNN_OPTIM(T, suffix)                                                                                      \
    void (*sgd_##suffix)(ptrdiff_t size, T *p, const T *g, T *b, T lr, T momentum, T part, T decay, int nesterov,     \
                         int first);                                                                                  \
    void (*adam_##suffix)(ptrdiff_t size, T *p, const T *g, T *m, T *v, T step, T correction, T part1, T beta2,       \
                          T part2, T eps, T decay, T shrink)

typedef struct {
    FASTCNN_OPTIM(float, f32);
    FASTCNN_OPTIM(double, f64);
} fastcnn_optim;

/* The table for the instruction set that isa.pyx calls `name`. */
const fastcnn_optim *fastcnn_optim_for(const char *name);

#endif
