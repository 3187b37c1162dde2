/* Products on the bf16 matrix unit (AMX), with the accuracy of one, three or six bf16 products for each of fp32.

   A float is the sum of three bf16 numbers of 8 bits each: hi = x rounded to bf16, mid = (x - hi) rounded, lo = what is
   left, which needs no rounding. For two such sums the unit adds up, in fp32,

       planes 1:  hi hi
       planes 2:  hi hi + hi mid + mid hi                              (lo is not made)
       planes 3:  hi hi + hi mid + mid hi + hi lo + mid mid + lo hi    (what is left out is below 2^-24 of the product)

   the small ones of a step first. The idea is that of Henry, Tang & Heinecke, "Leveraging the bfloat16 Artificial
   Intelligence Datatype For Higher-Precision Computations" (ARITH 2019).

   Tiling: eight tile registers of 16 rows by 64 bytes. Tiles 0 to 3 accumulate 2x2 blocks of 16x16 floats, 4 and 5 hold rows of a, 6 and 7 columns of b: with six products 14 tile loads (8 cycles each from L1) stand
   beside 24 multiplications (16 cycles each), and four accumulators cover the 52 cycles that one takes to finish.

   Facts (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18 and volume 2, "TDPBF16PS";
   Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter "Intel AMX"):
   - TDPBF16PS multiplies pairs: a row of a holds k, k+1, k+2 ..., a row of b the pairs (k, k+1) of 16 columns. Which
     channels or pixels make a pair is free as long as both sides agree, and here it is always what `split` does: row i
     of one operand's floats beside the row `apart` further, so that no vector is shuffled.
   - It treats denormals as zeros, flushes denormal results, rounds to nearest even, and neither reads nor writes MXCSR.
     So matrix.pyx leaves sums that this could change to the FMA tiles, as well as those that may overflow.
   - A tile row that crosses a cache line is loaded in two parts: rows are 64-byte aligned.
   - Linux grants the 8 KB of state once a process, by arch_prctl(ARCH_REQ_XCOMP_PERM) (kernel documentation, "Using
     XSTATE features in user space applications"); the configuration belongs to a thread. The calling convention has
     all tile registers as temporary (System V ABI, AMD64 supplement), so that only the configuration is put back.
   - The intrinsics of GCC 12 do not tell that tile loads read memory: a barrier stands before them.

   amx_model.c includes this file with FASTCNN_AMX_SOFTWARE and gets the same functions over a model of the five
   instructions, which computes what the manual's pseudocode does, so that everything here can be tested where there is
   AVX-512 but no matrix unit. */
#include "amx.h"
#include "target.h"

#ifdef FASTCNN_AMX
FASTCNN_BEGIN(FASTCNN_AVX512 ",amx-tile,amx-bf16")
#include <immintrin.h>
#include <string.h>

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;

/* --- the five instructions, and the configuration ------------------------------------------------------------------ */

#ifdef FASTCNN_AMX_SOFTWARE

static __thread struct {
    config set;
    uint32_t tile[8][16][16];
} unit;

#define TILE_CONFIGURE(from) (memset(&unit, 0, sizeof unit), memcpy(&unit.set, from, 64))
#define TILE_CONFIGURATION(to) memcpy(to, &unit.set, 64)
#define TILE_RELEASE() memset(&unit, 0, sizeof unit)
#define TILE_ZERO(t) memset(unit.tile[t], 0, 1024)
#define TILE_LOAD(t, from, pitch) move_rows((char *)unit.tile[t], 64, from, pitch)
#define TILE_STORE(t, to, pitch) move_rows(to, pitch, (const char *)unit.tile[t], 64)
#define TILE_MULTIPLY(c, a, b) multiply(unit.tile[c], unit.tile[a], unit.tile[b])

static void move_rows(char *to, ptrdiff_t to_pitch, const char *from, ptrdiff_t from_pitch) {
    for (int r = 0; r < 16; r++) memcpy(to + r * to_pitch, from + r * from_pitch, 64);
}

