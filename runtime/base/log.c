#include "runtime/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static swin_log_level level = SWIN_LOG_NORMAL;
static bool bar_on_line; /* a live bar must be wiped before a line is printed */

void swin_log_set(swin_log_level l)
{
    level = l;
}

swin_log_level swin_log_get(void)
{
    return level;
}

static void line(const char *prefix, const char *fmt, va_list args)
{
    if (bar_on_line) fputs("\r\033[K", stderr);
    bar_on_line = false;
    fputs(prefix, stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
}

#define DEFINE_LOGGER(name, prefix, condition)                                                               \
    void name(const char *fmt, ...)                                                                          \
    {                                                                                                        \
        if (!(condition)) return;                                                                            \
        va_list args;                                                                                        \
        va_start(args, fmt);                                                                                 \
        line(prefix, fmt, args);                                                                             \
        va_end(args);                                                                                        \
    }

DEFINE_LOGGER(swin_warn, "warning: ", true)
DEFINE_LOGGER(swin_note, "", level >= SWIN_LOG_NORMAL)
DEFINE_LOGGER(swin_detail, "", level >= SWIN_LOG_VERBOSE)

double swin_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show(swin_progress *p, double now)
{
    const double spent = now - p->start, rate = spent > 0 ? (double)p->done / spent : 0;
    const double left = rate > 0 ? (double)(p->total - p->done) / rate : 0;
    enum { WIDTH = 28 };
    char bar[WIDTH + 1];
    const size_t filled = p->total ? p->done * WIDTH / p->total : 0;
    for (size_t i = 0; i < WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[WIDTH] = 0;
    if (p->live) {
        fprintf(stderr, "\r\033[K%s [%s] %zu/%zu %s, %.1f/s, %.0f s left", p->what, bar, p->done, p->total,
                p->unit, rate, left);
        fflush(stderr);
        bar_on_line = true;
    } else {
        fprintf(stderr, "%s: %zu of %zu %s, %.1f/s, %.0f s left\n", p->what, p->done, p->total, p->unit, rate,
                left);
    }
    p->shown = now;
}

void swin_progress_begin(swin_progress *p, const char *what, const char *unit, size_t total)
{
    const double now = swin_now();
    *p = (swin_progress){ .what = what, .unit = unit, .total = total, .start = now, .shown = now };
    p->live = isatty(STDERR_FILENO);
}

void swin_progress_add(swin_progress *p, size_t n)
{
    p->done += n;
    if (p->done > p->total) p->total = p->done;
    const double now = swin_now();
    if (level >= SWIN_LOG_NORMAL && now - p->shown >= (p->live ? 0.1 : 10.0)) show(p, now);
}

void swin_progress_end(swin_progress *p)
{
    if (level < SWIN_LOG_NORMAL) return;
    if (bar_on_line) fputs("\r\033[K", stderr);
    bar_on_line = false;
    const double spent = swin_now() - p->start;
    fprintf(stderr, "%s: %zu %s in %.2f s, %.1f/s\n", p->what, p->done, p->unit, spent,
            spent > 0 ? (double)p->done / spent : 0.0);
}
