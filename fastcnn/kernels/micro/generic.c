/* Tiles for any CPU: 16-byte vectors, which every 64-bit target has (SSE2, NEON), 4 x 2 accumulators out of 16 registers. */
#include "micro.h"
#include <string.h>

#define ROWS 4

#define T float
#define LANES 4
#define SUFFIX f32
#define INEXACT
#define LOAD_PART(p, count) ((vec_f32){(p)[0], (count) > 1 ? (p)[1] : 0, (count) > 2 ? (p)[2] : 0, 0})
#define STORE_PART(p, value, count) for (ptrdiff_t i_ = 0; i_ < (count); i_++) (p)[i_] = (value)[i_]
#include "tile.h"

#define T double
#define LANES 2
#define SUFFIX f64
#define LOAD_PART(p, count) ((vec_f64){(p)[0], 0})
#define STORE_PART(p, value, count) ((p)[0] = (value)[0])
#include "tile.h"

const fastcnn_micro fastcnn_micro_generic = {
    "generic", ROWS,
    4, tile_f32, depthwise_f32, depthwise_weights_f32, dots_f32, row_f32, transpose_f32,
    all_finite_f32,
    gather_f32, planar_f32, weave_f32, picked_f32, winners_f32,
    winograd_source_f32, winograd_grad_f32, winograd_dest_f32, winograd_weight_f32, winograd_weight_grad_f32,
    2, tile_f64, depthwise_f64, depthwise_weights_f64, dots_f64, row_f64, transpose_f64,
    all_finite_f64,
    gather_f64, planar_f64, weave_f64, picked_f64, winners_f64,
    winograd_source_f64, winograd_grad_f64, winograd_dest_f64, winograd_weight_f64, winograd_weight_grad_f64,
    {winograd4_source_f32, winograd4_grad_f32, winograd4_dest_f32, winograd4_weight_f32, winograd4_weight_grad_f32},
    {winograd24_source_f32, winograd24_grad_f32, winograd24_dest_f32, winograd24_weight_f32,
     winograd24_weight_grad_f32},
};
