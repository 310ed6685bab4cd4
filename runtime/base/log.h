/* runtime/base/log.h - what goes to stderr: notes, warnings, progress. Results go to stdout, through printf. */
#ifndef SWIN_BASE_LOG_H
#define SWIN_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

typedef enum swin_log_level { SWIN_LOG_QUIET, SWIN_LOG_NORMAL, SWIN_LOG_VERBOSE } swin_log_level;

void swin_log_set(swin_log_level level);
swin_log_level swin_log_get(void);

/* A warning is shown even with --quiet; a note is not; a detail only with --verbose. A newline is added. */
void swin_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void swin_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void swin_detail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Progress over a known number of items: a live bar with rate and time left on a terminal, a plain line now and then
 * elsewhere, nothing with --quiet. */
typedef struct swin_progress {
    const char *what, *unit; /* "calibrating", "images" */
    size_t total, done;
    double start, shown; /* seconds */
    bool live;
} swin_progress;

void swin_progress_begin(swin_progress *p, const char *what, const char *unit, size_t total);
void swin_progress_add(swin_progress *p, size_t n);
void swin_progress_end(swin_progress *p);

/* Monotonic seconds. */
double swin_now(void);

#endif
