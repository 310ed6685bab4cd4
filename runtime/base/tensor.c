#include "runtime/base/tensor.h"

static const struct {
    size_t size;
    const char *name;
} types[] = {
    [SWIN_F32] = { 4, "float32" }, [SWIN_F16] = { 2, "float16" }, [SWIN_BF16] = { 2, "bfloat16" },
    [SWIN_S8] = { 1, "int8" },     [SWIN_U8] = { 1, "uint8" },    [SWIN_S32] = { 4, "int32" },
    [SWIN_F64] = { 8, "float64" }, [SWIN_S64] = { 8, "int64" },
};

size_t swin_dtype_size(swin_dtype t)
{
    return types[t].size;
}

const char *swin_dtype_name(swin_dtype t)
{
    return types[t].name;
}