/* TDPBF16PS: even and odd terms are summed apart, each from 0 by fused multiply-adds, then added, then added to c. */
__attribute__((noinline)) static void multiply(uint32_t c[16][16], uint32_t a[16][16], uint32_t b[16][16]) {
    const unsigned kept = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* flush to zero, denormals are zeros, to nearest even, no exceptions */
    const __m512i odd_half = _mm512_set1_epi32((int)0xffff0000);
    for (int m = 0; m < 16; m++) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < 16; k++) {
            const __m512i x = _mm512_set1_epi32((int)a[m][k]), y = _mm512_loadu_si512(b[k]);
            even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                                   _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), even);
            odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, odd_half)),
                                  _mm512_castsi512_ps(_mm512_and_si512(y, odd_half)), odd);
        }
        _mm512_storeu_ps(c[m], _mm512_add_ps(_mm512_loadu_ps(c[m]), _mm512_add_ps(even, odd)));
    }
    _mm_setcsr(kept);
}

#else

/* The intrinsics of GCC 12 name only the first 8 of the 64 bytes. */
#define TILE_CONFIGURE(from) __asm__ volatile("ldtilecfg %0" : : "m"(*(const config *)(from)))
#define TILE_CONFIGURATION(to) __asm__ volatile("sttilecfg %0" : "=m"(*(config *)(to)))
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from, pitch) _tile_loadd(t, from, pitch)
#define TILE_STORE(t, to, pitch) _tile_stored(t, to, pitch)
#define TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

#include <sys/syscall.h>
#include <unistd.h>

enum { GET_SUPPORTED = 0x1021, ASK_PERMISSION = 0x1023, TILE_CONFIG = 17, TILE_DATA = 18 };

int fastcnn_has_amx(void) {
    unsigned a, b, c, d, low, high;
    unsigned long supported = 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    if (a < 7) return 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    if (!(c >> 27 & 1)) return 0; /* OSXSAVE */
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0; /* AMX-BF16, AMX-TILE */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!(low >> TILE_CONFIG & 1) || !(low >> TILE_DATA & 1)) return 0;
    return syscall(SYS_arch_prctl, GET_SUPPORTED, &supported) == 0 && (supported >> TILE_DATA & 1);
}

int fastcnn_allow_amx(void) { return syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) == 0; }

#endif

static void begin(void *kept) {
    config wanted = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        wanted.row_bytes[t] = 64;
        wanted.rows[t] = 16;
    }
    TILE_CONFIGURATION(kept);
    TILE_CONFIGURE(&wanted);
}

static void end(const void *kept) {
    if (((const config *)kept)->palette) TILE_CONFIGURE(kept);
    else TILE_RELEASE();
}

/* --- products ------------------------------------------------------------------------------------------------------ */

/* Steps of six products that the accumulators add up before they are added to what the sum has so far: its rounding
   errors, of which each step makes six, then stay as small as those of the FMA tiles, whose sums come in parts too. */
#define RUN 32

INLINE void load_a(int m, const fastcnn_steps *s, const char *a, int plane) {
    a += plane * s->a_plane;
    TILE_LOAD(4, a, 64);
    if (m == 2) TILE_LOAD(5, a + s->a_tile, 64);
}

INLINE void load_b(int n, const fastcnn_steps *s, const char *b, int plane) {
    b += plane * s->b_plane;
    TILE_LOAD(6, b, 64);
    if (n == 2) TILE_LOAD(7, b + s->b_tile, 64);
}

INLINE void multiply_all(int m, int n) {
    TILE_MULTIPLY(0, 4, 6);
    if (n == 2) TILE_MULTIPLY(1, 4, 7);
    if (m == 2) TILE_MULTIPLY(2, 5, 6);
    if (m == 2 && n == 2) TILE_MULTIPLY(3, 5, 7);
}

INLINE void zero_all(void) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

/* c = or += the accumulators. */
INLINE void put_all(int m, int n, float *c, int add) {
    float part[32 * 32] __attribute__((aligned(64)));
    float *const to = add ? part : c;
    TILE_STORE(0, (char *)to, 128);
    if (n == 2) TILE_STORE(1, (char *)(to + 16), 128);
    if (m == 2) TILE_STORE(2, (char *)(to + 512), 128);
    if (m == 2 && n == 2) TILE_STORE(3, (char *)(to + 528), 128);
    if (!add) return;
    for (int r = 0; r < m * 16; r++)
        for (int o = 0; o < n * 16; o++) c[r * 32 + o] += part[r * 32 + o];
}

