/* Logits of images given as raw numbers, for comparing with other libraries (tests/peers/check_families.py).
 *
 * usage: tool_logits CHECKPOINT IMAGES.f32 LOGITS.f32 [CFG.yaml|- [BACKEND [PRECISION [KEY VALUE...]]]]
 * IMAGES.f32 holds normalised float32 [n][3][S][S]; without a CFG the checkpoint says what network it is. Prints one line:
 * model's name, image size, classes, checkpoint_sha256.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/net.h"
#include "runtime/swin/session.h"

static swin_dtype dtype_of(const char *name)
{
    return strcmp(name, "fp16") == 0 ? SWIN_F16 : strcmp(name, "bf16") == 0 ? SWIN_BF16 : SWIN_F32;
}

static swin_status run(const swin_session *s, const char *precision, const char *in, const char *out)
{
    const swin_config *c = &s->config;
    const size_t pixels = 3 * (size_t)c->image_size * (size_t)c->image_size;
    swin_map m;
    swin_net *net = NULL;
    SWIN_TRY(swin_map_open(&m, in));
    const size_t n = m.size / (pixels * sizeof(float)), floats = n * (size_t)c->num_classes;
    float *logits = calloc(floats + 1, sizeof *logits);
    swin_status st = SWIN_ERR_VALUE;
    if (!logits || !n || m.size % (pixels * sizeof(float))) {
        swin_fail(st, "%s: no images of %d x %d", in, c->image_size, c->image_size);
        goto done;
    }
    SWIN_TRY_GOTO(
        st, swin_net_create(&net, s->dev, c, &s->weights, &(swin_net_opts){ .dtype = dtype_of(precision) }),
        done);
    SWIN_TRY_GOTO(st, swin_net_forward(net, (const float *)m.data, (int)n, logits, NULL), done);
    st = swin_write_file(out, logits, floats * sizeof *logits);
    if (st == SWIN_OK) printf("%s %d %d %s\n", c->name, c->image_size, c->num_classes, s->sha256);
done:
    free(logits);
    swin_net_free(net);
    swin_map_close(&m);
    return st;
}

int main(int argc, char **argv)
{
    if (argc < 4 || (argc > 7 && argc % 2 == 0)) {
        fprintf(
            stderr,
            "usage: %s CHECKPOINT IMAGES.f32 LOGITS.f32 [CFG.yaml|- [BACKEND [PRECISION [KEY VALUE...]]]]\n",
            argv[0]);
        return 2;
    }
    swin_common common = { .backend = argc > 5 ? argv[5] : "cpu", .resume = argv[1] };
    if (argc > 4 && strcmp(argv[4], "-") != 0) common.cfg = argv[4];
    if (argc > 7) common.opts = (swin_pairs){ (argc - 7) / 2, (const char **)&argv[7] };
    swin_session s;
    swin_status st = swin_session_open(&s, &common, true);
    if (st != SWIN_OK) return swin_report(st);
    st = run(&s, argc > 6 ? argv[6] : "fp32", argv[2], argv[3]);
    swin_session_close(&s);
    return swin_report(st);
}
