/* The lanes of pooling for one element type T and one vector length. Included twice by each instruction set's part of
   pool.c, which defines

     T, I, LANES, SUFFIX    element type, signed integer of its size, elements of a register, name of both together
     LOAD_PART, STORE_PART  (pointer, count) -> vector, (pointer, vector, count): count < LANES elements
     PICK                   (pointer, step) -> LANES elements as an initialiser
     WIDEN, NARROW          (bytes) -> vector of I, (bytes, vector of I): LANES unsigned bytes
     LOADED                 (vector) to say that it is loaded by now

   Two registers of lanes go through a run together, their results in locals of a function that is inlined with a
   constant number of registers; a rest of fewer than LANES takes partial loads. */

typedef T VEC __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

INLINE VEC NAME(load)(const T *p, const ptrdiff_t step, const ptrdiff_t n) {
    if (step == 1) return n == LANES ? *(const VEC *)p : (VEC)LOAD_PART(p, n);
    if (n == LANES) return (VEC){PICK(p, step)};
    T part[LANES] = {0};
    for (ptrdiff_t k = 0; k < n; k++) part[k] = p[k * step];
    return *(const VEC *)part;
}

INLINE void NAME(store)(T *p, const VEC value, const ptrdiff_t step, const ptrdiff_t n) {
    if (step == 1 && n == LANES) *(VEC *)p = value;
    else if (step == 1) STORE_PART(p, value, n);
    else for (ptrdiff_t k = 0; k < n; k++) p[k * step] = value[k];
}

INLINE void NAME(store_tags)(void *tags, const int tag_bytes, const INTS offset, ptrdiff_t tag, ptrdiff_t lane_tag,
                             const ptrdiff_t n) {
    if (tag_bytes == 1 && n == LANES) {
        NARROW((uint8_t *)tags, offset + (I)tag);
        return;
    }
    if (tag_bytes == 1) for (ptrdiff_t k = 0; k < n; k++) ((uint8_t *)tags)[k] = (uint8_t)(tag + offset[k]);
    else if (tag_bytes == 4) for (ptrdiff_t k = 0; k < n; k++) ((int32_t *)tags)[k] = (int32_t)(tag + offset[k]);
    else for (ptrdiff_t k = 0; k < n; k++) ((int64_t *)tags)[k] = tag + k * lane_tag + offset[k];
}

INLINE INTS NAME(load_taps)(const void *taps, const int tap_bytes) {
    if (tap_bytes == 1) return (INTS)WIDEN((const uint8_t *)taps);
    I wide[LANES];
    for (ptrdiff_t k = 0; k < LANES; k++) wide[k] = ((const int32_t *)taps)[k];
    return *(const INTS *)wide;
}

/* --- max ---------------------------------------------------------------------------------------------------------- */

INLINE void NAME(max_lanes)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *source,
                            const ptrdiff_t step, T *output, char *tags, const int tag_bytes, ptrdiff_t tag) {
    const ptrdiff_t rows = r->rows, columns = r->columns, row_step = r->row_step, column_step = r->column_step;
    const INTS row_tag = (INTS){0} + (I)r->row_tag, column_tag = (INTS){0} + (I)r->column_tag;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        VEC best[2];
        INTS winner[2] = {{0}, {0}}; /* numbers are counted from the first element's here */
        INTS row_number = {0};
        const T *row = source;
        for (int k = 0; k < registers; k++) best[k] = NAME(load)(source + k * LANES * step, step, n);
        ptrdiff_t first = 1; /* the first element is in already */
        for (ptrdiff_t i = rows; i > 0; i--) {
            INTS number = row_number + (I)first * column_tag;
            const T *p = row + first * column_step;
            for (ptrdiff_t j = columns - first; j > 0; j--) {
                for (int k = 0; k < registers; k++) {
                    const VEC value = NAME(load)(p + k * LANES * step, step, n);
                    const INTS better = ~(value <= best[k]) & (best[k] == best[k]); /* larger, or the first NaN */
                    best[k] = (VEC)((better & (INTS)value) | (~better & (INTS)best[k]));
                    if (tag_bytes) winner[k] = (better & number) | (~better & winner[k]);
                }
                p += column_step;
                number += column_tag;
            }
            first = 0;
            row += row_step;
            row_number += row_tag;
        }
        for (int k = 0; k < registers; k++) {
            NAME(store)(output + k * LANES, best[k], 1, n);
            if (tag_bytes)
                NAME(store_tags)(tags + k * LANES * tag_bytes, tag_bytes, winner[k], tag + k * LANES * r->lane_tag,
                                 r->lane_tag, n);
        }
        source += r->place_in;
        output += r->place_out;
        tags += r->place_out * tag_bytes;
        tag += r->place_tag;
    }
}

