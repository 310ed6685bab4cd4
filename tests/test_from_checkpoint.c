/* Ranges that FasterTransformer's PyTorch toolkit stored, under its literal names, become a calibration file. */
#include "tests/support/testing.h"

#include <math.h>

#include "calib/from_checkpoint.h"
#include "calib/run.h"
#include "quant/sim.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/safetensors_write.h"
#include "tests/support/tiny.h"

enum { MOST = 400, NAME = 128 };

/* The toolkit's quantizers in a block and in a merging, reference/swin.md 4.1, and our names for them. */
static const char *const block_names[][2] = {
    { "attn.qkv._input_quantizer", "attn.qkv._input" },
    { "attn.qkv._weight_quantizer", "attn.qkv._weight" },
    { "attn.qkv._aftergemm_quantizer", "attn.qkv._aftergemm" },
    { "attn.proj._input_quantizer", "attn.proj._input" },
    { "attn.proj._weight_quantizer", "attn.proj._weight" },
    { "attn.proj._aftergemm_quantizer", "attn.proj._aftergemm" },
    { "mlp.fc1._input_quantizer", "mlp.fc1._input" },
    { "mlp.fc1._weight_quantizer", "mlp.fc1._weight" },
    { "mlp.fc1._aftergemm_quantizer", "mlp.fc1._aftergemm" },
    { "mlp.fc2._input_quantizer", "mlp.fc2._input" },
    { "mlp.fc2._weight_quantizer", "mlp.fc2._weight" },
    { "mlp.fc2._aftergemm_quantizer", "mlp.fc2._aftergemm" },
    { "attn.matmul_q_input_quantizer", "attn.matmul_q" },
    { "attn.matmul_k_input_quantizer", "attn.matmul_k" },
    { "attn.matmul_v_input_quantizer", "attn.matmul_v" },
    { "attn.matmul_a_input_quantizer", "attn.matmul_a" },
    { "attn.softmax_input_quantizer", "attn.softmax_input" },
    { "layernorm_input1_quantizer", "layernorm_input1" },
    { "layernorm_input2_quantizer", "layernorm_input2" },
    { "add1_local_input_quantizer", "add1_local" },
    { "add1_residual_input_quantizer", "add1_residual" },
    { "add2_local_input_quantizer", "add2_local" },
    { "add2_residual_input_quantizer", "add2_residual" },
    { "attn.mha_q_input_quantizer", "attn.mha_q" }, /* the last two: V2 */
    { "attn.mha_k_input_quantizer", "attn.mha_k" },
};
static const char *const merge_names[][2] = {
    { "downsample.reduction._input_quantizer", "downsample.reduction._input" },
    { "downsample.reduction._weight_quantizer", "downsample.reduction._weight" },
    { "downsample.reduction._aftergemm_quantizer", "downsample.reduction._aftergemm" },
};

typedef struct fixture {
    char *dir;
    char path[512];
    swin_config c;
    swin_weights w;
    swin_named_tensor tensors[MOST];
    char names[MOST][NAME], sites[MOST][NAME]; /* of the tensors; site "" for a parameter */
    float amax[MOST][2];
    int count, first; /* tensors; the first range */
} fixture;

static void add_range(fixture *f, const char *prefix, const char *const name[2])
{
    const int i = f->count++;
    snprintf(f->names[i], NAME, "%s%s._amax", prefix, name[0]);
    snprintf(f->sites[i], NAME, "%s%s", prefix, name[1]);
    f->amax[i][0] = f->amax[i][1] = 0.5f + (float)i / 128;
    f->tensors[i] = (swin_named_tensor){ .name = f->names[i],
                                         .dtype = SWIN_F32,
                                         .ndim = i % 2, /* [] and [1]: both are written by toolkits */
                                         .shape = { 1 },
                                         .data = f->amax[i] };
}

