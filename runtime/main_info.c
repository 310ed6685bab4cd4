/* swin-info - what a checkpoint, a calibration file or a data set holds. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "calib/report.h"
#include "data/dataset.h"
#include "quant/calib_file.h"
#include "runtime/base/field.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/family.h"
#include "runtime/swin/guess.h"

typedef struct options {
    swin_common common;
    int printed; /* JSON objects so far */
} options;

static const swin_field fields[] = {
    SWIN_FIELD_COMMON(options, cfg, SWIN_FIELD_STR, 0, 0, "FILE",
                      "model configuration for the checkpoints; without it, what their tensors point to",
                      NULL),
    SWIN_FIELD_COMMON(options, opts, SWIN_FIELD_PAIRS, 0, 0, "KEY VALUE", "override configuration keys",
                      NULL),
    SWIN_FIELD_COMMON(options, quiet, SWIN_FIELD_BOOL, 0, 0, NULL, "only warnings and errors on stderr",
                      NULL),
    SWIN_FIELD_COMMON(options, verbose, SWIN_FIELD_BOOL, 0, 0, NULL, "list every tensor of a checkpoint",
                      NULL),
    SWIN_FIELD_COMMON(options, json, SWIN_FIELD_BOOL, 0, 0, NULL,
                      "one JSON array with an object for each FILE", NULL),
};

static const swin_program program = { "swin-info",
                                      "what a checkpoint, a calibration file or a data set holds", fields,
                                      SWIN_COUNT(fields), "FILE..." };

/* Between the objects of the array. */
static void separate(options *o)
{
    if (o->printed++) printf(",\n");
}

