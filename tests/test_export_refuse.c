/* What exporters refuse and why, and that a refusal leaves no file. */
#include "tests/support/testing.h"

#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "tests/support/export_model.h"

/* ---- refusals ----------------------------------------------------------------------------------------------- */

/* Formats that look at the calibration file, each with a fault planted: the message names the site. */
static void refuse_all(export_model *m, swin_status status, const char *words)
{
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        if (!((*f)->flags & SWIN_EXPORT_CALIB)) continue;
        CHECK_FAILS(export_model_run(m, (*f)->name, "refused"), status, words);
        CHECK(access(export_model_path(m, "refused"), F_OK) != 0, "%s left a file", (*f)->name);
        CHECK(access(export_model_path(m, "refused.tmp"), F_OK) != 0, "%s left a file", (*f)->name);
    }
}

static void test_unusable_scales(void **state)
{
    (void)state;
    static const float bad[] = { 0, -1, NAN, INFINITY };
    const char *name = "layers.0.blocks.1.mlp.fc1._input";
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    swin_site_record *s = export_model_site(&m, name);
    const swin_site_record sound = *s;
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        s->amax = bad[i];
        refuse_all(&m, SWIN_ERR_VALUE, name);
        *s = sound;
        s->q.scale = bad[i];
        refuse_all(&m, SWIN_ERR_VALUE, name);
        *s = sound;
    }
    s->q.qmax = 300;
    refuse_all(&m, SWIN_ERR_VALUE, name);
    *s = sound;
    export_model_site(&m, "layers.0.blocks.0.attn.softmax_input")->amax = 0; /* off, and still stored */
    refuse_all(&m, SWIN_ERR_VALUE, "layers.0.blocks.0.attn.softmax_input");
    export_model_free(&m);
}

static void test_unusable_weights(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    swin_weight_record *w = &m.calib.weights[1];
    const float amax = w->amax, channel = w->amax_channel[5];
    w->amax = 0;
    refuse_all(&m, SWIN_ERR_VALUE, "layers.0.blocks.0.attn.proj");
    w->amax = amax;
    w->amax_channel[5] = NAN;
    refuse_all(&m, SWIN_ERR_VALUE, "channel 5");
    w->amax_channel[5] = channel;
    w->channels--;
    refuse_all(&m, SWIN_ERR_MISMATCH, "layers.0.blocks.0.attn.proj");
    w->channels++;
    m.calib.nsites--; /* the last site is not in the file */
    refuse_all(&m, SWIN_ERR_VALUE, "no scale");
    m.calib.nsites++;
    m.calib.nweights--;
    refuse_all(&m, SWIN_ERR_VALUE, "no weight scales");
    m.calib.nweights++;
    export_model_free(&m);
}

static void test_symmetric_formats_refuse_mode3(void **state)
{
    (void)state;
    static const char *const refusing[] = { "ft-scales",   "ft-weights",  "tensorrt-cache",
                                            "onnxruntime", "openvino-fq", "pytorch" };
    static const char *const taking[] = { "onnx-qdq", "csv", "json" };
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_3);
    for (size_t i = 0; i < SWIN_COUNT(refusing); i++)
        CHECK_FAILS(export_model_run(&m, refusing[i], "t"), SWIN_ERR_UNSUPPORTED,
                    "layers.0.blocks.0.attn.matmul_a");
    for (size_t i = 0; i < SWIN_COUNT(taking); i++) CHECK_OK(export_model_run(&m, taking[i], "t"));
    export_model_free(&m);
}

