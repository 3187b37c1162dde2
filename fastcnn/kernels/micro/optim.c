/* The updates of parameters for each instruction set: optim_lanes.h compiled for 16, 32 and 64 byte vectors. */
#include "optim.h"
#include "target.h"

#include <math.h>
#include <string.h>


#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define TABLE(isa) {sgd_##isa##_f32, adam_##isa##_f32, sgd_##isa##_f64, adam_##isa##_f64}

/* --- any CPU ------------------------------------------------------------------------------------------------------ */

#define T float
#define SUFFIX generic_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX generic_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_generic = TABLE(generic);

#ifdef FASTCNN_X86

/* --- AVX2 --------------------------------------------------------------------------------------------------------- */

FASTCNN_BEGIN(FASTCNN_AVX2)

#define T float
#define SUFFIX avx2_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX avx2_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_avx2 = TABLE(avx2);

FASTCNN_END

/* --- AVX-512 ------------------------------------------------------------------------------------------------------ */

FASTCNN_BEGIN(FASTCNN_AVX512)

#define T float
#define SUFFIX avx512_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX avx512_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_avx512 = TABLE(avx512);

FASTCNN_END
#endif

FASTCNN_TABLE_FOR(optim)
