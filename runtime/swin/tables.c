#include "runtime/swin/tables.h"

#include <math.h>
#include <stdlib.h>

void swin_position_bias(float *out, const float *table, int window, int heads)
{
    const int n = window * window, side = 2 * window - 1;
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const int dy = i / window - j / window + window - 1,
                          dx = i % window - j % window + window - 1;
                *out++ = table[(size_t)(dy * side + dx) * (size_t)heads + (size_t)h];
            }
}

/* An offset in tokens as the network sees it: swin.md section 2. A window of one token has the offset 0 only. */
static double coordinate(int offset, int reach)
{
    const double t = reach > 0 ? 8.0 * offset / reach : 0.0;
    return copysign(log2(fabs(t) + 1.0) / 3.0, t);
}

/* What the hidden layer makes of one pair of offsets. */
static void hidden_row(double *hidden, const swin_block_weights *w, double dy, double dx)
{
    for (int i = 0; i < SWIN_CPB_HIDDEN; i++) {
        const double v = dy * w->cpb0_weight[2 * i] + dx * w->cpb0_weight[2 * i + 1] + w->cpb0_bias[i];
        hidden[i] = v > 0 ? v : 0;
    }
}

swin_status swin_position_table(float *table, const swin_block_weights *w, int window, int heads,
                                int pretrained)
{
    const int reach = (pretrained > 0 ? pretrained : window) - 1;
    double *hidden = malloc(SWIN_CPB_HIDDEN * sizeof *hidden);
    if (!hidden) return swin_fail(SWIN_ERR_MEM, "no memory for a position bias");
    for (int dy = 1 - window; dy < window; dy++)
        for (int dx = 1 - window; dx < window; dx++) {
            hidden_row(hidden, w, coordinate(dy, reach), coordinate(dx, reach));
            for (int h = 0; h < heads; h++) {
                const float *row = w->cpb2_weight + (size_t)h * SWIN_CPB_HIDDEN;
                double sum = 0;
                for (int i = 0; i < SWIN_CPB_HIDDEN; i++) sum += hidden[i] * row[i];
                *table++ = (float)(16.0 / (1.0 + exp(-sum)));
            }
        }
    free(hidden);
    return SWIN_OK;
}

/* Which of the three bands that the shift cuts an axis into a coordinate is in. */
static int band(int p, const swin_stage *s)
{
    return p < s->resolution - s->window ? 0 : p < s->resolution - s->shift ? 1 : 2;
}

void swin_attention_mask(float *out, const swin_stage *s)
{
    const int w = s->window, n = w * w, across = s->resolution / w;
    for (int win = 0; win < across * across; win++) {
        const int y0 = win / across * w, x0 = win % across * w;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const int id_i = 3 * band(y0 + i / w, s) + band(x0 + i % w, s);
                const int id_j = 3 * band(y0 + j / w, s) + band(x0 + j % w, s);
                *out++ = id_i == id_j ? 0.0f : -100.0f;
            }
    }
}
