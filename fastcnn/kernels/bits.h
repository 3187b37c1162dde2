/* What elementary.pxd does with the bits of a float: plain integer arithmetic, so that loops around it vectorise. */
#ifndef FASTCNN_BITS_H
#define FASTCNN_BITS_H

#include <stdint.h>

typedef union { float value; uint32_t bits; } fastcnn_bits32;
typedef union { double value; uint64_t bits; } fastcnn_bits64;

/* 2^(n-1) from sum = n + 1.5 * 2^23 (2^52 for a double), whose lowest bits are n: n in [-125, 128] ([-1021, 1024]). */
static inline float fastcnn_half_power32(float sum) {
    fastcnn_bits32 x = {sum};
    x.bits = (x.bits << 23) + (UINT32_C(126) << 23);
    return x.value;
}

static inline double fastcnn_half_power64(double sum) {
    fastcnn_bits64 x = {sum};
    x.bits = (x.bits << 52) + (UINT64_C(1022) << 52);
    return x.value;
}

/* x with the lower half of its significand zeroed, so that its square is exact. */
static inline float fastcnn_upper_half32(float value) {
    fastcnn_bits32 x = {value};
    x.bits &= UINT32_C(0xfffff000);
    return x.value;
}

static inline double fastcnn_upper_half64(double value) {
    fastcnn_bits64 x = {value};
    x.bits &= UINT64_C(0xfffffffff8000000);
    return x.value;
}

#endif
