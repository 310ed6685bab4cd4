/* runtime/ops/ops_cpu_body_attention_int8.h - window attention on codes for one instruction set. Compiled once for each
 * table (ops_cpu_kernels.h), after ops_cpu_body_int8.h.
 *
 * A head's keys and values are packed once; then ROWS queries at a time go all the way: scores, softmax, probabilities as
 * codes, their sums with the values.
 */
typedef int8_t codes16 __attribute__((vector_size(16)));

/* Where a head's matrices lie in the scratch memory, in 32-bit words; swin_cpu_head_s8_room adds these up. */
typedef struct head_room {
    int64_t key_words, key_cols, value_words, value_cols, unit_words;
    int32_t *keys;   /* [key_cols / COLS][key_words][COLS] */
    int32_t *starts; /* [key_cols] */
    int32_t *values; /* [value_cols / COLS][value_words][COLS] */
    int32_t *inputs; /* [ROWS][key_words]: queries */
    int32_t *scores; /* [ROWS][key_cols]; float32 after the first pass of the softmax */
    int32_t *units;  /* [ROWS][unit_words]: probabilities as inputs */
} head_room;

static head_room head_room_of(const swin_cpu_head_s8 *h, int32_t *room)
{
    head_room m = { .key_words = (h->size + GROUP - 1) / GROUP,
                    .key_cols = (h->tokens + COLS - 1) / COLS * COLS,
                    .value_words = (h->tokens + GROUP - 1) / GROUP,
                    .value_cols = (h->size + COLS - 1) / COLS * COLS };
    m.unit_words = m.key_cols / GROUP;
    m.keys = room;
    m.starts = m.keys + m.key_cols * m.key_words;
    m.values = m.starts + m.key_cols;
    m.inputs = m.values + m.value_cols * m.value_words;
    m.scores = m.inputs + ROWS * m.key_words;
    m.units = m.scores + ROWS * m.key_cols;
    return m;
}

/* Keys become columns; a column starts at what takes the queries' offset off again. */
static void pack_keys(const head_room *m, const swin_cpu_head_s8 *h)
{
    memset(m->keys, 0, (size_t)(m->key_cols * m->key_words) * sizeof *m->keys);
    for (int t = 0; t < h->tokens; t++) {
        const int8_t *k = h->k + t * h->ldk;
        int32_t *to = m->keys + t / COLS * m->key_words * COLS + t % COLS;
        int64_t w = 0;
        if (GROUP == 4) /* a word is its codes */
            for (; (w + 1) * GROUP <= h->size; w++) memcpy(to + w * COLS, k + w * GROUP, sizeof *to);
        for (; w < m->key_words; w++) to[w * COLS] = weight_word(k + w * GROUP, 1, h->size - w * GROUP);
    }
    for (int64_t c = 0; c < m->key_cols; c += VL) {
        const int32_t *word = m->keys + c / COLS * m->key_words * COLS + c % COLS;
        vi sum = { 0 };
        for (int64_t w = 0; OFFSET && w < m->key_words; w++)
            sum = dot_words(sum, 0x01010101, vi_load(word + w * COLS));
        vi_store(m->starts + c, sum * -OFFSET);
    }
}

/* Sixteen columns of four tokens, bytes interleaved. */
ALWAYS_INLINE void interleave4(int32_t *to, const int8_t *v, int64_t ld, int64_t tokens)
{
    codes16 r[4] = { { 0 } };
    for (int i = 0; i < 4 && i < tokens; i++) memcpy(&r[i], v + i * ld, sizeof r[i]);
    for (int half = 0; half < 2; half++) {
        typedef int16_t pairs8 __attribute__((vector_size(16)));
        const pairs8 a = (pairs8)(half ? __builtin_shufflevector(r[0], r[1], 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                                 28, 13, 29, 14, 30, 15, 31)
                                       : __builtin_shufflevector(r[0], r[1], 0, 16, 1, 17, 2, 18, 3, 19, 4,
                                                                 20, 5, 21, 6, 22, 7, 23)),
                     b = (pairs8)(half ? __builtin_shufflevector(r[2], r[3], 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                                 28, 13, 29, 14, 30, 15, 31)
                                       : __builtin_shufflevector(r[2], r[3], 0, 16, 1, 17, 2, 18, 3, 19, 4,
                                                                 20, 5, 21, 6, 22, 7, 23));
        const pairs8 low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11),
                     high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
        memcpy(to + 8 * half, &low, sizeof low);
        memcpy(to + 8 * half + 4, &high, sizeof high);
    }
}

static void pack_values(const head_room *m, const swin_cpu_head_s8 *h)
{
    memset(m->values, 0, (size_t)(m->value_cols * m->value_words) * sizeof *m->values);
    for (int64_t w = 0; w < m->value_words; w++) {
        const int8_t *v = h->v + w * GROUP * h->ldv;
        const int64_t tokens = h->tokens - w * GROUP;
        int64_t d = 0;
        if (GROUP == 4 && COLS % 16 == 0)
            for (; d + 16 <= h->size; d += 16)
                interleave4(m->values + (d / COLS * m->value_words + w) * COLS + d % COLS, v + d, h->ldv,
                            tokens);
        for (; d < h->size; d++)
            m->values[(d / COLS * m->value_words + w) * COLS + d % COLS] = weight_word(v + d, h->ldv, tokens);
    }
}