/* A file that relaxes one site: engines and toolkits that follow whole modes refuse it by name, tables leave the site out. */
static void test_relaxed_sites(void **state)
{
    (void)state;
    const char *name = "layers.1.blocks.0.mlp.fc2._aftergemm";
    export_model m;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_1);
    export_model_site(&m, name)->enabled = false;
    CHECK_FAILS(export_model_run(&m, "ft-scales", "t"), SWIN_ERR_UNSUPPORTED, name);
    CHECK_FAILS(export_model_run(&m, "ft-weights", "t"), SWIN_ERR_UNSUPPORTED, name);
    CHECK_FAILS(export_model_run(&m, "pytorch", "t.npz"), SWIN_ERR_UNSUPPORTED, name);
    static const char *const tables[][2] = { { "tensorrt-cache", "t" },
                                             { "openvino-fq", "t" },
                                             { "onnxruntime", "dir/calibration.cache" },
                                             { "onnxruntime", "dir/calibration.json" } };
    for (size_t i = 0; i < SWIN_COUNT(tables); i++) {
        CHECK_OK(export_model_run(&m, tables[i][0], i < 2 ? "t" : "dir"));
        unsigned char *text = export_model_read(&m, tables[i][1], &size);
        CHECK(strstr((char *)text, "mlp.fc2._aftergemm") != NULL, "%s: no aftergemm at all", tables[i][0]);
        CHECK(strstr((char *)text, name) == NULL, "%s: a relaxed site has a scale", tables[i][0]);
        free(text);
    }
    export_model_free(&m);
}

static void test_corrected_weights(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    m.job.corrected = true;
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        const char *name = strcmp((*f)->name, "pytorch") == 0 ? "t.npz" : (*f)->name;
        m.job.weights_out = false;
        if ((*f)->flags & SWIN_EXPORT_WEIGHTS)
            CHECK_OK(export_model_run(&m, (*f)->name, name));
        else
            CHECK_FAILS(export_model_run(&m, (*f)->name, name), SWIN_ERR_UNSUPPORTED, "--weights-out");
        m.job.weights_out = true;
        CHECK_OK(export_model_run(&m, (*f)->name, name));
    }
    export_model_free(&m);
}

/* ---- factors of GELU's output ------------------------------------------------------------------------------ */

static const char factored[] = "layers.0.blocks.1.mlp.fc2._input";

/* Powers of two from 1/4 to 4, an odd number last. */
static void plant_factors(export_model *m)
{
    swin_site_record *r = export_model_site(m, factored);
    r->channels = swin_config_stage(&m->config, 0).hidden;
    r->factor = malloc((size_t)r->channels * sizeof *r->factor);
    CHECK(r->factor != NULL, "no memory");
    for (int k = 0; k < r->channels; k++) r->factor[k] = exp2f((float)(k % 5 - 2));
    r->factor[r->channels - 1] = 1.7f;
}

/* Formats that can say them take them; the others name the site and what to calibrate with. */
static void test_factors(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1); /* which no symmetric format refuses for its zero points */
    plant_factors(&m);
    m.job.corrected = m.job.weights_out = true;
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        if ((*f)->flags & SWIN_EXPORT_FACTORS) {
            CHECK_OK(export_model_run(&m, (*f)->name, "taken"));
            continue;
        }
        CHECK_FAILS(export_model_run(&m, (*f)->name, "refused"), SWIN_ERR_UNSUPPORTED, factored);
        CHECK(strstr(swin_error_message(), "--recover ranges,bias"), "%s", swin_error_message());
        CHECK(access(export_model_path(&m, "refused"), F_OK) != 0, "%s left a file", (*f)->name);
    }
    /* A checkpoint alone would be another network. */
    CHECK_FAILS(swin_export_check_weights(&m.job), SWIN_ERR_UNSUPPORTED, factored);
    free(export_model_site(&m, factored)->factor);
    export_model_site(&m, factored)->factor = NULL;
    CHECK_OK(swin_export_check_weights(&m.job));
    export_model_free(&m);
}

