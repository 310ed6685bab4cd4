#include "runtime/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_MAX 16384 /* long enough to list every mismatched tensor of a large model */

static _Thread_local char message[MESSAGE_MAX];

swin_status(swin_fail)(swin_status st, const char *fmt, ...)
{
    char text[MESSAGE_MAX]; /* an argument may be the old message itself */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(message, text, sizeof message);
    return st;
}

swin_status(swin_fail_context)(swin_status st, const char *fmt, ...)
{
    char text[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    strncat(text, ": ", sizeof text - strlen(text) - 1);
    strncat(text, message, sizeof text - strlen(text) - 1);
    memcpy(message, text, sizeof message);
    return st;
}

const char *swin_error_message(void)
{
    return message;
}

int swin_exit_code(swin_status st)
{
    switch (st) {
    case SWIN_OK:
        return 0;
    case SWIN_ERR_USAGE:
        return 2;
    case SWIN_ERR_LIMIT:
        return 3;
    case SWIN_ERR_INTERRUPTED:
        return 130;
    default:
        return 1;
    }
}

int swin_report(swin_status st)
{
    if (st != SWIN_OK) fprintf(stderr, "error: %s\n", message[0] ? message : "failed without a message");
    return swin_exit_code(st);
}
