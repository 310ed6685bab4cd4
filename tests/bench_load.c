/* How long a checkpoint takes from the warm page cache to float32 weights and their hash, and how much memory.
 *
 * usage: bench_load [CONFIG CHECKPOINT [LIMIT_MS]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/testing.h"

#define LIMIT_MS "300" /* what a Swin-T's .pth is held to */

int main(int argc, char **argv)
{
    const char *config = argc > 2 ? argv[1] : SWIN_SOURCE_DIR "/configs/swin_tiny_patch4_window7_224.yaml";
    const char *path = argc > 2 ? argv[2]
                                : swin_test_file("weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    const double limit = strtod(argc > 3 ? argv[3] : LIMIT_MS, NULL);
    double best = 1e30, best_load = 0;
    if (!path) {
        printf("skipped: no checkpoint given and no test data\n");
        return 0;
    }
    swin_log_set(SWIN_LOG_QUIET);
    for (int run = 0; run < 7; run++) { /* the first one warms the cache */
        swin_config c;
        swin_weights w;
        char sha[SWIN_SHA256_HEX];
        const double start = swin_now();
        swin_status st = swin_config_load(&c, config, NULL);
        if (st == SWIN_OK) st = swin_weights_load(&w, &c, path);
        const double loaded = swin_now();
        if (st == SWIN_OK) st = swin_weights_sha256(&c, &w, sha);
        const double end = swin_now();
        if (st != SWIN_OK) return swin_report(st);
        if (end - start < best) best = end - start, best_load = loaded - start;
        swin_weights_free(&w);
    }
    struct rusage used;
    struct stat file;
    getrusage(RUSAGE_SELF, &used);
    printf("%s: %.1f ms (weights %.1f, sha256 %.1f), best of 7; limit %.0f ms: ratio %.2f\n", path,
           1e3 * best, 1e3 * best_load, 1e3 * (best - best_load), limit, 1e3 * best / limit);
    if (stat(path, &file) == 0)
        printf("resident at most %.0f MB, %.2f times the file (pages of the mapped file among them)\n",
               (double)used.ru_maxrss * 1024e-6, (double)used.ru_maxrss * 1024 / (double)file.st_size);
    return 0;
}