static swin_status print_json(options *o, json_t *j)
{
    if (!j) return swin_fail(SWIN_ERR_MEM, "cannot be put into JSON (a name that is not UTF-8?)");
    separate(o);
    const int bad = json_dumpf(j, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(j);
    return bad ? swin_fail(SWIN_ERR_IO, "standard output: cannot write") : SWIN_OK;
}

/* ---- checkpoints ---- */

typedef struct checkpoint_info {
    uint64_t tensors, floats,
        buffers; /* floats: elements of floating-point tensors but buffers; buffers: tensors */
    uint64_t by_dtype[SWIN_S64 + 1]; /* tensors */
    swin_config config;
    swin_keys keys;
    bool fits;     /* config and sha are known */
    bool headless; /* a feature extractor's */
    char sha[SWIN_SHA256_HEX], why_not[1024];
} checkpoint_info;

enum { MOST_CONFIGS = 8 };

static void count_tensors(checkpoint_info *info, const swin_ckpt *ck)
{
    info->tensors = swin_ckpt_count(ck);
    for (size_t i = 0; i < info->tensors; i++) {
        const swin_ckpt_tensor *t = swin_ckpt_at(ck, i);
        const bool real = t->dtype == SWIN_F32 || t->dtype == SWIN_F16 || t->dtype == SWIN_BF16 ||
                          t->dtype == SWIN_F64;
        const bool buffer = strstr(t->key, ".attn_mask") || strstr(t->key, ".relative_coords_table") ||
                            strstr(t->key, "_quantizer._amax");
        info->by_dtype[t->dtype]++;
        if (real && !buffer)
            info->floats += t->count;
        else
            info->buffers++;
    }
}

/* The hash needs a network: the one configured, else the one that the tensors point to. */
static swin_status fit(checkpoint_info *info, const options *o, const swin_ckpt *ck)
{
    if (o->common.cfg)
        SWIN_TRY(swin_config_load(&info->config, o->common.cfg, &o->common.opts));
    else
        SWIN_TRY(swin_config_guess(&info->config, ck));
    if (!o->common.cfg) SWIN_TRY(swin_config_override(&info->config, &o->common.opts));
    swin_weights w;
    const swin_load_opts load = { .no_head = info->headless };
    SWIN_TRY(swin_weights_load_from(&w, &info->config, ck, &load));
    const swin_status st = swin_weights_sha256(&info->config, &w, info->sha);
    swin_weights_free(&w);
    return st;
}

static void print_tensors(const swin_ckpt *ck)
{
    for (size_t i = 0; i < swin_ckpt_count(ck); i++) {
        const swin_ckpt_tensor *t = swin_ckpt_at(ck, i);
        printf("  %-60s %-9s [", t->key, swin_dtype_name(t->dtype));
        for (int d = 0; d < t->ndim; d++) printf("%s%" PRId64, d ? ", " : "", t->shape[d]);
        printf("]\n");
    }
}

/* The network as far as its tensors tell; without a window, which official files it could be of. */
static void print_network(const checkpoint_info *info)
{
    const swin_config *c = &info->config;
    const char *names[MOST_CONFIGS];
    const char *version = c->family == SWIN_V2 ? "V2" : "V1", *variant = swin_config_variant(c);
    if (info->fits)
        printf("  network      %s (Swin %s, %s), image %d, window %d, ", c->name, version, variant,
               c->image_size, c->window);
    else if (c->num_stages > 0 && !c->window)
        printf("  network      Swin %s, %s, ", version, variant);
    else
        return;
    if (info->headless)
        printf("no head\n");
    else
        printf("%d classes\n", c->num_classes);
    const int n = info->headless ? 0 : swin_config_official(c, names, MOST_CONFIGS);
    for (int i = 0; i < n; i++)
        printf("  %s       configs/%s.yaml%s\n", i ? "      " : "--cfg ", names[i],
               i == 0 && info->fits ? " (may be left out)" : "");
    if (!n && info->fits)
        printf(
            "  --cfg        may be left out: the tensors determine the network, and where they hold no mask "
            "%d is the smallest image for its windows\n",
            c->image_size);
}

static void print_checkpoint(const checkpoint_info *info, const swin_ckpt *ck, const char *path, bool list)
{
    const char *wrapper = swin_ckpt_wrapper(ck);
    printf("%s: checkpoint\n", path);
    printf("  container    %s\n  wrapper      %s\n", swin_ckpt_container(ck), *wrapper ? wrapper : "none");
    if (info->config.num_stages)
        printf("  names        %s (%s)\n", swin_keys_source(&info->keys), swin_keys_help(&info->keys));
    printf("  tensors      %" PRIu64 " (%" PRIu64 " of them buffers):", info->tensors, info->buffers);
    for (int d = 0; d <= SWIN_S64; d++)
        if (info->by_dtype[d]) printf(" %" PRIu64 " %s", info->by_dtype[d], swin_dtype_name((swin_dtype)d));
    printf("\n  parameters   %" PRIu64 "\n", info->floats);
    print_network(info);
    if (info->fits)
        printf("  checkpoint_sha256  %s\n", info->sha);
    else
        printf("  unknown      %s\n", info->why_not);
    if (list) print_tensors(ck);
}

static json_t *configs_json(const checkpoint_info *info)
{
    const char *names[MOST_CONFIGS];
    json_t *list = json_array();
    const int n = info->headless || !info->config.num_stages
                      ? 0
                      : swin_config_official(&info->config, names, MOST_CONFIGS);
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(names[i]));
    return list;
}

static json_t *checkpoint_json(const checkpoint_info *info, const swin_ckpt *ck, const char *path)
{
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:{}}", "file", path, "kind", "checkpoint",
                          "container", swin_ckpt_container(ck), "wrapper", swin_ckpt_wrapper(ck), "tensors",
                          (json_int_t)info->tensors, "buffers", (json_int_t)info->buffers, "parameters",
                          (json_int_t)info->floats, "dtypes");
    for (int d = 0; j && d <= SWIN_S64; d++)
        if (info->by_dtype[d])
            json_object_set_new(json_object_get(j, "dtypes"), swin_dtype_name((swin_dtype)d),
                                json_integer((json_int_t)info->by_dtype[d]));
    if (!j) return j;
    if (info->config.num_stages) json_object_set_new(j, "names", json_string(swin_keys_source(&info->keys)));
    json_object_set_new(j, "configs", configs_json(info));
    if (!info->fits) return j;
    const swin_config *c = &info->config;
    json_object_set_new(j, "checkpoint_sha256", json_string(info->sha));
    json_object_set_new(j, "model",
                        json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i}", "name", c->name, "family",
                                  c->family == SWIN_V2 ? "swinv2" : "swin", "variant", swin_config_variant(c),
                                  "image_size", c->image_size, "window", c->window, "embed_dim", c->embed_dim,
                                  "num_classes", info->headless ? 0 : c->num_classes));
    return j;
}

