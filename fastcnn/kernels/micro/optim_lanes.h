/* The updates for one element type T, for the instruction set that the compiler is set to. Included by optim.c, which
   defines

     T, SUFFIX, ROOT    element type, the end of the functions' names, and the square root

   The loops are plain, and the compiler makes vectors of them. No multiplication is contracted with an addition
   (optim.c sees to it), so every instruction set gives the same bits. */

static void NAME(sgd)(ptrdiff_t size, T *p, const T *g, T *b, const T lr, const T momentum, const T part, const T decay,
                      const int nesterov, const int first) {
    for (ptrdiff_t i = 0; i < size; i++) {
        T d = g[i];
        if (decay != 0) d += decay * p[i];
        if (b) {
            b[i] = first ? d : momentum * b[i] + part * d;
            d = nesterov ? d + momentum * b[i] : b[i];
        }
        p[i] -= lr * d;
    }
}

static void NAME(adam)(ptrdiff_t size, T *p, const T *g, T *m, T *v, const T step, const T correction, const T part1,
                       const T beta2, const T part2, const T eps, const T decay, const T shrink) {
    for (ptrdiff_t i = 0; i < size; i++) {
        T d = g[i];
        if (decay != 0) d += decay * p[i];
        m[i] += part1 * (d - m[i]);
        v[i] = beta2 * v[i] + part2 * d * d;
        p[i] = shrink * p[i] - step * m[i] / (ROOT(v[i]) * correction + eps);
    }
}

#undef T
#undef SUFFIX
#undef ROOT