INLINE void product_body(const int planes, const int m, const int n, const fastcnn_steps *steps, const char *a,
                         const char *b, float *c, int add) {
    const fastcnn_steps s = *steps;
    int left = RUN;
    __asm__ volatile("" ::: "memory");
    zero_all();
    for (ptrdiff_t q = 0; q < s.outer; q++) {
        for (ptrdiff_t t = 0; t < s.inner; t++) {
            const char *const x = a + q * s.a_outer + (s.a_offset ? s.a_offset[t] : t * s.a_inner);
            const char *const y = b + q * s.b_outer + t * s.b_inner;
            if (planes == 3 && left-- == 0) {
                put_all(m, n, c, add);
                zero_all();
                add = 1;
                left = RUN - 1;
            }
            if (planes == 1) {
                load_a(m, &s, x, 0), load_b(n, &s, y, 0), multiply_all(m, n);
            } else if (planes == 2) {
                load_a(m, &s, x, 0), load_b(n, &s, y, 1), multiply_all(m, n);
                load_b(n, &s, y, 0), multiply_all(m, n);
                load_a(m, &s, x, 1), multiply_all(m, n);
            } else {
                load_a(m, &s, x, 0), load_b(n, &s, y, 2), multiply_all(m, n);
                load_b(n, &s, y, 1), multiply_all(m, n);
                load_b(n, &s, y, 0), multiply_all(m, n);
                load_a(m, &s, x, 2), multiply_all(m, n);
                load_a(m, &s, x, 1), multiply_all(m, n);
                load_b(n, &s, y, 1), multiply_all(m, n);
            }
        }
    }
    put_all(m, n, c, add);
}

#define PRODUCTS(planes)                                                                     \
    static void product_##planes(int m, int n, const fastcnn_steps *s, const char *a,        \
                                 const char *b, float *c, int add) {                         \
        if (m == 2 && n == 2) product_body(planes, 2, 2, s, a, b, c, add);                   \
        else if (m == 2) product_body(planes, 2, 1, s, a, b, c, add);                        \
        else if (n == 2) product_body(planes, 1, 2, s, a, b, c, add);                        \
        else product_body(planes, 1, 1, s, a, b, c, add);                                    \
    }
PRODUCTS(1)
PRODUCTS(2)
PRODUCTS(3)

static void product(int planes, int m, int n, const fastcnn_steps *steps, const char *a, const char *b, float *c,
                    int add) {
    if (planes == 1) product_1(m, n, steps, a, b, c, add);
    else if (planes == 2) product_2(m, n, steps, a, b, c, add);
    else product_3(m, n, steps, a, b, c, add);
}

/* --- splitting and storing ----------------------------------------------------------------------------------------- */

typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));

#define HIGH_HALF 0xffff0000u

/* The nearest bf16 number, ties to even, as a float: for numbers whose rounding does not overflow. */
INLINE words rounded(words x) { return (x + (0x7fff + (x >> 16 & 1))) & HIGH_HALF; }

/* x as up to three bf16 numbers in the high halves of `out`. */
INLINE void split_row(const int planes, words x, words out[3]) {
    out[0] = rounded(x);
    if (planes == 1) return;
    const floats rest = (floats)x - (floats)out[0];
    out[1] = rounded((words)rest);
    if (planes == 3) out[2] = (words)(rest - (floats)out[1]) & HIGH_HALF;
}

INLINE words larger(words a, words b) { return (words)_mm512_max_epu32((__m512i)a, (__m512i)b); }