static swin_status show_checkpoint(options *o, const char *path)
{
    swin_ckpt *ck;
    SWIN_TRY(swin_ckpt_open(&ck, path));
    checkpoint_info info = { .keys = swin_keys_of(ck) };
    count_tensors(&info, ck);
    info.headless = swin_keys_find(&info.keys, "patch_embed.proj.weight").count > 0 &&
                    !swin_keys_find(&info.keys, "head.weight").count;
    swin_status st = fit(&info, o, ck);
    info.fits = st == SWIN_OK;
    /* Without a configuration asked for, a file that is no Swin is still a file that can be described. */
    if (st == SWIN_ERR_MISMATCH && !o->common.cfg && !o->common.opts.count) {
        snprintf(info.why_not, sizeof info.why_not, "%s", swin_error_message());
        st = SWIN_OK;
    }
    if (st == SWIN_OK && o->common.json)
        st = print_json(o, checkpoint_json(&info, ck, path));
    else if (st == SWIN_OK)
        print_checkpoint(&info, ck, path, o->common.verbose);
    swin_ckpt_close(ck);
    return st;
}

/* ---- calibration files ---- */

static void print_histograms(const swin_calib_file *f)
{
    uint64_t nonfinite = 0, elements = 0;
    int kept = 0, least = 0, most = 0;
    double narrow = 0, wide = 0;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *s = &f->sites[i];
        nonfinite += s->nonfinite;
        if (!s->hist) continue;
        for (int b = 0; b < s->bins; b++) elements += s->hist[b];
        if (!kept || s->bins < least) least = s->bins;
        if (!kept || s->bins > most) most = s->bins;
        if (!kept || s->bin_width < narrow) narrow = s->bin_width;
        if (!kept || s->bin_width > wide) wide = s->bin_width;
        kept++;
    }
    printf("%d histograms (%s): %d to %d bins of width %g to %g, %" PRIu64 " elements; %" PRIu64
           " non-finite\n",
           kept, f->histogram, least, most, narrow, wide, elements, nonfinite);
}

/* What the table below has no column for. */
static void print_own_numbers(const swin_calib_file *f)
{
    int factors = 0, heads = 0, channels = 0;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *r = &f->sites[i];
        const bool own = r->channel_scale && swin_calib_file_has_heads(f, r->site);
        factors += r->factor != NULL;
        heads += own;
        channels += r->channel_scale && !own;
    }
    if (factors + heads + channels > 0)
        printf("  corrections        sites with factors %d, scales of heads %d, scales of channels %d\n",
               factors, heads, channels);
}

static swin_status show_calibration(options *o, const char *path)
{
    swin_calib_file f;
    SWIN_TRY(swin_calib_file_read(&f, path, true));
    swin_status st = SWIN_OK;
    if (o->common.json) {
        separate(o);
        st = swin_calib_print_json(stdout, &f);
    } else {
        printf("%s: calibration file, schema %d at most, by %s on %s\n", path, SWIN_CALIB_SCHEMA, f.tool,
               f.engine);
        printf("  model              %s, image %d, %d classes\n", f.config.name, f.config.image_size,
               f.config.num_classes);
        printf("  checkpoint_sha256  %s\n  image_list_sha256  %s\n", f.checkpoint_sha256,
               f.image_list_sha256);
        printf("  preprocess         %s\n  calibrator         %s (percentile %g)\n", f.preprocess,
               f.calibrator, f.percentile);
        printf("  recover            %s\n  weights            %d modules\n", f.recover, f.nweights);
        print_own_numbers(&f);
        swin_calib_print_table(stdout, &f);
        print_histograms(&f);
    }
    swin_calib_file_free(&f);
    return st;
}

/* ---- data sets ---- */