INLINE void NAME(max_blocks)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, char *tags,
                             const int tag_bytes) {
    const ptrdiff_t lanes = r->lanes;
    ptrdiff_t at = 0;
    source += r->first;
#define BLOCK(registers, n)                                                                                         \
    NAME(max_lanes)(registers, n, r, source + at * step, step, output + at, tags + at * tag_bytes, tag_bytes,       \
                    r->tag + at * r->lane_tag)
    for (; at + 2 * LANES <= lanes; at += 2 * LANES) BLOCK(2, LANES);
    if (at + LANES <= lanes) {
        BLOCK(1, LANES);
        at += LANES;
    }
    if (at < lanes) BLOCK(1, lanes - at);
#undef BLOCK
}

static void NAME(max)(const fastcnn_run *r, const T *source, T *output, void *tags, int tag_bytes) {
    if (r->lane_in != 1) {
        if (tag_bytes) NAME(max_blocks)(r, source, r->lane_in, output, tags, tag_bytes);
        else NAME(max_blocks)(r, source, r->lane_in, output, tags, 0);
    } else if (tag_bytes == 1) NAME(max_blocks)(r, source, 1, output, tags, 1);
    else if (tag_bytes) NAME(max_blocks)(r, source, 1, output, tags, tag_bytes);
    else NAME(max_blocks)(r, source, 1, output, tags, 0);
}

/* --- route -------------------------------------------------------------------------------------------------------- */

INLINE void NAME(route_lanes)(const int registers, const fastcnn_run *r, const T *grad, const char *taps,
                              const int tap_bytes, T *output) {
    const ptrdiff_t rows = r->rows, columns = r->columns, row_step = r->row_step, column_step = r->column_step;
    const INTS row_tag = (INTS){0} + (I)r->row_tag, column_tag = (INTS){0} + (I)r->column_tag;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        VEC total[2] = {{0}, {0}};
        INTS row_number = (INTS){0} + (I)r->tag;
        const T *row = grad;
        const char *row_taps = taps;
        for (ptrdiff_t i = rows; i > 0; i--) {
            INTS number = row_number;
            const T *p = row;
            const char *mark = row_taps;
            for (ptrdiff_t j = columns; j > 0; j--) {
                for (int k = 0; k < registers; k++) {
                    VEC value = *(const VEC *)(p + k * LANES);
                    LOADED(value);
                    const INTS won = NAME(load_taps)(mark + k * LANES * tap_bytes, tap_bytes) == number;
                    total[k] += (VEC)(won & (INTS)value);
                }
                p += column_step;
                mark += column_step * tap_bytes;
                number += column_tag;
            }
            row += row_step;
            row_taps += row_step * tap_bytes;
            row_number += row_tag;
        }
        for (int k = 0; k < registers; k++) *(VEC *)(output + k * LANES) = total[k];
        grad += r->place_in;
        taps += r->place_in * tap_bytes;
        output += r->place_out;
    }
}

INLINE void NAME(route_blocks)(const fastcnn_run *r, const T *grad, const char *taps, const int tap_bytes, T *output) {
    const ptrdiff_t lanes = r->lanes;
    ptrdiff_t at = 0;
    grad += r->first;
    taps += r->first * tap_bytes;
#define BLOCK(registers) NAME(route_lanes)(registers, r, grad + at, taps + at * tap_bytes, tap_bytes, output + at)
    for (; at + 2 * LANES <= lanes; at += 2 * LANES) BLOCK(2);
    for (; at < lanes; at += LANES) {
        if (at > lanes - LANES) at = lanes - LANES; /* the last block may write some lanes again, the same */
        BLOCK(1);
    }
#undef BLOCK
}