static void test_unusable_factors(void **state)
{
    (void)state;
    static const float bad[] = { 0, -1, NAN, INFINITY, 1e-40f, 3e38f };
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_3);
    plant_factors(&m);
    swin_site_record *r = export_model_site(&m, factored);
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        if (!((*f)->flags & SWIN_EXPORT_FACTORS)) continue;
        const float sound = r->factor[7];
        for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
            r->factor[7] = bad[i];
            CHECK_FAILS(export_model_run(&m, (*f)->name, "t"), SWIN_ERR_VALUE, factored);
        }
        r->factor[7] = sound;
        r->channels--;
        CHECK_FAILS(export_model_run(&m, (*f)->name, "t"), SWIN_ERR_MISMATCH, factored);
        r->channels++;
    }
    r->factor[3] = 1e5f; /* its inverse has no normal float16 */
    CHECK_FAILS(export_model_run(&m, "onnx-fp16", "t"), SWIN_ERR_VALUE, "channel 3");
    CHECK_OK(export_model_run(&m, "onnx-float", "t"));
    swin_site_record *other = export_model_site(&m, "layers.0.blocks.0.attn.proj._input");
    other->factor = r->factor;
    other->channels = r->channels;
    r->factor = NULL;
    CHECK_FAILS(export_model_run(&m, "onnx-qdq", "t"), SWIN_ERR_UNSUPPORTED,
                "layers.0.blocks.0.attn.proj._input");
    export_model_free(&m);
}

/* Every number of them, at their site alone. */
static void test_factor_tables(void **state)
{
    (void)state;
    export_model m;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_3);
    plant_factors(&m);
    const swin_site_record *r = export_model_site(&m, factored);
    CHECK_OK(export_model_run(&m, "csv", "t"));
    char *text = (char *)export_model_read(&m, "t", &size), *line = strstr(text, factored);
    CHECK(line != NULL, "no line");
    for (int i = 0; i < 10; i++) line = strchr(line, ',') + 1;
    for (int k = 0; k < r->channels; k++) {
        const float v = strtof(line, &line);
        CHECK(v == r->factor[k], "csv, channel %d: %g", k, (double)v);
    }
    CHECK(*line == ',', "more than %d factors: %.20s", r->channels, line);
    free(text);
    CHECK_OK(export_model_run(&m, "json", "t"));
    json_t *root = json_load_file(export_model_path(&m, "t"), 0, NULL),
           *sites = json_object_get(root, "sites");
    const char *name;
    json_t *site;
    json_object_foreach(sites, name, site)
    {
        const json_t *v = json_object_get(site, "factors");
        CHECK((v != NULL) == (strcmp(name, factored) == 0), "json: %s", name);
        for (int k = 0; v && k < r->channels; k++)
            CHECK((float)json_real_value(json_array_get(v, (size_t)k)) == r->factor[k], "json, channel %d",
                  k);
        CHECK(!v || json_array_size(v) == (size_t)r->channels, "json: %zu factors", json_array_size(v));
    }
    json_decref(root);
    export_model_free(&m);
}

/* ---- scales of output channels ------------------------------------------------------------------------------ */

static const char scaled[] = "layers.0.blocks.1.mlp.fc2._aftergemm";

static swin_site_record *plant_scales(export_model *m)
{
    swin_site_record *r = export_model_site(m, scaled);
    r->channels = swin_config_stage(&m->config, 0).channels;
    r->channel_scale = malloc((size_t)r->channels * sizeof *r->channel_scale);
    CHECK(r->channel_scale != NULL, "no memory");
    for (int k = 0; k < r->channels; k++) r->channel_scale[k] = 0.01f + 0.003f * (float)k;
    return r;
}