static void add_ranges(fixture *f)
{
    char prefix[64];
    f->first = f->count;
    for (int s = 0; s < f->c.num_stages; s++) {
        for (int b = 0; b < f->c.depths[s]; b++) {
            snprintf(prefix, sizeof prefix, "layers.%d.blocks.%d.", s, b);
            const size_t n = SWIN_COUNT(block_names) - (f->c.family == SWIN_V2 ? 0 : 2);
            for (size_t i = 0; i < n; i++) add_range(f, prefix, block_names[i]);
        }
        snprintf(prefix, sizeof prefix, "layers.%d.", s);
        for (size_t i = 0; s + 1 < f->c.num_stages && i < SWIN_COUNT(merge_names); i++)
            add_range(f, prefix, merge_names[i]);
    }
}

static fixture *make(swin_family family)
{
    fixture *f = calloc(1, sizeof *f);
    swin_param *list;
    size_t count;
    CHECK(f != NULL, "no memory");
    f->dir = swin_scratch_make("from_checkpoint");
    snprintf(f->path, sizeof f->path, "%s/calibrated.safetensors", f->dir);
    f->c = swin_tiny_config();
    f->c.family = family;
    CHECK_OK(swin_tiny_weights_of(&f->w, &f->c, 5));
    CHECK_OK(swin_weights_list(&f->c, &f->w, &list, &count));
    for (size_t i = 0; i < count; i++) {
        snprintf(f->names[i], NAME, "%s", list[i].key);
        f->tensors[i] = (swin_named_tensor){
            .name = f->names[i], .dtype = SWIN_F32, .ndim = list[i].ndim, .data = *list[i].slot
        };
        for (int d = 0; d < list[i].ndim; d++) f->tensors[i].shape[d] = list[i].shape[d];
    }
    f->count = (int)count;
    free(list);
    add_ranges(f);
    CHECK_OK(swin_safetensors_write(f->path, f->tensors, (size_t)f->count));
    return f;
}

static void drop(fixture *f)
{
    swin_weights_free(&f->w);
    swin_scratch_remove(f->dir);
    free(f);
}

static swin_status take(const fixture *f, swin_calib_file *file, swin_int8_mode mode)
{
    char sha[SWIN_SHA256_HEX];
    swin_ckpt *ck;
    CHECK_OK(swin_weights_sha256(&f->c, &f->w, sha));
    CHECK_OK(swin_ckpt_open(&ck, f->path));
    const swin_status st = swin_calib_from_checkpoint(file, &f->c, &f->w, ck, sha, mode);
    swin_ckpt_close(ck);
    return st;
}

/* Every stored number stands at its site, and nothing else does. */
static void check_file(const fixture *f, const swin_calib_file *file, swin_int8_mode mode)
{
    CHECK(f->count - f->first == file->nsites, "%d ranges for %d sites", f->count - f->first, file->nsites);
    for (int i = f->first; i < f->count; i++) {
        const swin_site site = swin_site_find(&f->c, f->sites[i]);
        CHECK(site != SWIN_NO_SITE, "no site %s", f->sites[i]);
        const swin_site_record *r = swin_calib_file_site(file, site);
        CHECK(r->amax == f->amax[i][0], "%s: %g instead of %g", f->sites[i], (double)r->amax,
              (double)f->amax[i][0]);
        CHECK(r->enabled == swin_mode_enabled(mode, f->c.family, site), "%s enabled", f->sites[i]);
        if (swin_site_role_of(site) == SWIN_ROLE_WEIGHT)
            CHECK(swin_calib_file_weight(file, site)->amax == f->amax[i][0], "%s per tensor", f->sites[i]);
    }
    CHECK(file->images == 0 && file->mode == mode, "%d images", (int)file->images);
}