static void NAME(route)(const fastcnn_run *r, const T *grad, const void *taps, int tap_bytes, T *output) {
    if (tap_bytes == 1) NAME(route_blocks)(r, grad, taps, 1, output);
    else NAME(route_blocks)(r, grad, taps, 4, output);
}

/* --- mean --------------------------------------------------------------------------------------------------------- */

/* Each row's sum first, then the rows: rounding errors grow with rows + columns instead of rows * columns. */
INLINE void NAME(mean_lanes)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *source,
                             const ptrdiff_t step, T *output, const T divisor, const int add) {
    const ptrdiff_t rows = r->rows, columns = r->columns, row_step = r->row_step, column_step = r->column_step;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        VEC total[2] = {{0}, {0}};
        const T *row = source;
        for (ptrdiff_t i = rows; i > 0; i--) {
            VEC sum[2] = {{0}, {0}};
            const T *p = row;
            for (ptrdiff_t j = columns; j > 0; j--) {
                for (int k = 0; k < registers; k++) sum[k] += NAME(load)(p + k * LANES * step, step, n);
                p += column_step;
            }
            for (int k = 0; k < registers; k++) total[k] += sum[k];
            row += row_step;
        }
        for (int k = 0; k < registers; k++) {
            T *out = output + k * LANES * r->lane_out;
            VEC mean = total[k] / ((VEC){0} + divisor);
            if (add) mean += NAME(load)(out, r->lane_out, n);
            NAME(store)(out, mean, r->lane_out, n);
        }
        source += r->place_in;
        output += r->place_out;
    }
}

INLINE void NAME(mean_blocks)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, const T divisor,
                              const int add) {
    const ptrdiff_t lanes = r->lanes;
    ptrdiff_t at = 0;
    source += r->first;
#define BLOCK(registers, n) \
    NAME(mean_lanes)(registers, n, r, source + at * step, step, output + at * r->lane_out, divisor, add)
    for (; at + 2 * LANES <= lanes; at += 2 * LANES) BLOCK(2, LANES);
    if (at + LANES <= lanes) {
        BLOCK(1, LANES);
        at += LANES;
    }
    if (at < lanes) BLOCK(1, lanes - at);
#undef BLOCK
}

/* A single lane with long contiguous rows (a global mean of an NCHW plane): the columns fill the register. */
INLINE T NAME(mean_of_plane)(const fastcnn_run *r, const T *source, const T divisor) {
    T total = 0;
    for (ptrdiff_t i = 0; i < r->rows; i++, source += r->row_step) {
        VEC sums = {0};
        ptrdiff_t j = 0;
        for (; j + LANES <= r->columns; j += LANES) sums += *(const VEC *)(source + j);
        if (j < r->columns) sums += (VEC)LOAD_PART(source + j, r->columns - j);
        T row = 0;
        for (int k = 0; k < LANES; k++) row += sums[k];
        total += row;
    }
    return total / divisor;
}

static void NAME(mean)(const fastcnn_run *r, const T *source, T *output, ptrdiff_t divisor, int add) {
    if (r->lanes == 1 && r->places == 1 && r->column_step == 1 && r->columns >= LANES) {
        const T mean = NAME(mean_of_plane)(r, source + r->first, (T)divisor);
        *output = add ? *output + mean : mean;
    } else if (r->lane_in == 1) NAME(mean_blocks)(r, source, 1, output, (T)divisor, add);
    else NAME(mean_blocks)(r, source, r->lane_in, output, (T)divisor, add);
}

#undef T
#undef I
#undef LANES
#undef SUFFIX
#undef LOAD_PART
#undef STORE_PART
#undef PICK
#undef WIDEN
#undef NARROW
