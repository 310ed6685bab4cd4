#include "runtime/swin/resize_table.h"

#include <math.h>
#include <stdlib.h>

int64_t swin_square_root(int64_t n)
{
    int64_t r = 0;
    while (r < 4096 && (r + 1) * (r + 1) <= n) r++;
    return r * r == n ? r : 0;
}

int swin_table_side(int64_t rows)
{
    const int64_t side = swin_square_root(rows);
    return side % 2 ? (int)side : 0;
}

/* The four taps of one output position. */
typedef struct taps {
    int at[4];
    double weight[4];
} taps;

/* The cubic convolution kernel at distance d. */
static double kernel(double d)
{
    const double a = -0.75, x = fabs(d);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static taps taps_of(int to, int side, int from)
{
    const double x = (to + 0.5) * from / side - 0.5;
    const int left = (int)floor(x);
    taps t;
    for (int i = 0; i < 4; i++) {
        const int at = left - 1 + i;
        t.weight[i] = kernel(x - at);
        t.at[i] = at < 0 ? 0 : at >= from ? from - 1 : at;
    }
    return t;
}

swin_status swin_resize_table(float *out, int side, const float *in, int from, int heads)
{
    taps *t = malloc((size_t)side * sizeof *t);
    if (!t) return swin_fail(SWIN_ERR_MEM, "no memory for a position bias table");
    for (int i = 0; i < side; i++) t[i] = taps_of(i, side, from);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int h = 0; h < heads; h++) {
                double sum = 0;
                for (int i = 0; i < 4; i++)
                    for (int k = 0; k < 4; k++)
                        sum += t[y].weight[i] * t[x].weight[k] *
                               in[((size_t)t[y].at[i] * (size_t)from + (size_t)t[x].at[k]) * (size_t)heads +
                                  (size_t)h];
                *out++ = (float)sum;
            }
    free(t);
    return SWIN_OK;
}

/* The last coordinate of all is that of the offset w - 1: log2(8 (w - 1) / (P - 1) + 1) / 3. */
double swin_pretrained_window(const swin_ckpt_tensor *t, int *window)
{
    *window = 0;
    if (t->ndim != 4 || t->shape[0] != 1 || t->shape[1] != t->shape[2] || t->shape[1] % 2 == 0 ||
        t->shape[3] != 2 || t->shape[1] > 8191)
        return 0;
    swin_ckpt_tensor corner = *t; /* its last number alone */
    int64_t at = 0;
    for (int d = 0; d < t->ndim; d++) at += (t->shape[d] - 1) * t->stride[d];
    corner.data = (const char *)t->data + (size_t)at * swin_dtype_size(t->dtype);
    corner.ndim = 0;
    corner.count = 1;
    float last;
    if (swin_ckpt_read(&corner, &last) != SWIN_OK) return 0;
    *window = (int)(t->shape[1] + 1) / 2;
    if (*window == 1) return 1;
    const double reach = (exp2(3 * (double)last) - 1) / 8; /* (w - 1) / (P - 1) */
    return reach > 0 && isfinite(reach) ? (*window - 1) / reach + 1 : 0;
}