/* Engines with one scale for a tensor refuse, and say what to do; where the site is relaxed nobody asks. */
static void test_channel_scales(void **state)
{
    (void)state;
    export_model m;
    int taken = 0, refused = 0;
    export_model_make(&m, SWIN_INT8_MODE_1);
    swin_site_record *r = plant_scales(&m);
    m.job.corrected = m.job.weights_out = true;
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        const char *name = strcmp((*f)->name, "pytorch") == 0 ? "r.npz" : "r";
        if ((*f)->flags & SWIN_EXPORT_CHANNELS) {
            CHECK_OK(export_model_run(&m, (*f)->name, "taken"));
            taken++;
            continue;
        }
        CHECK_FAILS(export_model_run(&m, (*f)->name, name), SWIN_ERR_UNSUPPORTED, scaled);
        CHECK(strstr(swin_error_message(), "--recover fast"), "%s", swin_error_message());
        CHECK(access(export_model_path(&m, name), F_OK) != 0, "%s left a file", (*f)->name);
        refused++;
    }
    CHECK(taken == 5 && refused == 6, "%d take them, %d refuse", taken, refused);
    r->enabled = false;
    CHECK_OK(export_model_run(&m, "onnxruntime", "t"));
    export_model_free(&m);
}

static void test_unusable_channel_scales(void **state)
{
    (void)state;
    static const float bad[] = { 0, -1, NAN, INFINITY, 1e-40f };
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    swin_site_record *r = plant_scales(&m);
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        r->channel_scale[3] = bad[i];
        CHECK_FAILS(export_model_run(&m, "onnx-qdq", "t"), SWIN_ERR_VALUE, "channel 3");
    }
    r->channel_scale[3] = 1;
    r->channels++;
    CHECK_FAILS(export_model_run(&m, "onnx-qdq", "t"), SWIN_ERR_MISMATCH, scaled);
    r->channels--;
    swin_site_record *other = export_model_site(&m, "layers.0.blocks.1.mlp.fc1._aftergemm");
    other->channel_scale = r->channel_scale;
    other->channels = r->channels;
    r->channel_scale = NULL;
    CHECK_FAILS(export_model_run(&m, "json", "t"), SWIN_ERR_UNSUPPORTED, "fc1._aftergemm");
    export_model_free(&m);
}

/* Every number, at its site alone. */
static void test_channel_scale_tables(void **state)
{
    (void)state;
    export_model m;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_1);
    const swin_site_record *r = plant_scales(&m);
    CHECK_OK(export_model_run(&m, "csv", "t"));
    char *text = (char *)export_model_read(&m, "t", &size), *line = strstr(text, scaled);
    CHECK(line != NULL, "no line");
    for (int i = 0; i < 11; i++) line = strchr(line, ',') + 1;
    for (int k = 0; k < r->channels; k++) {
        const float v = strtof(line, &line);
        CHECK(v == r->channel_scale[k], "csv, channel %d: %g", k, (double)v);
    }
    CHECK(*line == '\n', "more than %d scales: %.20s", r->channels, line);
    free(text);
    CHECK_OK(export_model_run(&m, "json", "t"));
    json_t *root = json_load_file(export_model_path(&m, "t"), 0, NULL), *site;
    const char *name;
    json_object_foreach(json_object_get(root, "sites"), name, site)
    {
        const json_t *v = json_object_get(site, "channel_scales");
        CHECK((v != NULL) == (strcmp(name, scaled) == 0), "json: %s", name);
        for (int k = 0; v && k < r->channels; k++)
            CHECK((float)json_real_value(json_array_get(v, (size_t)k)) == r->channel_scale[k],
                  "json, channel %d", k);
        CHECK(!v || json_array_size(v) == (size_t)r->channels, "json: %zu scales", json_array_size(v));
    }
    json_decref(root);
    export_model_free(&m);
}

/* Scales of heads: what has one scale for a tensor refuses by name once nothing else of mode 3 is in its way; scales that
 * differ within a head are nobody's. */