/* Stage s: rows r and r + s swap the columns that differ in bit s. */
INLINE void transpose_tile(words rows[16]) {
#define STAGE(s, l0, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10, l11, l12, l13, l14, l15)                                 \
    _Pragma("GCC unroll 16") for (int r = 0; r < 16; r++) {                                                            \
        if (r & s) continue;                                                                                           \
        const words a = rows[r], b = rows[r + s];                                                                      \
        rows[r] = __builtin_shufflevector(a, b, l0, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10, l11, l12, l13, l14, l15); \
        rows[r + s] = __builtin_shufflevector(a, b, l0 + s, l1 + s, l2 + s, l3 + s, l4 + s, l5 + s, l6 + s, l7 + s,    \
                                              l8 + s, l9 + s, l10 + s, l11 + s, l12 + s, l13 + s, l14 + s, l15 + s);   \
    }
    STAGE(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
    STAGE(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
    STAGE(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
    STAGE(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#undef STAGE
}

INLINE uint32_t split_body(const int planes, const int transposed, ptrdiff_t count, const float *x, ptrdiff_t pitch,
                           ptrdiff_t apart, char *out, ptrdiff_t plane) {
    words largest = {0};
    for (ptrdiff_t i = 0; i < count; i++, x += pitch) {
        const words first = *(const words *)x, second = *(const words *)(x + apart);
        words u[3], v[3];
        largest = larger(larger(largest, first & 0x7fffffff), second & 0x7fffffff);
        split_row(planes, first, u);
        split_row(planes, second, v);
        for (int p = 0; p < planes; p++) *(words *)(out + p * plane + i * 64) = u[p] >> 16 | v[p];
        if (transposed && i % 16 == 15) {
            for (int p = 0; p < planes; p++) {
                words rows[16];
                words *const tile = (words *)(out + p * plane + (i - 15) * 64);
                for (int r = 0; r < 16; r++) rows[r] = tile[r];
                transpose_tile(rows);
                for (int r = 0; r < 16; r++) tile[r] = rows[r];
            }
        }
    }
    uint32_t result = 0;
    for (int i = 0; i < 16; i++) result = largest[i] > result ? largest[i] : result;
    return result;
}

static uint32_t split(int planes, ptrdiff_t rows, const float *x, ptrdiff_t pitch, ptrdiff_t apart, char *out,
                      ptrdiff_t plane) {
    if (planes == 1) return split_body(1, 0, rows, x, pitch, apart, out, plane);
    if (planes == 2) return split_body(2, 0, rows, x, pitch, apart, out, plane);
    return split_body(3, 0, rows, x, pitch, apart, out, plane);
}

static uint32_t split_transposed(int planes, ptrdiff_t rows, const float *x, ptrdiff_t pitch, ptrdiff_t apart, char *out,
                                 ptrdiff_t plane) {
    if (planes == 1) return split_body(1, 1, rows, x, pitch, apart, out, plane);
    if (planes == 2) return split_body(2, 1, rows, x, pitch, apart, out, plane);
    return split_body(3, 1, rows, x, pitch, apart, out, plane);
}

static void transpose(ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t pitch, float *out) {
    for (; n > 0; n -= 16, x += 16, out += 256) {
        const __mmask16 some = n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
        words tile[16];
        for (ptrdiff_t r = 0; r < 16; r++)
            tile[r] = r < rows ? (words)_mm512_maskz_loadu_ps(some, x + r * pitch) : (words){0};
        transpose_tile(tile);
        for (ptrdiff_t k = 0; k < 16 && k < n; k++) *(words *)(out + k * 16) = tile[k];
    }
}

static void store(ptrdiff_t m, ptrdiff_t n, const float *tile, const float *init, float *out, ptrdiff_t pitch) {
    if (n == 32) {
        const floats first = *(const floats *)init, second = *(const floats *)(init + 16);
        for (ptrdiff_t r = 0; r < m; r++, tile += 32, out += pitch) {
            *(floats *)out = *(const floats *)tile + first;
            *(floats *)(out + 16) = *(const floats *)(tile + 16) + second;
        }
        return;
    }
    for (ptrdiff_t r = 0; r < m; r++)
        for (ptrdiff_t o = 0; o < n; o++) out[r * pitch + o] = tile[r * 32 + o] + init[o];
}

/* The FMA tiles are ahead at 16 channels, which fill half a tile's depth; at 32 all of it is used. */
#ifdef FASTCNN_AMX_SOFTWARE
const fastcnn_matrix fastcnn_matrix_model = {1, begin, end, product, split, split_transposed, transpose, store};
#else
const fastcnn_matrix fastcnn_matrix_amx = {32, begin, end, product, split, split_transposed, transpose, store};
#endif

FASTCNN_END
#endif
