/* The transforms of Winograd's F(4x4, 3x3) and F(2x4, 3x3). Part of tile.h, as those of winograd.h, which tells the
   algorithm.

   A line of 4 places reads 6 pixels, at 6 multiplications where its sums have 12. Its polynomials meet at 0, p, -p, q, -q
   and infinity: with p = 5/8, q = 3/2 the errors are half those of the usual 1 and 2, and all of A and B is exact.

          1   1   1   1   1   0          g = 1/((p-q)(p+q)), G rows:  (1, 0, 0)/pp/qq
     A' = 0   p  -p   q  -q   0                                       (1, p, pp) g/2pp,   the same with -p
          0  pp  pp  qq  qq   0                                       (1, q, qq) -g/2qq,  the same with -q
          0 ppp -ppp qqq -qqq 1                                       (0, 0, 1)

   B' row 0: x^4 - (pp+qq) x^2 + ppqq; rows of p, q: x (x+p) (x^2-qq), x (x+q) (x^2-pp); the last: x times row 0. All six
   elements of a line meet in most sums, so each result's error is relative to the largest of its tile. */

#define P ((T)0.625)
#define Q ((T)1.5)
#define PP (P * P)
#define QQ (Q * Q)
#define G0 ((T)(256.0 / 225))
#define GP ((T)(-2048.0 / 2975))
#define GQ ((T)(128.0 / 1071))
#define HUGE_SCALE ((T)(1 << 27)) /* takes what is beyond 1e30 out of range */

INLINE void NAME(winograd4_b)(const VEC *d, ptrdiff_t step, VEC *v) {
    const VEC d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    const VEC even_p = d4 - d2 * QQ, odd_p = d3 - d1 * QQ, even_q = d4 - d2 * PP, odd_q = d3 - d1 * PP;
    v[0] = (d4 - d2 * (PP + QQ)) + d[0] * (PP * QQ);
    v[1] = even_p + odd_p * P;
    v[2] = even_p - odd_p * P;
    v[3] = even_q + odd_q * Q;
    v[4] = even_q - odd_q * Q;
    v[5] = (d[5 * step] - d3 * (PP + QQ)) + d1 * (PP * QQ);
}

INLINE void NAME(winograd4_a)(const VEC *d, ptrdiff_t step, VEC *v) {
    const VEC even_p = d[0] + d[2 * step] * PP, odd_p = d[step] + d[3 * step] * PP;
    const VEC even_q = d[0] + d[2 * step] * QQ, odd_q = d[step] + d[3 * step] * QQ;
    v[0] = d[0];
    v[1] = even_p + odd_p * P;
    v[2] = even_p - odd_p * P;
    v[3] = even_q + odd_q * Q;
    v[4] = even_q - odd_q * Q;
    v[5] = d[3 * step];
}

INLINE void NAME(winograd4_a_transposed)(const VEC *m, ptrdiff_t step, VEC *y) {
    const VEC sum_p = m[step] + m[2 * step], minus_p = m[step] - m[2 * step];
    const VEC sum_q = m[3 * step] + m[4 * step], minus_q = m[3 * step] - m[4 * step];
    y[0] = m[0] + (sum_p + sum_q);
    y[1] = minus_p * P + minus_q * Q;
    y[2] = sum_p * PP + sum_q * QQ;
    y[3] = (minus_p * (P * PP) + minus_q * (Q * QQ)) + m[5 * step];
}

INLINE void NAME(winograd4_g)(VEC w0, VEC w1, VEC w2, VEC *u) {
    const VEC even_p = (w0 + w2 * PP) * GP, odd_p = w1 * (P * GP), even_q = (w0 + w2 * QQ) * GQ, odd_q = w1 * (Q * GQ);
    u[0] = w0 * G0;
    u[1] = even_p + odd_p;
    u[2] = even_p - odd_p;
    u[3] = even_q + odd_q;
    u[4] = even_q - odd_q;
    u[5] = w2;
}

INLINE void NAME(winograd4_g_transposed)(const VEC *u, ptrdiff_t step, VEC *w) {
    const VEC sum_p = (u[step] + u[2 * step]) * GP, minus_p = (u[step] - u[2 * step]) * (P * GP);
    const VEC sum_q = (u[3 * step] + u[4 * step]) * GQ, minus_q = (u[3 * step] - u[4 * step]) * (Q * GQ);
    w[0] = u[0] * G0 + (sum_p + sum_q);
    w[1] = minus_p + minus_q;
    w[2] = (sum_p * PP + sum_q * QQ) + u[5 * step];
}

#define STEP 4
#define TILES(x) NAME(winograd4_##x)
#define DOWN(x) NAME(winograd4_##x)
#include "winograd4_tiles.h"

#define STEP 2
#define TILES(x) NAME(winograd24_##x)
#define DOWN(x) NAME(winograd_##x)
#include "winograd4_tiles.h"

#undef P
#undef Q
#undef PP
#undef QQ
#undef G0
#undef GP
#undef GQ
#undef HUGE_SCALE