static void test_head_scales(void **state)
{
    (void)state;
    static const char site[] = "layers.1.blocks.0.attn.matmul_k";
    static const char *const tables[] = { "tensorrt-cache", "onnxruntime" };
    static const char *const taking[] = { "onnx-qdq", "json", "csv" };
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_3);
    swin_site_record *r = export_model_site(&m, site);
    const swin_stage s = swin_config_stage(&m.config, 1);
    r->channels = s.channels;
    r->channel_scale = malloc((size_t)r->channels * sizeof *r->channel_scale);
    CHECK(r->channel_scale != NULL, "no memory");
    for (int k = 0; k < r->channels; k++) r->channel_scale[k] = k < s.head_size ? 0.01f : 0.002f;
    for (size_t i = 0; i < SWIN_COUNT(taking); i++) CHECK_OK(export_model_run(&m, taking[i], "t"));
    for (int i = 0; i < m.calib.nsites; i++) /* what is not symmetric */
        if (m.calib.sites[i].q.qmin != -127) m.calib.sites[i].enabled = false;
    for (size_t i = 0; i < SWIN_COUNT(tables); i++) {
        CHECK_FAILS(export_model_run(&m, tables[i], "r"), SWIN_ERR_UNSUPPORTED, site);
        CHECK(strstr(swin_error_message(), "each head") && strstr(swin_error_message(), "--recover fast"),
              "%s", swin_error_message());
        CHECK(access(export_model_path(&m, "r"), F_OK) != 0, "%s left a file", tables[i]);
    }
    r->channel_scale[s.head_size + 1] = 0.003f;
    CHECK_FAILS(export_model_run(&m, "onnx-qdq", "r"), SWIN_ERR_VALUE, site);
    r->enabled = false;
    for (size_t i = 0; i < SWIN_COUNT(tables); i++) CHECK_OK(export_model_run(&m, tables[i], tables[i]));
    export_model_free(&m);
}

static void test_missing_inputs(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    m.job.weights = NULL;
    CHECK_FAILS(export_model_run(&m, "onnx-float", "t"), SWIN_ERR_USAGE, "--resume");
    CHECK_FAILS(export_model_run(&m, "onnx-qdq", "t"), SWIN_ERR_USAGE, "--resume");
    m.job.weights = &m.weights;
    m.job.calib = NULL;
    CHECK_FAILS(export_model_run(&m, "onnx-qdq", "t"), SWIN_ERR_USAGE, "--calib");
    CHECK_OK(export_model_run(&m, "onnx-float", "t"));
    m.job.calib = &m.calib;
    CHECK_FAILS(export_model_run(&m, "pytorch", "t.txt"), SWIN_ERR_USAGE, ".safetensors or .npz");
    CHECK_FAILS(export_model_run(&m, "csv", "no/such/folder"), SWIN_ERR_IO, "no/such/folder");
    CHECK_FAILS(export_model_run(&m, "ft-scales", "no/such/folder"), SWIN_ERR_IO, "no/such/folder");
    CHECK_FAILS(export_model_run(&m, "onnx-float", "no/such/folder"), SWIN_ERR_IO, "no/such/folder");
    m.weights.norm_weight[1] = 1e6f;
    CHECK_FAILS(export_model_run(&m, "ft-weights", "t"), SWIN_ERR_VALUE, "norm.weight");
    m.weights.stages[0].blocks[0].fc1_weight[2] = -1e6f;
    CHECK_FAILS(export_model_run(&m, "onnx-fp16", "t"), SWIN_ERR_VALUE, "layers.0.blocks.0.mlp.fc1.weight");
    export_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unusable_scales),
        cmocka_unit_test(test_unusable_weights),
        cmocka_unit_test(test_symmetric_formats_refuse_mode3),
        cmocka_unit_test(test_relaxed_sites),
        cmocka_unit_test(test_corrected_weights),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_unusable_factors),
        cmocka_unit_test(test_factor_tables),
        cmocka_unit_test(test_channel_scales),
        cmocka_unit_test(test_unusable_channel_scales),
        cmocka_unit_test(test_channel_scale_tables),
        cmocka_unit_test(test_head_scales),
        cmocka_unit_test(test_missing_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
