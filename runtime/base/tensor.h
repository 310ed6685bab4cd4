/* runtime/base/tensor.h - a view of numbers: it owns nothing.
 *
 * Every activation of the network is seen as a row-major matrix: `rows` tokens of `cols` channels, `ld` elements from
 * one row to the next (q, k and v are column ranges of one qkv matrix, so ld may exceed cols).
 */
#ifndef SWIN_BASE_TENSOR_H
#define SWIN_BASE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum swin_dtype {
    SWIN_F32,
    SWIN_F16,
    SWIN_BF16,
    SWIN_S8,
    SWIN_U8,
    SWIN_S32,
    SWIN_F64,
    SWIN_S64
} swin_dtype;

typedef struct swin_tensor {
    void *data; /* in the memory of the device that the tensor is used with */
    swin_dtype dtype;
    int64_t rows, cols; /* elements */
    int64_t ld;         /* elements between row starts, >= cols */
    float scale;        /* S8: real = (code - zero_point) * scale; otherwise unused */
    int zero_point;
    int qmin, qmax; /* S8: the codes in use: [-127, 127] for a symmetric site */
    const float *
        shrink; /* S8: values of column c are multiplied by shrink[c] before they become codes, in the same memory as
                            data: real = (code - zero_point) * scale / shrink[c]; NULL: not. Only where ops.h says so */
} swin_tensor;

/* Bytes of one element. */
size_t swin_dtype_size(swin_dtype t);

/* "float32", "float16", "bfloat16", "int8", ... */
const char *swin_dtype_name(swin_dtype t);

/* A dense matrix view. */
static inline swin_tensor swin_matrix(void *data, swin_dtype dtype, int64_t rows, int64_t cols)
{
    return (swin_tensor){ .data = data, .dtype = dtype, .rows = rows, .cols = cols, .ld = cols };
}

/* Columns [at, at + cols) of x, all rows. */
static inline swin_tensor swin_columns(const swin_tensor *x, int64_t at, int64_t cols)
{
    swin_tensor v = *x;
    v.data = (char *)x->data + (size_t)at * swin_dtype_size(x->dtype);
    v.cols = cols;
    if (v.shrink) v.shrink += at;
    return v;
}

/* Rows [at, at + rows) of x. */
static inline swin_tensor swin_rows(const swin_tensor *x, int64_t at, int64_t rows)
{
    swin_tensor v = *x;
    v.data = (char *)x->data + (size_t)(at * x->ld) * swin_dtype_size(x->dtype);
    v.rows = rows;
    return v;
}

#endif