/* The simulation takes the file: one image gives finite logits. */
static void check_usable(const fixture *f, const swin_calib_file *file)
{
    swin_dev *dev;
    swin_sim *sim;
    swin_rng r = { 9 };
    const size_t pixels = (size_t)3 * 56 * 56;
    float *image = malloc(pixels * sizeof *image), logits[5];
    CHECK(image != NULL, "no memory");
    swin_fill_normal(&r, image, pixels, 1);
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = 1 }));
    CHECK_OK(swin_sim_create(&sim, dev, file, &f->w, SWIN_PER_TENSOR));
    CHECK_OK(swin_sim_forward(sim, image, 1, logits, NULL));
    for (int i = 0; i < 5; i++) CHECK(isfinite(logits[i]), "logit %d", i);
    swin_sim_free(sim);
    swin_dev_close(dev);
    free(image);
}

static void test_ranges(void **state)
{
    (void)state;
    for (int family = SWIN_V1; family <= SWIN_V2; family++) {
        fixture *f = make((swin_family)family);
        char *path = swin_format("%s/out.h5", f->dir);
        for (int mode = 1; mode <= 3; mode++) {
            swin_calib_file file, again;
            CHECK_OK(take(f, &file, (swin_int8_mode)mode));
            check_file(f, &file, (swin_int8_mode)mode);
            CHECK_OK(swin_calib_file_write(&file, path));
            CHECK_OK(swin_calib_file_read(&again, path, true));
            check_file(f, &again, (swin_int8_mode)mode);
            check_usable(f, &again);
            swin_calib_file_free(&again);
            swin_calib_file_free(&file);
        }
        free(path);
        drop(f);
    }
}

/* The program does the same, without --cfg (V1's tables say the window), images or a device. */
static void test_program(void **state)
{
    (void)state;
    fixture *f = make(SWIN_V1);
    char *out = swin_format("%s/out.h5", f->dir);
    char *command = swin_format(
        "%s/swin-calib --quiet --from-checkpoint --resume %s --int8-mode 2 --calib-output-path %s "
        ">%s/table",
        SWIN_BIN_DIR, f->path, out, f->dir);
    swin_calib_file file;
    CHECK(system(command) == 0, "%s", command);
    CHECK_OK(swin_calib_file_read(&file, out, false));
    check_file(f, &file, SWIN_INT8_MODE_2);
    swin_calib_file_free(&file);
    free(command);
    free(out);
    drop(f);
}

static void test_refused(void **state)
{
    (void)state;
    fixture *f = make(SWIN_V1);
    swin_calib_file file;
    swin_named_tensor *t = &f->tensors[f->first + 3];
    const swin_named_tensor kept = *t;
    t->ndim = 1;
    t->shape[0] = 2;
    CHECK_OK(swin_safetensors_write(f->path, f->tensors, (size_t)f->count));
    CHECK_FAILS(take(f, &file, SWIN_INT8_MODE_1), SWIN_ERR_FORMAT,
                "attn.proj._input_quantizer._amax holds 2 numbers");
    *t = kept;
    static const float bad[] = { 0, -1, NAN, INFINITY };
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        f->amax[f->first + 3][0] = bad[i];
        CHECK_OK(swin_safetensors_write(f->path, f->tensors, (size_t)f->count));
        CHECK_FAILS(take(f, &file, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, "attn.proj._input_quantizer._amax is");
    }
    f->amax[f->first + 3][0] = 1;
    CHECK_OK(swin_safetensors_write(f->path, f->tensors, (size_t)f->count - 2));
    CHECK_FAILS(take(f, &file, SWIN_INT8_MODE_1), SWIN_ERR_MISMATCH, "2 of 72 quantizer ranges are missing");
    CHECK_OK(swin_safetensors_write(f->path, f->tensors, (size_t)f->first));
    CHECK_FAILS(take(f, &file, SWIN_INT8_MODE_1), SWIN_ERR_MISMATCH, "no quantizer ranges are stored");
    CHECK(file.sites == NULL, "records are left behind");
    drop(f);
}

int main(void)
{
    swin_log_set(SWIN_LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