/* s becomes scores as float32, -infinity beyond the n columns; returns the largest. */
ALWAYS_INLINE float scale_scores(int32_t *s, const swin_cpu_head_s8 *h, int64_t row)
{
    const float *bias = h->bias ? h->bias + row * h->tokens : NULL,
                *mask = h->mask ? h->mask + row * h->tokens : NULL;
    vf most = vf_set(-INFINITY);
    for (int c = 0; c < h->tokens; c += VL) {
        const int left = h->tokens - c;
        vf v = __builtin_convertvector(vi_load(s + c), vf) * h->score_scale;
        if (bias) v = v + vf_load_n(bias + c, left);
        if (mask) v = v + vf_load_n(mask + c, left);
        if (left < VL) v = vf_pick(vi_first(left), v, vf_set(-INFINITY));
        vi_store(s + c, (vi)v);
        most = vf_max(v, most);
    }
    return vf_most(most);
}

/* Probabilities of one row as inputs of the product with v; returns what its sums are multiplied by. */
ALWAYS_INLINE float softmax_units(s8_unit *u, int32_t *s, const swin_cpu_head_s8 *h, int64_t row)
{
    const float top = scale_scores(s, h, row);
    const bool u8 = h->softmax == SWIN_SOFTMAX_U8;
    vf sum = { 0 };
    for (int c = 0; c < h->tokens; c += VL) {
        vf e = vf_exp_negative((vf)vi_load(s + c) - top);
        if (u8) {
            e = vf_rint(e * 255.0f);
            store_units(u + c, vf_to_int(e));
        } else {
            vi_store(s + c, (vi)e);
        }
        sum = sum + e;
    }
    if (u8) return h->v_scale / vf_sum(sum);
    const vf inverse = vf_set(1.0f / (vf_sum(sum) * h->prob_scale));
    for (int c = 0; c < h->tokens; c += VL)
        store_units(u + c, vf_round_int(vf_min((vf)vi_load(s + c) * inverse, vf_set(127.0f))));
    return h->prob_scale * h->v_scale;
}

static void store_head(const swin_cpu_head_s8 *h, int64_t row, int rows, int64_t col, const int32_t *tile,
                       const float *factor)
{
    const swin_tensor *y = h->out;
    const int64_t cols = h->size - col < COLS ? h->size - col : COLS;
    const bool floats = y->dtype == SWIN_F32;
    const coder q = floats ? (coder){ 0 } : coder_of(y);
    for (int r = 0; r < rows; r++, tile += COLS)
        for (int64_t c = 0; c < cols; c += VL) {
            const int left = cols - c < VL ? (int)(cols - c) : VL;
            const int64_t at = (h->row + row + r) * y->ld + h->col + col + c;
            const vf v = __builtin_convertvector(vi_load(tile + c), vf) * factor[r];
            if (floats)
                vf_store_n((float *)y->data + at, v, left);
            else
                store_codes((int8_t *)y->data + at, coded(&q, v), left);
        }
}

static void attend_strip(const head_room *m, const swin_cpu_head_s8 *h, int64_t row, int rows)
{
    static const int32_t nothing[COLS];
    _Alignas(64) int32_t tile[ROWS * COLS];
    float factor[ROWS];
    for (int r = 0; r < rows; r++)
        pack_inputs(m->inputs + r * m->key_words, h->q + (row + r) * h->ldq, h->size, m->key_words);
    for (int64_t col = 0; col < m->key_cols; col += COLS) {
        tile_s8(rows, tile, m->inputs, m->key_words, m->keys + col * m->key_words, (int)m->key_words,
                m->starts + col);
        for (int r = 0; r < rows; r++)
            memcpy(m->scores + r * m->key_cols + col, tile + r * COLS, COLS * sizeof *tile);
    }
    for (int r = 0; r < rows; r++)
        factor[r] =
            softmax_units((s8_unit *)(m->units + r * m->unit_words), m->scores + r * m->key_cols, h, row + r);
    for (int64_t col = 0; col < m->value_cols; col += COLS) {
        tile_s8(rows, tile, m->units, m->unit_words, m->values + col * m->value_words, (int)m->value_words,
                nothing);
        store_head(h, row, rows, col, tile, factor);
    }
}

static void attention_s8(const swin_cpu_head_s8 *h, int32_t *room)
{
    const head_room m = head_room_of(h, room);
    pack_keys(&m, h);
    pack_values(&m, h);
    for (int r = 0; r < h->tokens; r += ROWS)
        attend_strip(&m, h, r, h->tokens - r < ROWS ? h->tokens - r : ROWS);
}
