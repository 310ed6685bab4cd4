/* runtime/base/status.h - errors as values.
 *
 * A function that can fail returns a swin_status. The one that finds the fault says it in words with swin_fail(), which
 * keeps the message for its thread; callers pass the code up with SWIN_TRY. Only main_*.c print and exit.
 */
#ifndef SWIN_BASE_STATUS_H
#define SWIN_BASE_STATUS_H

typedef enum swin_status {
    SWIN_OK = 0,
    SWIN_ERR_USAGE,       /* a flag or argument is wrong: exit 2 */
    SWIN_ERR_IO,          /* a file cannot be opened, read or written */
    SWIN_ERR_FORMAT,      /* a file's content is not what its kind demands */
    SWIN_ERR_MISMATCH,    /* two inputs do not belong together: checkpoint and config, file and model */
    SWIN_ERR_VALUE,       /* a number that cannot be used: zero amax, NaN */
    SWIN_ERR_MEM,         /* out of memory, host or device */
    SWIN_ERR_DEVICE,      /* the GPU, its driver or its libraries failed or are absent */
    SWIN_ERR_UNSUPPORTED, /* understood, but not offered here */
    SWIN_ERR_LIMIT,       /* a limit that the user set was missed: exit 3 */
    SWIN_ERR_INTERRUPTED  /* Ctrl-C: exit 130 */
} swin_status;

/* Store a printf-style message for this thread and return st. The message should name the file, flag, tensor or site. */
swin_status swin_fail(swin_status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As swin_fail, but puts the new words and ": " before the message that is already there. */
swin_status swin_fail_context(swin_status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Both return the st that they were given; said here so that the compiler knows it too. st is evaluated twice. */
static inline swin_status swin_status_second(swin_status stored, swin_status st)
{
    (void)stored;
    return st;
}
#define swin_fail(st, ...)         swin_status_second((swin_fail)((st), __VA_ARGS__), (st))
#define swin_fail_context(st, ...) swin_status_second((swin_fail_context)((st), __VA_ARGS__), (st))

/* This thread's last message; "" if none. Valid until the thread's next swin_fail. */
const char *swin_error_message(void);

/* Print the message of a failed run to stderr and return the program's exit code: 0, 1, 2, 3 or 130. */
int swin_report(swin_status st);

/* The exit code alone. */
int swin_exit_code(swin_status st);

#define SWIN_TRY(call)                                                                                       \
    do {                                                                                                     \
        const swin_status try_status_ = (call);                                                              \
        if (try_status_ != SWIN_OK) return try_status_;                                                      \
    } while (0)

/* The same inside a function that cleans up at a label: sets st and jumps. */
#define SWIN_TRY_GOTO(st, call, label)                                                                       \
    do {                                                                                                     \
        (st) = (call);                                                                                       \
        if ((st) != SWIN_OK) goto label;                                                                     \
    } while (0)

#define SWIN_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