/* One split: images, classes, and how evenly they are spread. */
static swin_status describe_split(json_t **j, const char *path, const char *split)
{
    swin_dataset *ds;
    SWIN_TRY(swin_dataset_open(&ds, path, split));
    const size_t n = swin_dataset_count(ds);
    const int classes = swin_dataset_classes(ds);
    size_t *per_class = calloc((size_t)classes + 1, sizeof *per_class), least = SIZE_MAX, most = 0;
    swin_status st = per_class ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    if (st == SWIN_OK) {
        for (size_t i = 0; i < n; i++) per_class[swin_dataset_label(ds, i)]++;
        for (int c = 0; c < classes; c++) {
            if (per_class[c] < least) least = per_class[c];
            if (per_class[c] > most) most = per_class[c];
        }
        *j = json_pack("{s:s, s:s, s:I, s:i, s:I, s:I, s:s, s:s}", "split", split, "source",
                       swin_dataset_kind(ds), "images", (json_int_t)n, "classes", classes, "fewest_per_class",
                       (json_int_t)least, "most_per_class", (json_int_t)most, "first",
                       swin_dataset_name(ds, 0), "last", swin_dataset_name(ds, n - 1));
        if (!*j) st = swin_fail(SWIN_ERR_FORMAT, "%s: a file name is not UTF-8", path);
    }
    free(per_class);
    swin_dataset_close(ds);
    return st;
}

/* Whether path/split or path/split.zip is there; a path that has neither is itself a split. */
static bool has_split(const char *path, const char *split)
{
    char *folder = swin_format("%s/%s", path, split), *zip = swin_format("%s/%s.zip", path, split);
    const bool there = folder && zip && (swin_is_dir(folder) || swin_is_file(zip));
    free(folder);
    free(zip);
    return there;
}

static long long number(const json_t *j, const char *key)
{
    return json_integer_value(json_object_get(j, key));
}

static const char *word(const json_t *j, const char *key)
{
    return json_string_value(json_object_get(j, key));
}

static void print_split(const json_t *j)
{
    printf("  %-6s %lld images in %lld classes (%lld to %lld each), %s; %s ... %s\n", word(j, "split"),
           number(j, "images"), number(j, "classes"), number(j, "fewest_per_class"),
           number(j, "most_per_class"), word(j, "source"), word(j, "first"), word(j, "last"));
}

static swin_status show_dataset(options *o, const char *path)
{
    static const char *const splits[] = { "train", "val" };
    json_t *found = json_array();
    swin_status st = found ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    const bool whole = has_split(path, "train") || has_split(path, "val");
    for (size_t i = 0; st == SWIN_OK && i < SWIN_COUNT(splits); i++) {
        if (whole ? !has_split(path, splits[i]) : i == 0) continue; /* a split by itself: opened once */
        json_t *j = NULL;
        st = describe_split(&j, path, splits[i]);
        if (j && json_array_append_new(found, j) != 0) st = swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    }
    if (st == SWIN_OK && o->common.json) {
        st = print_json(o, json_pack("{s:s, s:s, s:O}", "file", path, "kind", "data set", "splits", found));
    } else if (st == SWIN_OK) {
        printf("%s: data set\n", path);
        for (size_t i = 0; i < json_array_size(found); i++) print_split(json_array_get(found, i));
    }
    json_decref(found);
    return st;
}

/* ---- */

static swin_status show(options *o, const char *path)
{
    static const unsigned char hdf5[8] = { 0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n' };
    const size_t n = strlen(path);
    if (swin_is_dir(path) || (n > 4 && strcmp(path + n - 4, ".zip") == 0)) return show_dataset(o, path);
    swin_map m;
    SWIN_TRY(swin_map_open(&m, path));
    const bool calibration = m.size >= sizeof hdf5 && memcmp(m.data, hdf5, sizeof hdf5) == 0;
    swin_map_close(&m);
    return calibration ? show_calibration(o, path) : show_checkpoint(o, path);
}

int main(int argc, char **argv)
{
    options o = { .common = SWIN_COMMON_DEFAULTS };
    const char **files = NULL;
    int count = 0, code = 0;
    swin_status st = swin_fields_parse(&program, &o, argc, argv, &files, &count);
    if (st == SWIN_OK && count == 0) st = swin_fail(SWIN_ERR_USAGE, "no FILE given; see swin-info --help");
    if (st != SWIN_OK) return swin_report(st);
    swin_common_apply(&o.common);
    if (o.common.json) printf("[\n");
    for (int i = 0; i < count; i++) { /* what one file lacks does not keep the others from being shown */
        st = show(&o, files[i]);
        if (st != SWIN_OK) code = swin_report(st);
    }
    if (o.common.json) printf("]\n");
    free(files);
    if (fflush(stdout) != 0 || ferror(stdout))
        code = swin_report(swin_fail(SWIN_ERR_IO, "standard output: cannot write"));
    return code;
}
