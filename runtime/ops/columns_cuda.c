/* Columns of float32 matrices on the cuda backend: factors, moments, rows taken out. Small host arrays go through the scratch. */
#include "runtime/ops/host.h"
#include "runtime/ops/kernels/cuda_dev.h"

swin_status swin_scale_columns_cuda(swin_dev *dev, swin_tensor *x, const float *factor)
{
    swin_cuda *d = swin_cuda_of(dev);
    const size_t bytes = (size_t)x->cols * sizeof *factor;
    void *room;
    if (x->dtype != SWIN_F32)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "scale_columns: of %s", swin_dtype_name(x->dtype));
    SWIN_TRY(swin_cuda_work(d, &room, bytes));
    SWIN_TRY(swin_upload_cuda(dev, room, factor, bytes));
    return swin_cuda_status(swin_scale_columns_launch(d->stream, x, room), "scale_columns");
}

/* sum, square, lo, hi, one behind the other, those that are asked for. */
swin_status swin_moments_cuda(swin_dev *dev, const swin_moments *m, const swin_tensor *x, int runs)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(swin_check_moments(x, runs));
    const size_t n = (size_t)runs * (size_t)x->cols;
    void *room;
    SWIN_TRY(swin_cuda_work(d, &room, n * 2 * (sizeof(double) + sizeof(float))));
    double *sum = room, *square = sum + n;
    float *lo = (float *)(square + n), *hi = lo + n;
    const swin_moments there = { .sum = m->sum ? sum : NULL,
                                 .square = m->square ? square : NULL,
                                 .lo = m->lo ? lo : NULL,
                                 .hi = m->hi ? hi : NULL };
    SWIN_TRY(swin_cuda_status(swin_moments_launch(d->stream, &there, x, runs), "moments"));
    if (m->sum) SWIN_TRY(swin_download_cuda(dev, m->sum, sum, n * sizeof *sum));
    if (m->square) SWIN_TRY(swin_download_cuda(dev, m->square, square, n * sizeof *square));
    if (m->lo) SWIN_TRY(swin_download_cuda(dev, m->lo, lo, n * sizeof *lo));
    if (m->hi) SWIN_TRY(swin_download_cuda(dev, m->hi, hi, n * sizeof *hi));
    return SWIN_OK;
}

swin_status swin_take_rows_cuda(swin_dev *dev, float *host, const swin_tensor *x, const int64_t *row, int n)
{
    swin_cuda *d = swin_cuda_of(dev);
    const size_t rows = (size_t)n, size = rows * (size_t)x->cols;
    void *room;
    SWIN_TRY(swin_check_rows(x, row, n));
    SWIN_TRY(swin_cuda_work(d, &room, rows * sizeof *row + size * sizeof *host));
    float *out = (float *)((int64_t *)room + rows);
    SWIN_TRY(swin_upload_cuda(dev, room, row, rows * sizeof *row));
    SWIN_TRY(swin_cuda_status(swin_take_rows_launch(d->stream, out, x, room, n), "take_rows"));
    return swin_download_cuda(dev, host, out, size * sizeof *host);
}
